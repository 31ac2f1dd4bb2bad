"""Flask with the middleware on real servers, asked over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import flask
import httpx
import pytest
from support.servers import frames, on_werkzeug, on_wsgiref
from support.worlds import PATIENCE

from mneme import semantic_cache
from mneme.context import current_namespace
from mneme.prompts import json_field
from mneme.wsgi import SemanticCacheMiddleware

SERVERS = [on_werkzeug, on_wsgiref]
ASKED = {"prompt": "how do i reset my old password"}
REWORDED = {"prompt": "how do i reset my old password please"}
ROUTES = {path: json_field("prompt") for path in ("/ask", "/stream", "/login", "/echo")}


class Site:
    """A Flask application; while `gate` is closed, a stream waits after its first chunk."""

    def __init__(self, cache: Any) -> None:
        self.app = flask.Flask(__name__)
        self.app.secret_key = "secret"
        self.asked: list[str] = []
        self.events = 3
        self.gate = threading.Event()
        self.gate.set()
        self.has_left = threading.Event()
        self.model = semantic_cache(cache=cache)(self.answer)
        for path in ("ask", "stream", "login", "echo"):
            self.app.add_url_rule(f"/{path}", view_func=getattr(self, path), methods=["POST"])

    def answer(self, prompt: str) -> str:
        return f"for {current_namespace.get()}"

    def ask(self) -> Any:
        self.asked.append(flask.request.get_json()["prompt"])
        return flask.jsonify(answer=len(self.asked), model=self.model("a question"))

    def stream(self) -> Any:
        self.asked.append(flask.request.get_json()["prompt"])

        def chunks() -> Iterator[str]:
            try:
                for n in range(self.events):
                    # The request is still at hand: one context, from the call to the last byte.
                    yield f"data: {n} {flask.request.path}\n\n"
                    assert self.gate.wait(PATIENCE)
            finally:
                self.has_left.set()

        return flask.Response(flask.stream_with_context(chunks()), mimetype="text/event-stream")

    def login(self) -> Any:
        flask.session["who"] = flask.request.get_json()["prompt"]
        return flask.jsonify(hello=flask.session["who"])

    def echo(self) -> Any:
        return flask.Response(flask.request.get_data(), mimetype="text/plain")


def tenant(environ: dict[str, Any]) -> str:
    return str(environ.get("HTTP_X_TENANT", "nobody"))


@pytest.fixture
def site(served: Any) -> Iterator[Site]:
    site = Site(served)
    yield site
    site.gate.set()


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, site: Site, served: Any) -> Iterator[str]:
    inner: Any = site.app.wsgi_app
    if request.param is on_wsgiref:
        inner = validator(inner)
    middleware: Any = SemanticCacheMiddleware(inner, cache=served, routes=ROUTES, namespace=tenant)
    site.app.wsgi_app = middleware  # type: ignore[method-assign]
    app: Any = validator(site.app) if request.param is on_wsgiref else site.app  # type: ignore[arg-type]
    with request.param(app) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        yield client


def test_flask_is_answered_from_the_cache(
    client: httpx.Client, site: Site, stored: Any, served: Any
) -> None:
    """Equal and reworded questions; each tenant for itself, the model's own cache too."""
    seen = []
    for name in ("a", "b"):
        headers = {"x-tenant": name}
        first = client.post("/ask", json=ASKED, headers=headers)
        assert first.headers["cache-status"] == "mneme; fwd=miss"
        for _ in range(2):
            stored.wait()
        for body, layer in ((ASKED, "exact"), (REWORDED, "semantic")):
            answer = client.post("/ask", json=body, headers=headers)
            assert answer.headers["cache-status"] == f"mneme; hit; detail={layer}"
            assert answer.json() == first.json()
        seen.append(first.json())
    assert seen == [{"answer": n, "model": f"for {name}"} for n, name in ((1, "a"), (2, "b"))]
    assert served.list_namespaces() == ["a", "b"]


def test_item_06_a_stream_arrives_chunk_by_chunk_on_a_miss(
    client: httpx.Client, site: Site
) -> None:
    """The client reads the first chunk before the application has made the second."""
    site.gate.clear()
    with client.stream("POST", "/stream", json=ASKED) as answer:
        chunks = answer.iter_text()
        assert next(chunks) == "data: 0 /stream\n\n"
        site.gate.set()
        assert "".join(chunks) == "data: 1 /stream\n\ndata: 2 /stream\n\n"


