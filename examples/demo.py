"""
The main job, end to end: customers ask an assistant, and mneme stands in front of its model.

The questions are real ones (see ``data/README.md``) and arrive as traffic does: new, in other
words, repeated, typed differently. Eight customers ask at a time; the "model" takes 0.3 s. The
same traffic runs four times, each time into an empty cache in a file of its own: through a
decorated function under threads, asyncio and trio, and over HTTP through the ASGI middleware.

Run ``python examples/demo.py``, or ``python -m mneme demo``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from mneme import AsyncSemanticCache, Embedder, Hit, Miss, SemanticCache, observe, semantic_cache

try:
    import httpx
    import trio  # noqa: F401  # anyio runs on it below
    import uvicorn
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Table
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ModuleNotFoundError as missing:
    sys.exit(f"The demo needs {missing.name}. Run: pip install 'mneme-toolkit[demo]'")

from reference_embedders.offline_embedder import WordLlamaEmbedder

from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import json_field

SAMPLE = Path(__file__).parent / "data" / "questions.jsonl"

THRESHOLD = 0.80
"""How it was picked is told in ``data/README.md``."""

MODEL_SECONDS = 0.3

CUSTOMERS = 8
"""How many ask at the same time."""

KINDS = ("new", "in other words", "repeated", "typed differently")

ANSWER_TO = "The answer to: "


@dataclass(frozen=True, slots=True)
class Question:
    """What a customer asks. Questions of one `label` want the same answer."""

    text: str
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the customer got; `layer` is that of the cache, ``None`` if the model answered."""

    question: Question
    text: str
    layer: str | None

    @property
    def prompt(self) -> str:
        """The question that the model was asked when it gave this answer."""
        return self.text.removeprefix(ANSWER_TO)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All answers of one world."""

    world: str
    answers: Sequence[Answer]
    model_calls: int
    seconds: float

    def count(self, layer: str | None) -> int:
        return sum(answer.layer == layer for answer in self.answers)


class Model:
    """Slow, and frank about which question it answers."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.prompts: list[str] = []

    def answer(self, prompt: str) -> str:
        self.prompts.append(prompt)
        time.sleep(self.seconds)
        return ANSWER_TO + prompt

    async def answer_async(self, prompt: str) -> str:
        self.prompts.append(prompt)
        await anyio.sleep(self.seconds)
        return ANSWER_TO + prompt


# The traffic


def traffic(repeated: int = 130, typed_differently: int = 122) -> list[Question]:
    """Each question of the sample once and, among them, some that were asked before."""
    chance = random.Random(2026)
    with SAMPLE.open(encoding="utf-8") as lines:
        sample = [json.loads(line) for line in lines]
    chance.shuffle(sample)
    first, *turns = (
        ["new"] * len(sample) + ["repeated"] * repeated + ["typed differently"] * typed_differently
    )
    chance.shuffle(turns)
    asked: list[Question] = []
    earlier: list[Question] = []
    for turn in (first, *turns):
        if turn == "new":
            row = sample[len(earlier)]
            is_known = any(question.label == row["c"] for question in earlier)
            question = Question(row["q"], row["c"], "in other words" if is_known else "new")
            earlier.append(question)
        else:
            before = chance.choice(earlier)
            text = before.text if turn == "repeated" else retyped(before.text, chance)
            question = Question(text, before.label, turn)
        asked.append(question)
    return asked


def retyped(text: str, chance: random.Random) -> str:
    """The same words in another case, or with more space between them."""
    return chance.choice([text.upper(), f" {text.swapcase()}", text.replace(" ", "  ")])


# The four worlds


@dataclass(frozen=True, slots=True)
class Desk:
    """What a world works with: its questions, its model, and an empty cache's settings."""

    questions: Sequence[Question]
    model: Model
    settings: dict[str, Any]
    told: Callable[[], object]
    """Called once for each answer, for the progress bar."""


def in_threads(desk: Desk) -> list[Answer]:
    with SemanticCache(**desk.settings) as cache:

        @semantic_cache(cache=cache)
        def ask(prompt: str) -> str:
            return desk.model.answer(prompt)

        def answered(question: Question) -> Answer:
            with observe() as seen:
                text = ask(question.text)
            desk.told()
            return Answer(question, text, layer_of(seen[-1]))

        with ThreadPoolExecutor(CUSTOMERS) as customers:
            return list(customers.map(answered, desk.questions))


