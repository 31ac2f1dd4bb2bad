"""The WSGI middleware by hand, with `wsgiref.validate` on both of its sides."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from support.wsgi import (
    ASKED,
    REWORDED,
    ROUTES,
    TEXT,
    Answer,
    Body,
    ByHand,
    Counting,
    bare,
    environ_of,
    mounted,
    read_all,
)

import mneme
from mneme import MemoryStore, SemanticCache
from mneme.prompts import Route, json_field
from mneme.testing import HashEmbedder, ManualClock
from mneme.wsgi import SemanticCacheMiddleware


def test_an_equal_and_a_reworded_request_are_answered_from_the_cache(cache: Any) -> None:
    """The application is asked once, and the layer that answered is told."""
    client = mounted(Counting(), cache)
    first = client.post("/ask", ASKED)
    assert (first.body, first.cache_status) == (b'{"answer": 1}', "mneme; fwd=miss")
    exact, near = client.post("/ask", ASKED), client.post("/ask", REWORDED)
    assert (exact.layer, near.layer, exact.status) == ("exact", "semantic", "200 OK")
    assert exact.body == near.body == first.body
    assert client.get("/find?q=opening+hours").layer is None
    assert client.get("/find?q=opening+hours").layer == "exact"


def test_other_routes_pass_untouched(cache: Any) -> None:
    """The very environ, start_response and iterable pass; other methods are told so."""
    seen: list[Any] = []
    body = [b"x"]

    def app(*call: Any) -> list[bytes]:
        seen.extend(call)
        return body

    environ, start = environ_of("POST", "/other"), object()
    assert SemanticCacheMiddleware(app, cache=cache, routes=ROUTES)(environ, start) is body  # type: ignore[arg-type]
    assert seen[0] is environ
    assert seen[1] is start
    assert mounted(Counting(), cache).request("PUT", "/ask").cache_status == "mneme; fwd=method"


# The request's body


def test_item_25_the_application_reads_the_body_that_was_read(cache: Any) -> None:
    """Input and length are replaced; the environ of those further out stays as it was."""
    app = Counting()
    raw = json.dumps(ASKED).encode()
    environ = environ_of("POST", "/ask", raw)
    list(bare(app, cache).app(environ, lambda *args: print))
    assert app.asked == [raw]
    assert "mneme.cache" not in environ


@pytest.mark.parametrize("length", [None, ""])
def test_item_25_an_input_that_ends_by_itself_is_read_to_its_end(cache: Any, length: Any) -> None:
    """Chunked requests have no length; the application is told of one."""
    app = Counting()
    more = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    client = bare(app, cache)
    for layer in (None, "exact"):
        assert client.post("/ask", ASKED, CONTENT_LENGTH=length, **more).layer == layer
    raw = json.dumps(ASKED).encode()
    assert app.asked == [raw]
    assert app.environs[0]["CONTENT_LENGTH"] == str(len(raw))
    assert "HTTP_TRANSFER_ENCODING" not in app.environs[0]


@pytest.mark.parametrize("is_terminated", [False, True])
def test_item_02_a_body_over_the_cap_passes_byte_for_byte(cache: Any, is_terminated: bool) -> None:
    """Nothing is looked up or stored, however the length is told."""
    more = {"wsgi.input_terminated": True, "CONTENT_LENGTH": None} if is_terminated else {}
    app = Counting()
    raw = json.dumps({"prompt": "long " * 20}).encode()
    for _ in range(2):
        answer = bare(app, cache, max_request_bytes=40).post("/ask", raw, **more)
        assert answer.cache_status == "mneme; fwd=bypass"
    assert app.asked == [raw, raw]
    assert cache.stats().entries == 0


@pytest.mark.parametrize(
    "body",
    [b"no json", b"\xff\xfe\x00", b'{"prompt":"a","prompt":"b"}', b'{"prompt": 5}', b""],
)
def test_bodies_that_are_no_question_pass_byte_for_byte(cache: Any, body: bytes) -> None:
    """What cannot be read goes through as it came, with `fwd=bypass`."""
    app = Counting()
    answer = mounted(app, cache).post("/ask", body)
    assert (app.asked, answer.cache_status) == ([body], "mneme; fwd=bypass")


@pytest.mark.parametrize("length", ["x", "-1", "٣", "9" * 5_000])
def test_item_25_a_length_that_is_none_is_the_applications_affair(cache: Any, length: str) -> None:
    """The input is not touched."""
    stream = io.BytesIO(b"{}")
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.input"])
        start_response("400 Bad Request", [TEXT])
        return [b"what"]

    answer = bare(app, cache).post("/ask", CONTENT_LENGTH=length, **{"wsgi.input": stream})
    assert (seen, answer.cache_status) == ([stream], "mneme; fwd=bypass")


def test_item_25_a_chunked_body_without_an_end_is_not_read(cache: Any) -> None:
    """Servers that do not tell where it ends leave it to the application."""
    stream = io.BytesIO(b"{}")
    more = {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": stream}
    assert bare(Counting(), cache).post("/ask", **more).cache_status == "mneme; fwd=bypass"


def test_item_04_a_body_that_was_cut_off_stays_so(cache: Any) -> None:
    """The application sees less than was announced, as it would have; nothing is looked up."""
    app = Counting()
    client = bare(app, cache)
    answer = client.post("/ask", b'{"prompt": "a"}', CONTENT_LENGTH="40")
    assert (app.asked, app.environs[0]["CONTENT_LENGTH"]) == ([b'{"prompt": "a"}'], "40")
    assert answer.cache_status == "mneme; fwd=bypass"
    assert cache.stats().misses == 0


@pytest.mark.parametrize("told", [{}, {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}])
def test_item_04_a_body_that_fails_while_it_is_read_fails_in_the_application(
    cache: Any, told: dict[str, Any]
) -> None:
    """It gets what has come in, and then the server's own error, with which it may deal."""

    class Broken:
        def __init__(self) -> None:
            self.pieces = [b'{"prompt"', b': "a']

        def read(self, size: int) -> bytes:
            if not self.pieces:
                raise ConnectionResetError("the client has left")
            return self.pieces.pop(0)

    heard: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        heard.append(environ["wsgi.input"].read(9))
        try:
            environ["wsgi.input"].read(9)
        except ConnectionResetError as exc:
            heard.append(str(exc))
        start_response("400 Bad Request", [TEXT])
        return [b"sorry"]

    answer = bare(app, cache).post(
        "/ask", **{"wsgi.input": Broken(), "CONTENT_LENGTH": "40"} | told
    )
    assert heard == [b'{"prompt"', "the client has left"]
    assert (answer.status, answer.cache_status) == ("400 Bad Request", "mneme; fwd=bypass")


