"""
From a call to what identifies it: who and how is hashed, what is asked is compared.

The canonical form that is hashed, byte by byte: each value is one ASCII tag, the length of
its body in decimal, a colon, and the body. Length before body makes the form unambiguous:
no two different values share their bytes.

=====  ==========================================================================
tag    body
=====  ==========================================================================
``n``  ``None``: empty
``b``  ``bool``: ``1`` or ``0``
``i``  ``int``: hexadecimal
``f``  ``float``: ``repr``, with ``-0.0`` as ``0.0`` and every NaN as ``nan``
``s``  ``str``: UTF-8 (lone surrogates kept by ``surrogatepass``)
``y``  ``bytes``: as they are
``l``  ``list``, ``t`` ``tuple``: the items' forms, in order
``d``  mapping: the items' forms, key then value, sorted by the key's form
``e``  set or frozenset: the items' forms, sorted
``x``  a value of a named class (enum, dataclass, date, pydantic model, ...): the class's
       form, then that of its plain content
``c``  a class: module, colon and qualified name
``P``  the prompt itself, where it was picked out of an argument: empty
=====  ==========================================================================
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from hashlib import blake2b
from typing import Any

from mneme._core.freshness import Limits
from mneme.records import Key, MissReason, Partition
from mneme.types import Codec, Normalizer, Rewrite

__all__ = [
    "Ask",
    "Counts",
    "NoStableForm",
    "Unaskable",
    "canonical",
    "check_namespace",
    "check_prompt",
    "digest",
    "key_of",
    "normalize",
    "partition_of",
]

MAX_DEPTH = 64
MAX_NAMESPACE_BYTES = 1_024


class Unaskable(ValueError):
    """A prompt that the cache will not take; `cache.get` raises it, a decorator calls through."""

    reason: MissReason = "uncacheable"
    namespace: str | None = None
    """Where it was asked, once that is known."""


class NoStableForm(TypeError):
    """A value that would have another form in the next process; ``path`` leads to it."""

    def __init__(self, value: object, path: str) -> None:
        super().__init__(f"{path or 'value'} ({type(value).__qualname__}) has no stable form")
        self.path = path


class Counts:
    """Hits and misses of one decorated function; `Tally` adds to them under its lock."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Rewriting:
    """
    How a follow-up may become a question that stands alone: ``rewrite(messages)`` words it,
    and ``ask(text)`` asks it outside its conversation (None: it is no question there).
    """

    rewrite: Rewrite
    messages: Any
    ask: Callable[[str], Ask | None]


class Ask:
    """
    One question: where it belongs, what it says, how its answer is read.

    A plain slotted class, not a frozen dataclass: one is built per call, and the digest of the
    prompt is only worth its microseconds when the raw prompt was not found.
    """

    __slots__ = ("_key", "codec", "counts", "judge", "limits", "namespace", "normalize",
                 "partition", "prompt", "rewriting", "semantic", "threshold")  # fmt: skip

    def __init__(
        self,
        namespace: str,
        partition: Partition,
        prompt: str,
        codec: Codec,
        normalize: Normalizer,
        threshold: float | None = None,
        semantic: bool = True,
        counts: Counts | None = None,
        judge: Any = None,
    ) -> None:
        self.judge = judge
        self.rewriting: Rewriting | None = None
        self.limits: Limits | None = None
        self.namespace = namespace
        self.partition = partition
        self.prompt = prompt
        self.codec = codec
        self.normalize = normalize
        self.threshold = threshold
        self.semantic = semantic
        self.counts = counts
        self._key: Key | None = None

    @property
    def key(self) -> Key:
        if self._key is None:
            self._key = key_of(self.normalize(self.prompt))
        return self._key

    @property
    def spoken(self) -> str:
        """What is embedded: where spacing does not matter, it must not move the vector."""
        return " ".join(self.prompt.split()) if self.normalize is normalize else self.prompt

    @property
    def identity(self) -> tuple[Partition, Key]:
        return self.partition, self.key

    def __repr__(self) -> str:
        return f"Ask({self.prompt!r}, namespace={self.namespace!r})"


def normalize(prompt: str) -> str:
    """
    The prompt without what never changes its meaning: case, spacing, final punctuation.

    ``5!`` and ``n!`` keep their mark: there it is arithmetic.
    """
    text = prompt if prompt.isascii() else unicodedata.normalize("NFC", prompt)
    text = " ".join(text.split()).casefold()
    bare = text.rstrip(".?…。？ ")
    if bare.endswith(("!", "！")):
        calm = bare.rstrip("!！.?…。？ ")
        if len(calm) > 1 and calm[-1].isalpha() and calm[-2].isalpha():
            bare = calm
    return bare or text


def key_of(normalized: str) -> Key:
    """The digest (BLAKE2b, 16 bytes) by which the exact layer knows a normalized prompt."""
    return Key(digest(normalized.encode("utf-8", "surrogatepass")))


def digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def check_prompt(prompt: object, max_bytes: int) -> str:
    """
    The prompt, once it is known to be text with something in it and of a size to keep.

    Raises:
        TypeError: not text.
        Unaskable: (a `ValueError`) blank, over `max_bytes` in UTF-8, or not encodable.
    """
    if not isinstance(prompt, str):
        raise TypeError(
            f"the prompt must be text, got {type(prompt).__name__}. "
            "Pass a str, or pick the text out with `prompt=`."
        )
    if len(prompt) * 4 > max_bytes or not prompt.isascii():
        try:
            size = len(prompt.encode())
        except UnicodeEncodeError as exc:
            raise Unaskable(
                "the prompt holds half of a surrogate pair, which is not text. "
                "Nothing was stored. Decode it with errors='replace' first."
            ) from exc
        if size > max_bytes:
            raise Unaskable(
                f"the prompt has {size:,} bytes, the limit is {max_bytes:,}. "
                "Nothing was looked up or stored. Shorten it or raise max_query_bytes."
            )
    if not prompt or prompt.isspace():
        raise Unaskable("the prompt is blank. Nothing was looked up or stored. Ask something.")
    return prompt