def test_item_30_a_hit_replays_the_very_bytes(
    client: httpx.Client, site: Site, stored: Any
) -> None:
    """And says so; the application is not asked again."""
    first = client.post("/stream", json=ASKED)
    stored.wait()
    again = client.post("/stream", json=ASKED)
    assert again.content == first.content
    assert again.headers["cache-status"] == "mneme; hit; detail=exact"
    assert len(site.asked) == 1


def test_item_30_a_hit_replays_chunk_by_chunk(site: Site, served: Any, stored: Any) -> None:
    """Each event in a frame of its own on the wire, as on the miss."""
    app: Any = SemanticCacheMiddleware(site.app.wsgi_app, cache=served, routes=ROUTES)
    with on_werkzeug(app) as url:
        raw = b'{"prompt": "how do i reset"}'
        _, missed = frames(url, "/stream", raw, "Content-Type: application/json")
        stored.wait()
        head, hit = frames(url, "/stream", raw, "Content-Type: application/json")
    assert "mneme; hit; detail=exact" in head
    assert hit == missed
    assert len(hit) == 3


def test_item_05_a_client_that_leaves_mid_stream_stores_nothing(
    client: httpx.Client, url: str, site: Site
) -> None:
    """The server notices when it writes on, and closes the iterable before its end."""
    site.gate.clear()
    site.events = 1_000
    with client.stream("POST", "/stream", json=ASKED) as answer:
        next(answer.iter_text())
    client.close()
    site.gate.set()
    assert site.has_left.wait(PATIENCE)
    site.events = 1
    again = httpx.post(f"{url}/stream", json=ASKED)
    assert again.headers["cache-status"] == "mneme; fwd=miss"
    assert again.text == "data: 0 /stream\n\n"


def test_item_16_two_credentials_never_share(client: httpx.Client, site: Site, stored: Any) -> None:
    """Neither two API keys nor two cookies."""
    callers = [{"authorization": "Bearer a"}, {"authorization": "Bearer b"}]
    callers += [{"cookie": "sid=a"}, {"cookie": "sid=b"}]
    answers = [client.post("/ask", json=ASKED, headers=caller).json() for caller in callers]
    assert [answer["answer"] for answer in answers] == [1, 2, 3, 4]
    for _ in range(5):
        stored.wait()
    again = [client.post("/ask", json=ASKED, headers=caller).json() for caller in callers]
    assert again == answers


def test_item_17_a_response_that_sets_a_cookie_is_not_stored(
    client: httpx.Client, served: Any
) -> None:
    """Flask's session is one: its cookie is this client's alone."""
    for _ in range(2):
        answer = client.post("/login", json=ASKED, headers={"cookie": ""})
        assert "set-cookie" in answer.headers
        assert answer.headers["cache-status"] == "mneme; fwd=miss"
    assert served.stats().entries == 0


@pytest.mark.parametrize(
    "body", [b"{", b'{"prompt": "\xff"}', b'{"prompt":"a","prompt":"b"}', b"x" * 2_000_000]
)
def test_item_25_bodies_that_are_no_question_pass_byte_for_byte(
    client: httpx.Client, served: Any, body: bytes
) -> None:
    """No JSON, half characters, names given twice, and a body over the cap."""
    answer = client.post("/echo", content=body)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["cache-status"] == "mneme; fwd=bypass"
    assert served.stats().entries == 0


def test_item_25_a_chunked_body_is_a_question_too(site: Site, served: Any, stored: Any) -> None:
    """Without a length, where the server marks the end of the input."""
    app: Any = SemanticCacheMiddleware(site.app.wsgi_app, cache=served, routes=ROUTES)
    with on_werkzeug(app) as url, httpx.Client(base_url=url) as client:
        for layer in ("fwd=miss", "hit; detail=exact"):
            pieces = iter([b'{"prompt": "how do', b' i reset"}'])
            answer = client.post(
                "/ask", content=pieces, headers={"content-type": "application/json"}
            )
            assert answer.headers["cache-status"] == f"mneme; {layer}"
            if layer == "fwd=miss":
                stored.wait()
                stored.wait()