# The response's way


def test_item_26_each_chunk_goes_out_before_the_next_is_made(cache: Any) -> None:
    """Lazily, and `start_response` may come with the first step; empty chunks are legal."""
    answer = Answer()
    seen: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        read_all(environ)
        start_response("200 OK", [TEXT])
        for n in range(3):
            seen.append(len(answer.chunks))
            yield b""
            yield b"%d" % n

    client = mounted(app, cache)
    client.post("/ask", ASKED, answer=answer)
    assert seen == [0, 1, 2]
    hit = client.post("/ask", ASKED)
    assert (hit.layer, hit.chunks) == ("exact", [b"0", b"1", b"2"])


def test_item_26_what_is_written_precedes_the_iterable(cache: Any) -> None:
    """`write` passes on at once, and is stored first."""
    answer = Answer()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [TEXT])
        write(b"a")
        assert answer.chunks == [b"a"]
        write(b"b")
        return [b"c"]

    client = mounted(app, cache)
    assert client.post("/ask", ASKED, answer=answer).chunks == [b"a", b"b", b"c"]
    hit = client.post("/ask", ASKED)
    assert (hit.layer, hit.chunks) == ("exact", [b"a", b"b", b"c"])


def test_item_26_a_response_that_is_replaced_is_not_stored(cache: Any) -> None:
    """`start_response` with `exc_info` puts an error in the place of what was begun."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT])
        try:
            raise LookupError("mine")
        except LookupError:
            start_response("200 OK", [TEXT, ("X-Second", "1")], sys.exc_info())
        return [b"sorry"]

    answer = mounted(app, cache).post("/ask", ASKED)
    assert ("X-Second", "1") in answer.headers
    assert answer.cache_status == "mneme; fwd=miss"
    assert cache.stats().entries == 0


def test_item_07_the_answer_is_stored_once_all_has_gone_out(cache: Any) -> None:
    """After the last chunk, and also where nobody calls close; hits do not touch the iterable."""
    log: list[str] = []
    seen: list[int] = []

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [TEXT])

        def steps() -> Iterator[bytes]:
            yield b"a"
            seen.append(cache.stats().entries)

        return Body(log, steps)

    client = bare(app, cache)
    raw = json.dumps(ASKED).encode()
    assert list(client.app(environ_of("POST", "/ask", raw), lambda *args: print)) == [b"a"]
    assert (seen, log) == ([0], ["iter"])
    assert client.post("/ask", ASKED).body == b"a"
    assert log == ["iter"]


@pytest.mark.parametrize("path", ["/ask", "/other"])
def test_item_26_close_is_always_called(cache: Any, path: str) -> None:
    """After the end, after an error within, and after the client has left."""
    log: list[str] = []

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [TEXT])

        def steps() -> Iterator[bytes]:
            yield b"a"
            yield b"b"
            raise LookupError("mine")

        return Body(log, steps)

    client = mounted(app, cache, namespace="n")
    with pytest.raises(LookupError, match="mine"):
        client.post(path, ASKED)
    assert log.count("closed") == 1
    client.post(path, ASKED, leave_after=1)
    assert log.count("closed") == 2
    assert cache.stats().entries == 0


@pytest.mark.parametrize("when", ["before", "at once", "between"])
def test_item_09_an_application_that_raises_stores_nothing(cache: Any, when: str) -> None:
    """Its exception comes out unchanged."""
    error = LookupError("mine")

    def app(environ: Any, start_response: Any) -> Any:
        if when == "before":
            raise error
        start_response("200 OK", [TEXT])
        if when == "at once":
            raise error

        def steps() -> Iterator[bytes]:
            yield b"a"
            if when == "between":
                raise error

        return steps()

    with pytest.raises(LookupError) as raised:
        bare(app, cache).post("/ask", ASKED)
    assert raised.value is error
    assert cache.stats().entries == 0


@pytest.mark.parametrize(
    ("status", "header"),
    [
        ("500 Oops", TEXT),
        ("429 Slow down", TEXT),
        ("200 OK", ("Set-Cookie", "a=1")),
        ("200 OK", ("Cache-Control", "no-store")),
        ("200 OK", ("Vary", "*")),
        ("200 OK", ("Content-Encoding", "gzip")),
        ("200 OK", ("Content-Length", "99")),
    ],
)
def test_item_09_17_31_what_may_not_be_stored_is_not(
    cache: Any, status: str, header: tuple[str, str]
) -> None:
    """Errors, cookies, what the application forbids: the next request is a miss again."""
    app = Counting(status=status, headers=[TEXT, header])
    for _ in range(2):
        answer = mounted(app, cache).post("/ask", ASKED)
        assert (answer.status, answer.cache_status) == (status, "mneme; fwd=miss")
    assert (len(app.asked), cache.stats().entries) == (2, 0)


def test_item_26_files_are_left_to_the_server(cache: Any) -> None:
    """What `wsgi.file_wrapper` made is handed on as it is, and not stored."""
    made: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [TEXT])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"file"), 2))
        return made[-1]

    for options in ({}, {"namespace": "n"}):
        for path in ("/ask", "/other"):
            answer = bare(app, cache, **options).post(path, ASKED)
            assert answer.body_object is made[-1]
            assert isinstance(made[-1], FileWrapper)
            assert answer.chunks == [b"fi", b"le"]

    def wrapping(environ: Any, start_response: Any) -> Any:
        return Body([], lambda: iter(app(environ, start_response)))

    assert bare(wrapping, cache).post("/ask", ASKED).chunks == [b"fi", b"le"]
    assert cache.stats().entries == 0
    without = bare(Counting(), cache)
    assert without.post("/ask", ASKED, **{"wsgi.file_wrapper": None}).body == b'{"answer": 1}'


def test_item_08_the_applications_header_list_stays_its_own(cache: Any) -> None:
    """A list that an application reuses is not written to."""
    headers = [TEXT]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        return [b"x"]

    for body in (ASKED, b"no question"):
        mounted(app, cache).post("/ask", body)
    assert headers == [TEXT]


def test_item_11_head_is_answered_without_a_body_and_never_stores(cache: Any) -> None:
    """It may use what a GET has stored."""
    client = mounted(Counting(headers=[TEXT, ("Content-Length", "1")], chunks=[b"x"]), cache)

    def head() -> Answer:
        return client.request("HEAD", "/find?q=reset", CONTENT_TYPE=None)

    assert head().cache_status == "mneme; fwd=miss"
    assert cache.stats().entries == 0
    client.get("/find?q=reset")
    assert (head().layer, head().chunks) == ("exact", [])
    assert ("content-length", "1") in head().headers


def test_item_21_a_hit_tells_its_age_after_what_others_said(cache: Any, clock: ManualClock) -> None:
    """Stored fields first, in order; mneme's own word last."""
    status = ("Cache-Status", "inner; hit")
    app = Counting(headers=[TEXT, status, ("X-A", "1"), ("X-A", "2"), ("ETag", '"1"')])
    client = mounted(app, cache, ttl=60)
    assert client.post("/ask", ASKED).cache_status == "inner; hit, mneme; fwd=miss"
    clock.advance(12.5)
    assert client.post("/ask", ASKED).headers == [
        TEXT,
        status,
        ("X-A", "1"),
        ("X-A", "2"),
        ("age", "12"),
        ("cache-status", "mneme; hit; ttl=47; detail=exact"),
    ]