def check_namespace(name: object) -> str:
    """
    The namespace's name.

    Raises:
        TypeError: not text.
        ValueError: empty, over 1,024 bytes, with a NUL, or not encodable.
    """
    if not isinstance(name, str):
        raise TypeError(f"a namespace is text, got {type(name).__name__}. Pass a str.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_NAMESPACE_BYTES or "\0" in name:
        raise ValueError(
            f"{name[:40]!r} is no name for a namespace. "
            f"Use 1 to {MAX_NAMESPACE_BYTES:,} bytes of text without NUL."
        )
    return name


def partition_of(
    namespace: str, *parts: object, names: Sequence[str] = (), prompt: str | None = None
) -> Partition:
    """
    The digest of everything but the question: the forms of `namespace` and `parts` in a row.

    `prompt` is left out of `parts` wherever a text in them equals it. `names` are what
    messages call the last parts.

    Raises:
        NoStableForm: (a `TypeError`) naming the part that would differ in another process.
    """
    called = ("",) * (len(parts) - len(names)) + tuple(names)
    forms = [canonical(namespace)]
    forms += [canonical(p, without=prompt, path=n) for p, n in zip(parts, called, strict=True)]
    return Partition(digest(b"".join(forms)))


def canonical(value: object, *, without: str | None = None, path: str = "") -> bytes:
    """
    The form of `value` that the module's docstring describes.

    Raises:
        NoStableForm: (a `TypeError`) for an object whose form would not outlive the process.
    """
    return _form(value, without, path, 0)


def _form(value: object, without: str | None, path: str, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise NoStableForm(value, path)
    kind = type(value)
    if kind is str:
        assert isinstance(value, str)
        if without is not None and value == without:
            return _framed(b"P", b"")
        return _framed(b"s", value.encode("utf-8", "surrogatepass"))
    if (plain := _PLAIN.get(kind)) is not None:
        return plain(value)

    def inner(item: object, step: str) -> bytes:
        return _form(item, without, path + step, depth + 1)

    if kind is list or kind is tuple:
        assert isinstance(value, Sequence)
        items = b"".join([inner(item, f"[{at}]") for at, item in enumerate(value)])
        return _framed(b"l" if kind is list else b"t", items)
    if isinstance(value, type):
        return _framed(b"c", f"{value.__module__}:{value.__qualname__}".encode())
    if (named := _content(value)) is not None:
        is_named = isinstance(value, (enum.Enum, *_BY_TEXT))
        content = _form(named[0], None if is_named else without, path, depth + 1)
        return _framed(b"x", _form(kind, None, path, depth + 1) + content)
    if isinstance(value, Mapping):
        # A prompt is picked from among values; a name that reads alike is still a name.
        pairs = sorted(
            (_form(k, None, f"{path}.{k}", depth + 1), inner(v, f"[{k!r}]"))
            for k, v in value.items()
        )
        return _framed(b"d", b"".join(k + v for k, v in pairs))
    if isinstance(value, Set):
        return _framed(b"e", b"".join(sorted(inner(item, "{}") for item in value)))
    raise NoStableForm(value, path)


def _framed(tag: bytes, body: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(body), body)


def _float(value: Any) -> bytes:
    return _framed(b"f", b"nan" if value != value else repr(value + 0.0).encode())


_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"n0:",
    bool: lambda value: _framed(b"b", b"1" if value else b"0"),
    # Not decimal: Python refuses to print very long numbers.
    int: lambda value: _framed(b"i", b"%x" % value),
    float: _float,
    bytes: lambda value: _framed(b"y", value),
}

_BY_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction,
            uuid.UUID, pathlib.PurePath, range, complex)  # fmt: skip


_EXACT: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    bytes: bytes.__bytes__,
    int: int.__int__,
    float: float.__float__,
}
"""Subclasses to their plain content, past what they print: secrets may print alike."""


def _content(value: Any) -> tuple[object] | None:
    """The plain content of a value of a named class, in a 1-tuple; ``None`` for other values."""
    if callable(own := getattr(value, "__mneme_key__", None)):
        return (own(),)
    if isinstance(value, enum.Enum):
        # Flags without a known bit have no name.
        return (value.name if value.name is not None else value.value,)
    if isinstance(value, _BY_TEXT):
        return (str(value),)
    for plain, exact in _EXACT.items():
        if isinstance(value, plain):
            return (exact(value),)
    if dataclasses.is_dataclass(value):
        return ({f.name: getattr(value, f.name) for f in dataclasses.fields(value)},)
    # By what the class has: a mock has whatever it is asked for.
    kind = type(value)
    if isinstance(fields := getattr(kind, "model_fields", None), dict):
        # Not its dump: that hides secrets, leaves out fields, and lists sets in any order.
        return ({name: getattr(value, name) for name in fields} | (value.model_extra or {}),)
    if hasattr(kind, "get_secret_value"):
        return (value.get_secret_value(),)
    if hasattr(kind, "unicode_string"):
        return (value.unicode_string(),)
    if isinstance(value, (list, tuple)):
        return (list(value),)
    return None
