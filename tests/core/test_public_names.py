"""Every public name has a use that type checkers see."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mneme
from mneme import decorator, types

USES = Path(__file__).parents[1] / "typing"


def used(source: str) -> set[str]:
    """The names that `source` does more with than import them."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {node.id for node in nodes if isinstance(node, ast.Name)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("api.py", [*mneme.__all__, *(set(decorator.__all__) - {"Decorate"})]),
        ("extending.py", types.__all__),
    ],
)
def test_every_public_name_is_used_where_types_are_checked(page: str, names: list[str]) -> None:
    """A name that users import is in the file that mypy and pyright must accept."""
    assert set(names) - used((USES / page).read_text()) == set()


def test_what_is_exported_exists() -> None:
    """`from mneme import *` works, and its list is sorted for readers."""
    assert [name for name in mneme.__all__ if not hasattr(mneme, name)] == []
    assert sorted(mneme.__all__, key=lambda name: (not name[0].isupper(), name)) == mneme.__all__


def test_what_is_typed_says_so() -> None:
    """The marker by which type checkers trust the package is part of it."""
    assert (Path(mneme.__file__).parent / "py.typed").is_file()


def test_the_uses_are_no_package() -> None:
    """A folder called typing with an ``__init__`` would hide the standard library's."""
    assert not (USES / "__init__.py").exists()