async def in_tasks(desk: Desk) -> list[Answer]:
    async with AsyncSemanticCache(**desk.settings) as cache:

        @semantic_cache(cache=cache)
        async def ask(prompt: str) -> str:
            return await desk.model.answer_async(prompt)

        async def answered(question: Question) -> Answer:
            with observe() as seen:
                text = await ask(question.text)
            desk.told()
            return Answer(question, text, layer_of(seen[-1]))

        return await by_customers(answered, desk.questions)


async def over_http(desk: Desk) -> list[Answer]:
    async def ask(request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse({"answer": await desk.model.answer_async(body["prompt"])})

    cache = AsyncSemanticCache(**desk.settings)

    @asynccontextmanager
    async def opened(app: Starlette) -> AsyncIterator[None]:
        async with cache:
            yield

    app = Starlette(
        routes=[Route("/ask", ask, methods=["POST"])],
        middleware=[
            Middleware(SemanticCacheMiddleware, cache=cache, routes={"/ask": json_field("prompt")})
        ],
        lifespan=opened,
    )

    with served(app) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:

            async def answered(question: Question) -> Answer:
                response = await client.post("/ask", json={"prompt": question.text})
                response.raise_for_status()
                desk.told()
                layer = told_layer(response.headers["cache-status"])
                return Answer(question, response.json()["answer"], layer)

            return await by_customers(answered, desk.questions)


def layer_of(outcome: Hit | Miss) -> str | None:
    return outcome.layer if isinstance(outcome, Hit) else None


def told_layer(cache_status: str) -> str | None:
    """From ``mneme; hit; detail=semantic`` (RFC 9211) to ``semantic``."""
    if cache_status.endswith("; collapsed"):
        # Got the answer to an equal question that was on its way, which counts as a hit.
        return "exact"
    return cache_status.partition("detail=")[2] if "; hit;" in cache_status else None


async def by_customers(
    answered: Callable[[Question], Awaitable[Answer]], questions: Sequence[Question]
) -> list[Answer]:
    """The answers; each customer asks the next question when he has his answer."""
    waiting = iter(questions)
    answers: list[Answer] = []

    async def customer() -> None:
        for question in waiting:
            answer = await answered(question)
            answers.append(answer)

    async with anyio.create_task_group() as customers:
        for _ in range(CUSTOMERS):
            customers.start_soon(customer)
    return answers


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The address of the app behind a real socket of this machine, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the demo's server did not start.")
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


WORLDS: dict[str, Callable[[Desk], list[Answer]]] = {
    "threads": in_threads,
    "asyncio": lambda desk: anyio.run(in_tasks, desk),
    "trio": lambda desk: anyio.run(in_tasks, desk, backend="trio"),
    "HTTP": lambda desk: anyio.run(over_http, desk),
}


def run(
    embedder: Embedder, threshold: float, model_seconds: float, progress: Progress
) -> list[Outcome]:
    """The outcome of each world."""
    questions = traffic()
    outcomes = []
    bars = {world: progress.add_task(world, total=len(questions)) for world in WORLDS}
    with tempfile.TemporaryDirectory() as folder:
        for world, ask in WORLDS.items():
            desk = Desk(
                questions,
                Model(model_seconds),
                {
                    "path": Path(folder, f"{world}.db"),
                    "embedder": embedder,
                    "similarity_threshold": threshold,
                },
                partial(progress.advance, bars[world]),
            )
            began = time.perf_counter()
            answers = ask(desk)
            took = time.perf_counter() - began
            outcomes.append(Outcome(world, answers, len(desk.model.prompts), took))
    return outcomes


# The report


def judged(outcomes: Sequence[Outcome]) -> Callable[[Answer], bool]:
    """Whether an answer was given to a question of another label: the check of every answer."""
    labels = {a.question.text: a.question.label for o in outcomes for a in o.answers}
    return lambda answer: labels[answer.prompt] != answer.question.label


def summary(outcomes: Sequence[Outcome], threshold: float, model_seconds: float) -> dict[str, Any]:
    """All figures of the report, as plain values."""
    is_wrong = judged(outcomes)
    worlds = []
    for outcome in outcomes:
        calls = len(outcome.answers)
        without = calls * model_seconds / CUSTOMERS
        worlds.append(
            {
                "world": outcome.world,
                "calls": calls,
                "exact_hits": outcome.count("exact"),
                "semantic_hits": outcome.count("semantic"),
                "misses": outcome.count(None),
                "wrong_answers": sum(map(is_wrong, outcome.answers)),
                "model_calls": outcome.model_calls,
                "model_calls_saved": calls - outcome.model_calls,
                "seconds": round(outcome.seconds, 1),
                "seconds_without_cache": round(without, 1),
                "seconds_saved": round(without - outcome.seconds, 1),
            }
        )
    answers = [answer for outcome in outcomes for answer in outcome.answers]
    kinds = []
    for kind in KINDS:
        own = [answer for answer in answers if answer.question.kind == kind]
        kinds.append(
            {
                "kind": kind,
                "asked": len(own),
                "from_the_cache": sum(answer.layer is not None for answer in own),
                "wrong_answers": sum(map(is_wrong, own)),
            }
        )
    mistakes = {
        (" ".join(answer.question.text.casefold().split()), answer.prompt): answer
        for answer in answers
        if is_wrong(answer)
    }
    return {
        "threshold": threshold,
        "model_seconds": model_seconds,
        "asked_at_once": CUSTOMERS,
        "worlds": worlds,
        "kinds": kinds,
        "mistakes": [{"asked": a.question.text, "answered": a.prompt} for a in mistakes.values()],
    }


COLUMNS = {
    "calls": "calls",
    "exact_hits": "exact\nhits",
    "semantic_hits": "semantic\nhits",
    "misses": "misses",
    "wrong_answers": "wrong\nanswers",
    "model_calls_saved": "model\ncalls\nsaved",
    "seconds": "seconds\ntaken",
    "seconds_saved": "seconds\nsaved",
}


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures as tables, the wrong answers word for word, and one sentence."""
    worlds = table("The same questions in four worlds", "world", *COLUMNS.values())
    for row in figures["worlds"]:
        worlds.add_row(row["world"], *(f"{row[name]:,}" for name in COLUMNS))
    console.print(worlds)
    row = figures["worlds"][0]
    console.print(
        f"Seconds saved: of the {row['seconds_without_cache']:g} that {row['calls']} calls of "
        f"{figures['model_seconds']:g} s take, {figures['asked_at_once']} at a time.\n",
        highlight=False,
    )

    kinds = table("All four together", "question", "asked", "from the cache", "wrong answers")
    for row in figures["kinds"]:
        cells = (row[name] for name in ("asked", "from_the_cache", "wrong_answers"))
        kinds.add_row(row["kind"], *(f"{cell:,}" for cell in cells))
    console.print(kinds)

    if figures["mistakes"]:
        console.print("The wrong answers, each once:")
    for mistake in figures["mistakes"]:
        asked, answered = mistake["asked"].strip(), mistake["answered"].strip()
        console.print(f"  asked  {asked!r}\n  got the answer to  {answered!r}", markup=False)
    console.print(f"\n{sentence(figures)}", highlight=False)


def table(title: str, first: str, *others: str) -> Table:
    made = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    made.add_column(first)
    for name in others:
        made.add_column(name, justify="right")
    return made


def sentence(figures: dict[str, Any]) -> str:
    def total(name: str) -> Any:
        return sum(row[name] for row in figures["worlds"])

    calls, saved = total("calls"), total("model_calls_saved")
    return (
        f"Of {calls:,} questions mneme answered {saved:,} without the model, which took "
        f"{total('seconds'):.0f} seconds instead of {total('seconds_without_cache'):.0f}; "
        f"{total('wrong_answers'):,} of these answers belonged to a question of another meaning."
    )


def cosine(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be from 0.0 to 1.0, got {text}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--threshold", type=cosine, default=THRESHOLD, help="least cosine of a hit")
    parser.add_argument("--model-seconds", type=float, default=MODEL_SECONDS)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    try:
        embedder = WordLlamaEmbedder()
    except ImportError as exc:
        sys.exit(f"The demo needs its embedder. {exc}")
    # Progress beside the results, so that those can be piped on.
    progress = Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
    )
    if not given.json:
        print(
            f"{len(traffic()):,} questions to an assistant, {CUSTOMERS} at a time; "
            f"the model takes {given.model_seconds:g} s; threshold {given.threshold:g}."
        )
    with progress:
        outcomes = run(embedder, given.threshold, given.model_seconds, progress)
    figures = summary(outcomes, given.threshold, given.model_seconds)
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures, Console())


if __name__ == "__main__":
    main()
