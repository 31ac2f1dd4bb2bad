"""Imports in mneme point downward, and each third-party library has its one place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.profiles import imports

PACKAGE = Path(__file__).parents[1] / "mneme"

# Names of modules are relative to mneme ("" is mneme itself), and each stands for all under it.

# Layer -> (its modules, the layers below it that it may import). Within a layer all may.
# A module that no layer names fails the test.
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "words": (("records", "types", "errors"), ()),
    "forks": (("_forks",), ()),
    # The strictest layer is the default there, so that a new decider needs no line here.
    "pure": (("_core",), ("words",)),
    "context": (("context",), ("words", "pure")),
    "codecs": (("codecs",), ("words", "pure")),
    "stores": (("stores",), ("words", "forks", "indexes")),
    "checkpoint": (("checkpoint",), ("words", "stores")),
    "guards": (("guards",), ("words", "pure")),
    "indexes": (("indexes",), ("words", "forks")),
    "flights": (("_core.flights",), ("words", "pure", "forks")),
    "relay": (("_core.http.relay", "_core.http.recorded"), ("words", "pure", "flights")),
    "core": (
        (
            "_core.core",
            "_core.engine",
            "_core.questions",
            "_core.growing",
            "_core.housekeeping",
            "_core.keeper",
            "_core.kinds",
            "_core.lean",
            "_core.recalling",
            "_core.tally",
            "_core.live",
            "_core.admission",
            "_core.judge",
            "_core.judges",
            "_core.aliases",
            "_core.filling",
            "_core.sweeping",
            "_core.warming",
        ),
        ("words", "forks", "pure", "context", "codecs", "flights"),
    ),
    "flow": (
        ("_core.flow", "_core.through", "_core.across", "_core.comparing", "_core.requantizing"),
        ("words", "pure", "context", "flights", "core"),
    ),
    "ports": (("_core.ports",), ("words", "forks", "pure", "flights", "core")),
    "embedders": (("embedders",), ("words", "forks", "pure", "ports")),
    "prompts": (("prompts",), ("words", "pure")),
}
LAYERS["calls"] = (
    (
        "_core.calls",
        "_core.http.fetching",
        "_core.http.gateway",
        "_core.http.incoming",
        "_core.http.iterables",
        "_core.http.namespaces",
        "_core.http.questions",
    ),
    tuple(LAYERS),
)
LAYERS["cache"] = (("cache", "_core.face", "_core.archives"), tuple(LAYERS))
# Side by side on the cache, and blind to each other.
LAYERS |= {
    shell: ((shell,), tuple(LAYERS))
    for shell in (
        "asgi",
        "wsgi",
        "transports",
        "calibrate",
        "migrate",
        "dashboard",
        "integrations",
        "testing",
    )
}
LAYERS["decorator"] = (("decorator", "_wrapped"), tuple(LAYERS))
# The command line is the one user that the package has inside itself.
LAYERS["cli"] = (("cli", "__main__"), (*LAYERS, "top"))
LAYERS["top"] = (("",), tuple(LAYERS))

# Stricter than the layers: importer -> modules it may not import although its layer might.
NEVER: dict[str, tuple[str, ...]] = {
    "records": ("types", "errors"),
    "errors": ("types", "records"),
}

EVERYWHERE = ("",)

# Import name -> the modules that may import it. A library that is not named here has no place.
PLACES: dict[str, tuple[str, ...]] = {
    "anyio": ("_core.ports",),
    "flask": ("cli",),
    "httpx": ("cli", "transports"),
    "httpx2": ("transports",),
    "hypothesis": ("testing",),
    "langchain_core": ("integrations.langchain",),
    "matplotlib": ("calibrate.picture",),
    "numpy": EVERYWHERE,
    "opentelemetry": ("integrations.opentelemetry",),
    "prometheus_client": ("integrations.prometheus",),
    "psycopg": (
        "stores.postgres",
        "stores._postgres_pool",
        "stores._postgres_rows",
    ),
    "pydantic": ("codecs",),
    "pytest": ("testing",),
    "redis": ("stores._redis_client",),
    "rich": ("cli", "migrate"),
    "starlette": ("cli", "dashboard"),
    "trio": ("cli",),
    "typer": ("cli",),
    "usearch": ("indexes.hnsw",),
    "uvicorn": ("cli",),
    "wordllama": ("cli",),
    "wrapt": ("_wrapped",),
    # Standard library, and yet in one place: other loops would not work beside it.
    "asyncio": ("_core.ports", "cli"),
}

# Deciding has no clock, no chance, no lock and no I/O.
IMPURE = (
    "logging",
    "os",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
)

# What numpy, wrapt and anyio bring along; Cython registers helpers of its own.
CORE = {"anyio", "exceptiongroup", "idna", "numpy", "sniffio", "typing_extensions", "wrapt"}


def modules() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path.read_text()


SOURCES = dict(modules())


def under(module: str, places: tuple[str, ...]) -> bool:
    return any(not place or f"{module}.".startswith(f"{place}.") for place in places)


def layer_of(module: str) -> str | None:
    """The layer that names `module`, or else the nearest package above it."""
    homes = {
        name: layer
        for layer, (names, _) in LAYERS.items()
        for name in names
        if name == module or (name and under(module, (name,)))
    }
    return homes[max(homes, key=len)] if homes else None


def target(name: str) -> str:
    """The module of mneme that importing the dotted `name` reaches."""
    module = name.removeprefix("mneme").removeprefix(".")
    while module and module not in SOURCES:
        module = module.rpartition(".")[0]
    return module


def violations(module: str, source: str) -> Iterator[str]:
    """What `source` breaks of the tables above when it is the text of `module`."""
    layer = layer_of(module)
    if layer is None:
        yield f"mneme.{module} is in no layer"
        return
    for name in sorted(set(imports(source, everywhere=True))):
        root = name.partition(".")[0]
        if not root:
            yield f"mneme.{module} imports {name}, which is relative"
        elif root == "mneme":
            reached = target(name)
            to = layer_of(reached)
            if to not in (layer, *LAYERS[layer][1]) or under(reached, NEVER.get(module, ())):
                yield f"mneme.{module} ({layer}) imports {name} ({to})"
        elif root in PLACES:
            if not under(module, PLACES[root]):
                yield f"mneme.{module} imports {name}, which only {PLACES[root]} may"
        elif root not in sys.stdlib_module_names:
            yield f"mneme.{module} imports {name}, which has no place"
        elif layer == "pure" and root in IMPURE:
            yield f"mneme.{module} decides, and imports {name}"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downward_and_libraries_keep_their_place(module: str) -> None:
    """No module imports what stands above it, or a library that belongs elsewhere."""
    assert list(violations(module, SOURCES[module])) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("records", "from mneme.cache import SemanticCache"),
        ("errors", "from mneme.records import Hit"),
        ("_core.keys", "import mneme"),
        ("_core.keys", "def f():\n    from mneme.stores import memory"),
        ("_core.keys", "import time"),
        ("_core.ports", "from mneme._core.flow import look"),
        ("indexes.exact", "from mneme.stores import memory"),
        ("asgi", "if TYPE_CHECKING:\n    from mneme.decorator import semantic_cache"),
        ("cache", "import wrapt"),
        ("cache", "import torch"),
        ("cache", "from . import records"),
        ("unheard_of", ""),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    """The rules see through functions, type checking blocks and every form of import."""
    assert len(list(violations(module, source))) == 1


def test_import_mneme_loads_nothing_optional(tmp_path: Path) -> None:
    """`import mneme` loads the standard library, numpy, wrapt, anyio and what those need."""
    script = (
        "import json, sys; before = set(sys.modules); import mneme;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
    )
    known = CORE | {"mneme"} | sys.stdlib_module_names
    strangers = [name for name in json.loads(loaded.stdout) if name not in known]
    assert [name for name in strangers if "cython" not in name] == []
