"""Snippets run, every public name has its page, and the changelog keeps up."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support import engines
from support.profiles import imports
from support.snippets import Snippet, snippets

ROOT = Path(__file__).parents[1]
PAGES = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()
]


def nothing() -> dict[str, object]:
    return {}


def addresses() -> dict[str, object]:
    """Servers that are running."""
    return {"postgres_url": engines.postgres_url(), "redis_url": engines.redis_url()}


# Page -> what its reader is understood to have at hand before the first snippet.
PRESETS: dict[str, Callable[[], dict[str, object]]] = {
    "docs/guides/many-machines.md": addresses,
}

# Run, not imported: what they offer is their commands.
NOT_FOR_IMPORT = {"__main__", "cli"}


def told(page: Path) -> list[Snippet]:
    return list(snippets(page.relative_to(ROOT).as_posix(), page.read_text()))


def pages_with_snippets() -> list[object]:
    return [
        pytest.param(
            found,
            id=found[0].page,
            marks=pytest.mark.needs(*{name for s in found if s.is_run for name in uses(s)}),
        )
        for found in map(told, PAGES)
        if found
    ]


def uses(snippet: Snippet) -> list[str]:
    return list(imports(snippet.code, everywhere=True))


@pytest.mark.parametrize("page", pages_with_snippets())
def test_snippets_of_a_page_run_in_order(
    page: list[Snippet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who pastes a page's snippets one after the other meets no error."""
    # A script of its own, so that decorated functions and dataclasses find their module.
    script = ModuleType("__main__")
    vars(script).update(PRESETS.get(page[0].page, nothing)())
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.chdir(tmp_path)
    for snippet in page:
        code = snippet.compiled()
        if snippet.is_run:
            exec(code, vars(script))


def test_snippets_are_found_as_written() -> None:
    """Order, place, indentation and `notest` of a page's fences are read; other fences are not."""
    page = "```python\na = 1\n```\n- item\n\n  ```python notest\n  b\n  ```\n```sh\nc\n```\n"
    assert list(snippets("p.md", page)) == [
        Snippet("p.md", 2, "a = 1\n", is_run=True),
        Snippet("p.md", 7, "b\n", is_run=False),
    ]


def test_a_misspelt_fence_is_refused() -> None:
    """A word after `python` that means nothing here does not quietly switch a test off."""
    with pytest.raises(ValueError, match=r"p\.md:1: a fence reads 'python' or 'python notest'"):
        list(snippets("p.md", "```python no-test\n1 / 0\n```\n"))


def public_modules() -> dict[str, str]:
    """Dotted path -> source of each module that users import, packages included, `_core` not."""
    found = {}
    for path in sorted((ROOT / "mneme").rglob("*.py")):
        parts = [
            part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"
        ]
        if not any(part in NOT_FOR_IMPORT or part.startswith("_") for part in parts):
            found[".".join(parts)] = path.read_text()
    return found


def public_names(source: str) -> list[str]:
    """What ``__all__`` lists; read, not imported, so that no extra has to be installed."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


PUBLIC = public_modules()


def page_of(module: str) -> Path:
    """The page of a module, which for a module in a package is that of the package."""
    parts = module.split(".")
    return ROOT / "docs" / "api" / f"{parts[1] if len(parts) > 1 else 'mneme'}.md"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_on_the_page_of_its_module(module: str) -> None:
    """Each public module has a page of its name in docs/api that says each public name."""
    page = page_of(module)
    words = set(re.findall(r"\w+", page.read_text()))
    missing = [name for name in public_names(PUBLIC[module]) if name not in words]
    assert not missing, f"{page.relative_to(ROOT)} does not name {', '.join(missing)}"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_module_says_what_is_public(module: str) -> None:
    """A module without `__all__` would have names that no page and no test knows of."""
    is_only_a_docstring = len(ast.parse(PUBLIC[module]).body) <= 1
    assert public_names(PUBLIC[module]) or is_only_a_docstring


def test_the_changelog_speaks_of_this_version() -> None:
    """CHANGELOG.md has a section for what is not released, or for the version that is."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", version)
