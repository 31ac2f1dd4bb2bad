"""Middleware, extractors, guards and tools, as both type checkers must accept them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import timedelta
from typing import Any, assert_type

import httpx
import httpx2
import openai

from mneme import (
    MemoryStore,
    SemanticCache,
    asgi,
    checkpoint,
    guards,
    to_async_embedder,
    transports,
    wsgi,
)
from mneme.calibrate import (
    Calibration,
    CalibrationResult,
    CurvePoint,
    Guarantee,
    HitCurve,
    Pair,
    Progress,
    ScoredPairs,
    ascore_pairs,
    check_pairs,
    choose_threshold,
    find_threshold,
    guaranteed_threshold,
    hit_curve,
    labels_needed,
    precision_recall_curve,
    score_pairs,
    upper_bound,
)
from mneme.migrate import areembed, reembed
from mneme.prompts import (
    ApiExtractor,
    Asked,
    Extractor,
    Form,
    Request,
    Route,
    anthropic_messages,
    json_field,
    ollama_chat,
    ollama_generate,
    openai_chat,
    openai_responses,
    query_param,
)
from mneme.records import Label
from mneme.stores import open_store
from mneme.testing import HashEmbedder
from mneme.types import Guard

Message = MutableMapping[str, Any]

cache = SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), guards=[guards.numbers])


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b""]


def asked_by(request: Request) -> Asked | None:
    return Asked(request.header("x-question") or "", rest=request.query) if request.body else None


def tenant_of(scope: Message) -> str | None:
    return str(scope["path"])


async def tenant_later(scope: Message) -> str | None:
    return tenant_of(scope)


extractors: dict[str | tuple[str, str], Extractor | Route] = {
    "/ask": json_field("a.b"),
    ("GET", "/search"): query_param("q"),
    "/v1/chat/completions": Route(openai_chat, ttl=timedelta(hours=1), vary=("x-model",)),
    "/v1/responses": openai_responses.with_tools(),
    "/v1/messages": anthropic_messages,
    "/api/chat": ollama_chat,
    "/api/generate": ollama_generate,
    "/own/*": asked_by,
    "/text": lambda request: request.path,
}
assert_type(openai_chat, ApiExtractor)
assert_type(Asked("q", rest=[], form=Form("openai_chat", streams=True)).form, Form | None)
mounted = asgi.SemanticCacheMiddleware(
    app, cache=cache, routes=extractors, namespace=tenant_later, shared=True, ttl=60, threshold=0.9
)
opened = asgi.NamespaceMiddleware(mounted, namespace=tenant_of)
wsgi_mounted = wsgi.SemanticCacheMiddleware(wsgi_app, cache=cache.as_async(), routes=extractors)
wsgi_opened = wsgi.NamespaceMiddleware(wsgi_mounted, namespace="one")
transport = transports.SemanticCacheTransport(httpx2.HTTPTransport(), cache=cache, shared=True)
httpx2.Client(transport=transport)
httpx.Client(transport=transports.SemanticCacheTransport(cache=cache, namespace="one"))
httpx2.AsyncClient(
    transport=transports.AsyncSemanticCacheTransport(cache=cache.as_async(), routes=extractors)
)
openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=transport))
httpx2.AsyncClient(transport=transport)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
asgi.SemanticCacheMiddleware(app, routes=extractors)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
asgi.SemanticCacheMiddleware(app, cache=cache, routes={"/": 5})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
wsgi.NamespaceMiddleware(app, namespace="one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

every_guard: list[Guard] = [
    guards.numbers,
    guards.quotations,
    guards.negation,
    guards.opposites,
    guards.names,
    guards.person,
    guards.question_word,
    guards.word_order,
    guards.minimal_swap(at_least=0.5),
]


def calibrate(pairs: list[Pair]) -> None:
    same, other = check_pairs(pairs)
    alike = [(pair.a, pair.b) for pair in same]
    apart = [(pair.a, pair.b) for pair in other]
    found = find_threshold(alike, apart, HashEmbedder(), "precision", min_recall=0.5)
    assert_type(found, CalibrationResult)
    assert_type(found.pr_curve, tuple[CurvePoint, ...])
    assert_type(precision_recall_curve(alike, apart, HashEmbedder())[0], CurvePoint)
    promised = guaranteed_threshold([(0.9, True), (0.8, False)], max_error=0.01)
    assert_type(promised, Guarantee)
    assert_type(promised.threshold, float | None)
    assert_type(labels_needed(0.02, 0.95), int)
    assert_type(upper_bound(0, 59, 0.95), float)
    seen: list[int] = []
    progress: Progress = lambda done, total: seen.append(total - done)  # noqa: E731
    scored = score_pairs(pairs, HashEmbedder(), guards=guards.DEFAULT_GUARDS, progress=progress)
    assert_type(scored, ScoredPairs)
    assert_type(hit_curve(scored), HitCurve)
    record = choose_threshold(scored, max_error=0.01, confidence=0.9, created_at=0.0)
    assert_type(record, Calibration)
    assert_type(record.threshold_for("a:model", 8), float)
    assert_type(Calibration.from_json(record.to_json()), Calibration)
    assert_type(promised.for_embedder(HashEmbedder()), Calibration)


async def calibrate_async(pairs: list[Pair]) -> None:
    assert_type(await ascore_pairs(pairs, to_async_embedder(HashEmbedder())), ScoredPairs)


async def move() -> None:
    new = HashEmbedder(512)
    assert_type(reembed("a.db", MemoryStore(), new, batch_size=8, progress=True), int)
    assert_type(await areembed("a.db", "redis://host", to_async_embedder(new)), int)
    tell: Callable[[int, int], object] = lambda done, total: total - done  # noqa: E731
    reembed(open_store("a.db"), "b.db", new, progress=tell, namespaces=["default"])
    store = MemoryStore()
    assert_type(checkpoint.save(store, "a.mneme", fingerprint="a:model", dim=8), int)
    with checkpoint.read("a.mneme") as archive:
        assert_type(archive, checkpoint.Archive)
        assert_type([entry.prompt for entry in archive], list[str])
        assert_type(archive.labels, tuple[Label, ...])
    assert_type(checkpoint.restore("a.mneme", store), int)
    assert_type(SemanticCache.loads("a.mneme", embedder=new, store=store), SemanticCache)
    assert_type(SemanticCache.loads("a.mneme", "c.db", new, default_ttl=5.0), SemanticCache)