def test_item_23_the_application_is_not_asked_to_compress(cache: Any) -> None:
    """Answers are stored plain."""
    app = Counting()
    headers = [("Accept-Encoding", "gzip")]
    mounted(app, cache).post("/ask", ASKED, headers=headers)
    mounted(app, cache).post("/ask", b"no question", headers=headers)
    assert ["HTTP_ACCEPT_ENCODING" in environ for environ in app.environs] == [False, True]


def test_item_07_a_store_that_fails_is_no_error_of_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The response is the normal one, the failure is counted and logged."""

    class Full(MemoryStore):
        def commit(self, changes: Any) -> int:
            if changes.puts:
                raise OSError("disk full")
            return super().commit(changes)

    cache = SemanticCache(store=Full(), embedder=HashEmbedder())
    for n in (1, 2):
        answer = mounted(Counting(), cache).post("/ask", ASKED)
        assert (answer.status, answer.body) == ("200 OK", b'{"answer": 1}')
        assert cache.stats().failed_open == n
    assert caplog.text.count("disk full") == 1
    cache.close()
    assert mounted(Counting(), cache).post("/ask", ASKED).body == b'{"answer": 1}'


def test_a_stored_status_of_no_name_is_served(cache: Any) -> None:
    """The reason phrase is not stored; where the standard has none, there is one."""
    route = Route(json_field("prompt"), statuses=(299,))
    client = mounted(Counting(status="299 Fine"), cache, routes={"/ask": route})
    assert client.post("/ask", ASKED).status == "299 Fine"
    assert client.post("/ask", ASKED).status == "299 Stored"


def test_an_async_embedder_is_refused_when_it_is_mounted() -> None:
    """The message names the adapter."""

    class Embedder(HashEmbedder):
        async def embed(self, text: str, /) -> Any:  # type: ignore[override]
            return super().embed(text)

    cache = mneme.AsyncSemanticCache(store=MemoryStore(), embedder=Embedder())
    with pytest.raises(TypeError, match=r"Wrap it with mneme\.to_sync_embedder"):
        bare(Counting(), cache)


def test_the_async_face_serves_where_its_embedder_is_sync(cache: SemanticCache) -> None:
    """Either face of a core will do."""
    client: ByHand = mounted(Counting(), cache.as_async())
    client.post("/ask", ASKED)
    assert client.post("/ask", ASKED).layer == "exact"
