"""How Sphinx builds these pages; `tox -e docs` does, with every warning an error."""

from importlib.metadata import version as installed

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring

project = "mneme"
author = "The mneme authors"
copyright = author
version = release = installed("mneme-toolkit")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"mneme {release}"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# A default such as time.time has no repr that reads as Python, and its signature would not parse.
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
# Fields and methods of a frozen record need no word beyond their name and type to be shown.
autodoc_default_options = {"members": True, "undoc-members": True}

# The build is offline, so other projects' inventories cannot be asked. Names of mneme itself are
# not excused: a dead reference inside these pages fails the build.
nitpick_ignore_regex = [
    ("py:.*", r"(anyio|collections|contextlib|datetime|enum|numpy|os|pathlib|types|typing)\..+"),
    ("py:.*", r"(httpx2?|langchain_core|opentelemetry|prometheus_client)\..+"),
    # Written as text in signatures, because httpx is not imported when these are documented.
    ("py:.*", r"(Async)?(Extractor|Namespace)|timedelta"),
    # Parts of indexes and stores that these show to nobody but the core and their tests.
    ("py:.*", r"mneme\.indexes\._sketch\.Sketch|mneme\.stores\._cold\.ColdEntries"),
    # What a parameter must have, where a word on the parameter says as much.
    ("py:.*", r"mneme\.(_core\.threshold\.CalibratedThreshold|calibrate\.guarantee\.Named)"),
    # Type variables, which have no page anywhere.
    ("py:.*", r"(mneme[.\w]*\.)?[A-Z](_co)?(\.args|\.kwargs)?"),
]


def with_raises_as_fields(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    # Not the whole extension: it reads a field's "the mark: where it stands" as "type: text".
    if what in ("class", "exception", "function", "method"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj).lines()


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", with_raises_as_fields)
