"""Answers one can trust: shadow mode, audits, verification and the learned policy."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.scenes import Scene, everywhere
from support.worlds import THREADS, WORLDS, World, settled

from mneme import AsyncSemanticCache, MemoryStore, SemanticCache, semantic_cache
from mneme.calibrate import Calibration, find_threshold
from mneme.errors import EmbedderMismatchError
from mneme.records import Hit, Miss
from mneme.testing import HashEmbedder

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)

TOPICS = ("cards", "loans", "taxes", "wills", "rents", "bikes", "boats", "trees")
WORDS = ("how", "do", "i", "renew", "my", "old")


def question(topic: str, number: int) -> str:
    """One of many wordings of a question about `topic`; near in the embedding, never equal."""
    return f"{' '.join(WORDS)} {topic} {topic} {topic} n{number}x"


# -- shadow mode ------------------------------------------------------------------------------


@everywhere()
async def test_shadow_mode_serves_nothing_and_labels_what_it_would_have(s: Scene) -> None:
    """Every call reaches the function; labels say whether a hit would have been right."""
    calls: list[str] = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return "wrong" if "trap" in prompt else "right"

    async with s.cache(mode="shadow") as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        asked = ["one two three four", "four three two one", "one two three four",
                 "one two three four trap", "something else entirely"]  # fmt: skip
        for prompt in asked:
            await s.call(function, prompt)
        assert calls == asked
        labels = await cache.labels()
        assert [(one.source, one.right) for one in labels] == [
            ("shadow", True),
            ("shadow", True),
            ("shadow", False),
            ("shadow", False),
        ]
        assert [round(one.similarity, 1) for one in labels][:2] == [1.0, 1.0]
        stats = await cache.stats()
        assert (stats.hits, stats.labels_right, stats.labels_wrong) == (0, 2, 1)
    assert [event["right"] for event in s.heard("label")] == [True, True, False]
    assert {event["reason"] for event in s.heard("miss")} == {"absent", "shadow", "below_threshold"}


@everywhere()
async def test_a_miss_in_shadow_mode_shows_what_would_have_been_served(s: Scene) -> None:
    """The hit that was kept back is in the `Miss`, for observers and reports."""
    async with s.cache(mode="shadow") as cache:
        await cache.put("one two three", "A")
        for prompt in ("one two three", "three two one"):
            miss = await cache.lookup(prompt)
            assert isinstance(miss, Miss)
            assert miss.reason == "shadow"
            assert miss.would_serve is not None
            assert (miss.would_serve.response, miss.would_serve.prompt) == ("A", "one two three")
        assert await cache.get("one two three") is None


@everywhere("sqlite")
async def test_labels_outlive_the_cache(s: Scene) -> None:
    """They are in the file, oldest first, with all their fields."""
    async with s.cache(mode="shadow") as cache:
        for prompt in ("a b c d", "d c b a", "a b c d e"):
            await cache.fill(await cache.lookup(prompt), "r")
        before = await cache.labels()
    async with s.cache() as cache:
        after = await cache.labels()
        assert after == before
        assert [one.right for one in after] == [True, True]
        assert (await cache.stats()).labels_right == 2


# -- audits -----------------------------------------------------------------------------------


@IN_EACH_WORLD
def test_an_audit_in_an_open_cache_costs_the_caller_nothing(world: World, tmp_path: Path) -> None:
    """The hit is served, the function is called beside it, and what it says is a label."""
    calls: list[str] = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return f"answer {len(calls)}"

    async def scenario(s: Scene) -> None:
        async with s.cache(audit_rate=1.0) as cache:
            function = semantic_cache(cache=cache.cache)(s.world.written(ask))
            assert await s.call(function, "one two three four") == "answer 1"
            assert await s.call(function, "four three two one") == "answer 1"
        # Closing waits for what runs in the background.
        assert calls == ["one two three four", "four three two one"]
        async with s.cache() as cache:
            (label,) = await cache.labels()
            assert (label.source, label.right) == ("audit", False)
            function = semantic_cache(cache=cache.cache)(s.world.written(ask))
            # The right answer has taken the place of the wrong one.
            assert await s.call(function, "four three two one") == "answer 2"

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@everywhere()
async def test_an_audit_without_a_background_is_a_miss(s: Scene) -> None:
    """Where nothing can run aside, the caller gets the new answer."""
    calls: list[str] = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return "the same"

    cache = s.make(audit_rate=1.0)
    function = semantic_cache(cache=cache)(s.world.written(ask))
    for prompt in ("one two three four", "four three two one"):
        await s.call(function, prompt)
    assert len(calls) == 2
    assert cache.stats().labels_right == 1
    assert s.heard("miss")[-1]["reason"] == "audited"
    # An exact hit is never audited: it is the same question.
    await s.call(function, "one two three four")
    assert len(calls) == 2
    await settled(cache.close())


@everywhere()
async def test_lookup_and_fill_audit_too(s: Scene) -> None:
    """A miss for the sake of an audit is filled like any other, and labels."""
    async with s.cache(audit_rate=1.0) as cache:
        await cache.put("one two three four", "A")
        miss = await cache.lookup("four three two one")
        assert (miss.reason, miss.would_serve.response) == ("audited", "A")
        await cache.fill(miss, "B")
        assert [one.right for one in await cache.labels()] == [False]
        assert (await cache.get("four three two one")).response == "B"


@everywhere("memory")
async def test_a_share_of_hits_is_audited(s: Scene) -> None:
    """With a seed the same ones; about as many as asked for."""
    async with s.cache(audit_rate=0.25, seed=7) as cache:
        await cache.put("one two three four", "A")
        reasons = [
            getattr(await cache.lookup("four three two one"), "reason", "hit") for _ in range(400)
        ]
        assert 70 <= reasons.count("audited") <= 130
        assert reasons.count("hit") == 400 - reasons.count("audited")


# -- verification -----------------------------------------------------------------------------


@everywhere()
async def test_the_verifier_is_asked_near_the_threshold_only(s: Scene) -> None:
    """Below the band nothing is asked, above the threshold nothing needs to be."""
    asked: list[tuple[str, str]] = []

    async def verify(question: str, cached: str) -> bool:
        asked.append((question, cached))
        return "yes" in question

    async with s.cache(verify=s.world.written(verify), verify_band=(0.3, 0.0)) as cache:
        await cache.put("a b c d e f", "A")
        assert (await cache.get("f e d c b a")).response == "A"
        assert await cache.get("something else entirely unlike it") is None
        assert asked == []
        near = "a b c d e yes x y"
        hit = await cache.lookup(near)
        assert isinstance(hit, Hit)
        assert (hit.response, hit.layer) == ("A", "semantic")
        assert 0.5 < hit.similarity < 0.8
        miss = await cache.lookup("a b c d e no x y")
        assert (miss.reason, bool(miss.nearest_similarity)) == ("unverified", True)
        assert asked == [(near, "a b c d e f"), ("a b c d e no x y", "a b c d e f")]
        # Approved once, it is an alias: not asked again, not even embedded.
        before = s.embedder.calls
        assert (await cache.get(near)).response == "A"
        assert (len(asked), s.embedder.calls) == (2, before)
        # The alias is of the entry: gone with it.
        await cache.delete("a b c d e f")
        assert await cache.get(near) is None


@everywhere()
async def test_a_band_above_the_threshold_is_verified_too(s: Scene) -> None:
    """What would be a hit is one only if the verifier agrees."""

    async def refuse(question: str, cached: str) -> bool:
        return False

    async with s.cache(verify=s.world.written(refuse), verify_band=(0.0, 0.2)) as cache:
        await cache.put("a b c d e f", "A")
        assert (await cache.lookup("f e d c b a")).response == "A"
        miss = await cache.lookup("a b c d e f g")
        assert miss.reason == "unverified"


@everywhere()
async def test_a_verifier_that_fails_or_is_late_makes_a_miss(s: Scene) -> None:
    """Counted and logged; the caller gets no error and no unverified answer."""

    async def broken(question: str, cached: str) -> bool:
        raise RuntimeError("model is down")

    async with s.cache(verify=s.world.written(broken), verify_band=(0.3, 0.0)) as cache:
        await cache.put("a b c d e f", "A")
        assert (await cache.lookup("a b c d e x")).reason == "unverified"
        assert (await cache.stats()).failed_open == 1
        assert s.heard("failed_open") == [
            {"namespace": "default", "part": "verifier", "error": "RuntimeError"}
        ]


@pytest.mark.timing
@IN_EACH_WORLD
def test_what_a_late_verifier_approves_is_served_to_the_next(world: World) -> None:
    """The first caller does not wait; the approval that comes later makes an alias."""
    may_answer, has_answered = threading.Event(), threading.Event()

    def verify(question: str, cached: str) -> bool:
        may_answer.wait(20)
        return True

    cache = SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.9, guards=(),
        verify=verify, verify_band=(0.5, 0.0), verify_timeout=0.05,
    )  # fmt: skip
    add = cache._core.aliases.add

    def added(*args: Any) -> None:
        add(*args)
        has_answered.set()

    cache._core.aliases.add = added  # type: ignore[method-assign]
    face = cache if world is THREADS else cache.as_async()

    async def scenario() -> None:
        await settled(face.put("a b c d", "A"))
        assert not await settled(face.lookup("a b c x"))

    world.run(scenario)
    may_answer.set()
    assert has_answered.wait(20)
    hit = cache.lookup("a b c x")
    assert isinstance(hit, Hit)
    assert hit.response == "A"
    cache.close()


# -- the learned policy -----------------------------------------------------------------------


async def traffic(cache: Any, count: int, start: int = 0) -> tuple[int, int]:
    """Hits and wrong hits of `count` questions."""
    hits = wrong = 0
    for number in range(start, start + count):
        topic = TOPICS[number % len(TOPICS)]
        found = await cache.lookup(question(topic, number))
        if isinstance(found, Hit):
            hits += 1
            wrong += found.response != topic
        else:
            await cache.fill(found, topic)
    return hits, wrong


@everywhere("memory")
async def test_the_learned_policy_learns_from_misses(s: Scene) -> None:
    """After some hundred answers it serves, and it serves right ones."""
    async with s.cache(policy="learned", max_error=0.02) as cache:
        assert await traffic(cache, 100) == (0, 0)
        hits, wrong = await traffic(cache, 500, 100)
        assert hits > 200
        assert wrong <= 10
        explained = await cache.explain(question("cards", 1_000_000))
        assert "chance of a wrong answer" in str(explained) or isinstance(explained.outcome, Hit)
        found = await cache.lookup(question("cards", 1_000_001))
        assert not isinstance(found, Hit) or 0.9 < found.confidence <= 1.0
        labels = await cache.labels()
        assert {one.source for one in labels} == {"miss", "audit"}
        assert all(one.chance_right is not None for one in labels)


@everywhere("memory")
async def test_explaining_changes_nothing(s: Scene) -> None:
    """The policy decides the same whether or not somebody has asked why."""
    async with s.cache(policy="learned") as cache:
        await traffic(cache, 200)
        learned = cache.cache._core.judges.default._learned
        before = learned.budget.asks, learned.random.bit_generator.state
        for number in range(20):
            await cache.explain(question("loans", 5_000 + number))
        assert (learned.budget.asks, learned.random.bit_generator.state) == before


@everywhere("sqlite")
async def test_what_was_learned_outlives_the_cache(s: Scene) -> None:
    """Opened again, it serves at once, without another warm-up."""
    async with s.cache(policy="learned", max_error=0.02) as cache:
        await traffic(cache, 400)
    async with s.cache(policy="learned", max_error=0.02) as cache:
        hits, wrong = await traffic(cache, 100, 10_000)
        assert hits > 50
        assert wrong <= 4
    async with s.cache(policy="learned", max_error=0.3) as cache:
        assert cache.cache._core.judges.default._learned.max_error == 0.3


@everywhere("memory")
async def test_a_decorated_function_may_have_a_policy_of_its_own(s: Scene) -> None:
    """Beside others on one cache; what it learns is kept under its name."""

    async def ask(prompt: str) -> str:
        return next(topic for topic in TOPICS if topic in prompt)

    async with s.cache() as cache:
        decorate = semantic_cache(cache=cache.cache, policy="learned", max_error=0.02)
        function = decorate(s.world.written(ask))
        for number in range(500):
            await settled(function(question(TOPICS[number % len(TOPICS)], number)))
        assert function.cache_info().hits > 150
        miss = await cache.lookup("not of the function")
        assert miss.reason == "absent"


@everywhere("memory")
async def test_removed_entries_are_forgotten(s: Scene) -> None:
    """What the policy remembers of an entry goes when the entry has gone."""
    async with s.cache(policy="learned", max_entries=50) as cache:
        await traffic(cache, 300)
        learned = cache.cache._core.judges.default._learned
        assert (await cache.stats()).entries <= 50
        # Looked at each time it is fitted anew.
        assert len(learned.notes) <= 50 + 2 * 50


# -- same_answer ------------------------------------------------------------------------------


@everywhere("memory")
async def test_same_answer_decides_what_is_right(s: Scene) -> None:
    """It gets the new answer and the cached one, as the function returned them."""
    seen: list[tuple[Any, Any]] = []

    async def same(new: Any, cached: Any) -> bool:
        seen.append((new, cached))
        return bool(new["id"] == cached["id"])

    async with s.cache(mode="shadow", same_answer=s.world.written(same)) as cache:
        await cache.fill(await cache.lookup("a b c d"), {"id": 1, "at": 1})
        await cache.fill(await cache.lookup("d c b a"), {"id": 1, "at": 2})
        assert seen == [({"id": 1, "at": 2}, {"id": 1, "at": 1})]
        assert [one.right for one in await cache.labels()] == [True]


@everywhere("memory")
async def test_a_same_answer_that_raises_says_nothing(s: Scene) -> None:
    """No label, no error, and the answer is stored all the same."""

    async def broken(new: Any, cached: Any) -> bool:
        raise ValueError("no")

    async with s.cache(mode="shadow", same_answer=s.world.written(broken)) as cache:
        await cache.fill(await cache.lookup("a b c d"), "A")
        assert await cache.fill(await cache.lookup("d c b a"), "A") is True
        assert await cache.labels() == []
        assert [e["part"] for e in s.heard("failed_open")] == ["same_answer"]


@pytest.mark.timing
@IN_EACH_WORLD
def test_a_same_answer_that_hangs_is_given_up_on(world: World) -> None:
    """The caller waits for its deadline, once for each answer, and not for ever."""
    never = threading.Event()
    cache = SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(), guards=(), mode="shadow",
        same_answer=lambda new, cached: never.wait(60), verify_timeout=0.05,
    )  # fmt: skip
    face = cache if world is THREADS else cache.as_async()

    async def scenario() -> None:
        await settled(face.fill(await settled(face.lookup("a b c d")), "A"))
        assert await settled(face.fill(await settled(face.lookup("d c b a")), "A"))

    world.run(scenario)
    never.set()
    assert cache.labels() == []
    cache.close()


LONG = "You can renew your card in the app under Settings and then Cards."
REWORDED = "In the app, under Settings and then Cards, you can renew your card."
OTHER = "Call us on the number that is printed on the back of your statement."


@everywhere("memory")
async def test_by_default_answers_are_compared_by_text_and_then_by_meaning(s: Scene) -> None:
    """Short ones must be equal; longer ones may be worded in another way."""
    for first, second, same in (
        ("Yes.", "yes", True),
        ("c12", "c13", False),
        (LONG, REWORDED, True),
        (LONG, OTHER, False),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        (b"x", b"x", True),
    ):
        async with s.cache(mode="shadow") as cache:
            await cache.clear()
            known = len(await cache.labels())
            await cache.fill(await cache.lookup("a b c d"), first)
            await cache.fill(await cache.lookup("d c b a"), second)
            assert [one.right for one in await cache.labels()][known:] == [same], (first, second)


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"policy": "best"}, "policy must be 'threshold' or 'learned', got 'best'"),
        ({"mode": "dark"}, "mode must be 'serve' or 'shadow', got 'dark'"),
        ({"max_error": 0.01}, "needs policy='learned'"),
        ({"policy": "learned", "max_error": 1}, "Did you mean 0.01?"),
        ({"policy": "learned", "max_error": 0}, "max_error must be a share between 0 and 1"),
        ({"policy": "learned", "max_error": "1%"}, "max_error must be a share"),
        ({"audit_rate": 2}, "Did you mean 0.02?"),
        ({"audit_rate": -0.1}, "audit_rate must be a share from 0 to 1"),
        ({"verify": "model"}, "verify must be callable or None"),
        ({"same_answer": 3}, "same_answer must be callable or None"),
        ({"verify_band": 0.1}, "verify_band must be two shares"),
        ({"verify_band": (0.1, 5)}, "verify_band must be two shares"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(setting: dict[str, Any], says: str) -> None:
    """Each is a `ValueError` that names the setting, its value and what it may be."""
    with pytest.raises(ValueError, match=r"must be|needs") as caught:
        SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), **setting)
    assert says in str(caught.value)


def test_async_callables_need_an_async_cache() -> None:
    """A coroutine is true: a sync cache that took one would find all answers right."""

    async def ask(one: Any, other: Any) -> bool:
        return False

    for setting in ({"verify": ask}, {"same_answer": ask}):
        with pytest.raises(TypeError, match="is async and SemanticCache is not"):
            SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), **setting)
        with pytest.raises(TypeError, match="is async"):
            semantic_cache(embedder=HashEmbedder(), **setting)(lambda prompt: prompt)


# -- conversations ----------------------------------------------------------------------------


def talk(*turns: str, system: str = "be brief") -> list[dict[str, str]]:
    """A conversation of these turns, the user's first."""
    roles = ("user", "assistant")
    said = [{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)]
    return [{"role": "system", "content": system}, *said]


def standing(messages: Any) -> str | None:
    """A rewriting that knows two follow-ups."""
    topic, last = messages[1]["content"], messages[-1]["content"]
    return {"why": f"why {topic}", "how so": f"{topic} why"}.get(last)


@everywhere()
async def test_a_rewritten_follow_up_meets_other_conversations(s: Scene) -> None:
    """Worded so that it stands alone, it is compared by meaning; the same one asks only once."""
    calls: list[str] = []
    rewritten: list[str] = []

    async def ask(messages: Any) -> str:
        calls.append(messages[-1]["content"])
        return f"answer {len(calls)}"

    async def rewrite(messages: Any) -> str | None:
        rewritten.append(messages[-1]["content"])
        return standing(messages)

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, rewrite=s.world.written(rewrite))(
            s.world.written(ask)
        )
        assert await s.call(function, talk("is the sky blue", "yes", "why")) == "answer 1"
        assert await s.call(function, talk("is the sky blue", "it is", "how so")) == "answer 1"
        assert await s.call(function, talk("is the sky blue", "yes", "why")) == "answer 1"
        assert rewritten == ["why", "how so"]
        # Another system text, another subject, or no way to word it: another answer.
        assert await s.call(function, talk("is the sky blue", "yes", "why", system="x")) != (
            "answer 1"
        )
        assert await s.call(function, talk("do cats purr", "yes", "why")) == "answer 3"
        assert await s.call(function, talk("is the sky blue", "yes", "thanks")) == "answer 4"
        assert await s.call(function, talk("do cats purr", "yes", "thanks")) == "answer 5"
        # A first turn needs no rewriting.
        before = len(rewritten)
        await s.call(function, talk("do fish swim"))
        assert len(rewritten) == before
        # What answered a call can be removed by that call.
        assert await s.call(function.invalidate, talk("is the sky blue", "yes", "why")) == 1
        assert await s.call(function, talk("is the sky blue", "it is", "how so")) == "answer 7"


@everywhere()
async def test_a_rewrite_that_fails_leaves_the_conversation_alone(s: Scene) -> None:
    """It is exact within its conversation then, as without a rewrite; the failure is counted."""

    async def ask(messages: Any) -> str:
        return "A"

    async def broken(messages: Any) -> str:
        raise RuntimeError("model is down")

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, rewrite=s.world.written(broken))(
            s.world.written(ask)
        )
        for turns in (("a", "b", "c"), ("a", "b", "c"), ("a", "x", "c")):
            await s.call(function, talk(*turns))
        assert function.cache_info().hits == 1
        assert [e["part"] for e in s.heard("failed_open")] == ["rewrite", "rewrite"]


# -- thresholds -------------------------------------------------------------------------------


def calibration(**changes: Any) -> Calibration:
    """As `find_threshold` would give it for the embedder of these tests."""
    found: dict[str, Any] = {
        "threshold": 0.9, "target": "max_error", "limit": 0.02, "confidence": 0.95,
        "labels": 400, "hits": 300, "wrong": 1, "upper_bound": 0.016,
        "embedder_fingerprint": HashEmbedder().fingerprint, "dim": 256,
    }  # fmt: skip
    return Calibration(**{**found, **changes})


def test_a_calibration_is_a_threshold_that_is_stored_with_the_cache(tmp_path: Path) -> None:
    """Opened again without a threshold it is in force; a number by hand goes before it."""
    path = tmp_path / "cache.db"
    with SemanticCache(path, embedder=HashEmbedder(), similarity_threshold=calibration()) as cache:
        assert cache.similarity_threshold == 0.9
        cache.put("a", "A")
        assert "calibration: threshold 0.9000" in str(cache.explain("b"))
    with SemanticCache(path, embedder=HashEmbedder()) as cache:
        assert cache.similarity_threshold == 0.9
        assert "at most 2.0% wrong among hits" in str(cache.explain("b"))
        cache.set_similarity_threshold(calibration(threshold=0.8))
    with SemanticCache(path, embedder=HashEmbedder(), similarity_threshold=0.7) as cache:
        assert cache.similarity_threshold == 0.7
        assert "set by hand" in str(cache.explain("b"))
    with SemanticCache(path, embedder=HashEmbedder()) as cache:
        assert cache.similarity_threshold == 0.8


def test_what_find_threshold_found_is_a_threshold() -> None:
    """The result itself may be passed on."""
    pairs = [(f"how do i renew card {at}", f"renew card {at} how do i") for at in range(20)]
    traps = [(f"a b c {at}", f"x y z {at}") for at in range(20)]
    embedder = HashEmbedder()
    found = find_threshold(pairs, traps, embedder)
    with SemanticCache(store=MemoryStore(), embedder=embedder, similarity_threshold=found) as cache:
        assert cache.similarity_threshold == found.threshold


def test_a_calibration_of_another_embedder_is_refused() -> None:
    """Both are named, from the constructor and from the setter; nothing changes."""
    other = calibration(embedder_fingerprint="other:model:256")
    with pytest.raises(EmbedderMismatchError, match="other:model:256"):
        SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=other)
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder()) as cache:
        for wrong in (other, calibration(vector_dtype="int8")):
            with pytest.raises(EmbedderMismatchError, match="not set"):
                cache.set_similarity_threshold(wrong)
        with pytest.raises(ValueError, match="no threshold"):
            cache.set_similarity_threshold(calibration(threshold=None))
        assert cache.similarity_threshold == 0.85


@pytest.mark.parametrize("bad", [85, -0.1, "0.9", True, float("nan")])
def test_a_threshold_that_is_none(bad: Any) -> None:
    """The same message from constructor and setter."""
    with pytest.raises(ValueError, match="must be a cosine"):
        SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=bad)
    cache = SemanticCache(store=MemoryStore(), embedder=HashEmbedder())
    with pytest.raises(ValueError, match="must be a cosine"):
        cache.set_similarity_threshold(bad)


@everywhere()
async def test_audits_raise_a_threshold_that_serves_too_many_wrong_answers(s: Scene) -> None:
    """The bound shows in stats, the rise in health, in `explain` and as an event."""

    async def some(cache: Any, start: int) -> None:
        for number in range(start, start + 40):
            words = f"p{number} q{number} r{number} s{number}"
            await cache.put(words, "A")
            found = await cache.lookup(f"{words} t{number}")
            if not found and found.reason == "audited":
                await cache.fill(found, "B")

    async with s.cache(audit_rate=1.0, max_error=0.05) as cache:
        assert (await cache.stats()).error_bound is None
        await some(cache, 0)
        stats, health = await cache.stats(), await cache.health()
        assert stats.labels_wrong > 3
        assert cache.cache.similarity_threshold > 0.9
        assert "were wrong" in health.tightened
        assert "tightened" in str(await cache.explain("p0 q0 r0 s0 t1"))
        assert s.heard("tightened")[-1]["threshold"] == cache.cache.similarity_threshold
    if s.path is not None:
        async with s.cache(audit_rate=1.0, max_error=0.05) as cache:
            assert cache.cache.similarity_threshold > 0.9
            # Set by hand, it is counted anew from there.
            cache.cache.set_similarity_threshold(0.7)
            assert cache.cache.similarity_threshold == 0.7


@everywhere()
async def test_right_hits_bring_the_bound_down(s: Scene) -> None:
    """Nothing is tightened, and what is shown is what the audits allow to say."""
    async with s.cache(audit_rate=1.0) as cache:
        for number in range(60):
            words = f"p{number} q{number} r{number} s{number}"
            await cache.put(words, "A")
            await cache.fill(await cache.lookup(f"s{number} r{number} q{number} p{number}"), "A")
        stats, health = await cache.stats(), await cache.health()
        assert (stats.labels_right, stats.labels_wrong) == (60, 0)
        assert 0.0 < stats.error_bound < 0.2
        assert (health.error_bound, health.tightened) == (stats.error_bound, "")


# -- the self-check ---------------------------------------------------------------------------


class Narrow:
    """An embedder to which everything is much alike."""

    dim = 4
    fingerprint = "narrow"

    def embed(self, text: str, /) -> Any:
        return [1.0, 0.0, 0.0, len(text) % 7 / 20]


def test_an_embedder_to_which_all_is_alike_is_told_at_construction() -> None:
    """The warning names cosine, threshold and the remedy."""
    with pytest.warns(UserWarning, match=r"unrelated sentences .* mneme\.calibrate"):
        SemanticCache(store=MemoryStore(), embedder=Narrow())
    # Nothing to say: it does not happen at this threshold, or is not asked for.
    SemanticCache(store=MemoryStore(), embedder=Narrow(), similarity_threshold=1.0)
    SemanticCache(store=MemoryStore(), embedder=Narrow(), self_check=False)
    SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.5)


def test_decorating_calls_no_embedder_and_the_first_hit_is_checked() -> None:
    """A module that decorates may be imported without a network; the warning comes in time."""

    @semantic_cache(embedder=Narrow())
    def ask(prompt: str) -> str:
        return "A"

    ask("one")
    with pytest.warns(UserWarning, match="unrelated sentences"):
        ask("another one")
    ask("a third one")


@pytest.mark.parametrize("loop", [one for one in WORLDS if one.is_async], ids=str)
def test_an_async_cache_checks_when_it_is_entered(loop: World) -> None:
    """The constructor cannot wait for the embedder; ``async with`` can."""

    async def scenario() -> None:
        with pytest.warns(UserWarning, match="unrelated sentences"):
            async with AsyncSemanticCache(store=MemoryStore(), embedder=Narrow()):
                pass

    loop.run(scenario)


def test_an_embedder_that_is_down_does_not_stop_the_cache_from_opening() -> None:
    """The first lookup says so."""

    class Down(Narrow):
        def embed(self, text: str, /) -> Any:
            raise OSError("no network")

    with SemanticCache(store=MemoryStore(), embedder=Down()) as cache:
        assert cache.get("q") is None
        assert cache.stats().failed_open == 1


@everywhere("memory")
async def test_decisions_are_the_same_under_a_seed(s: Scene) -> None:
    """Two caches that are asked the same serve, keep back and miss the same."""
    transcripts = []
    for _ in range(2):
        s.store = MemoryStore()
        async with s.cache(policy="learned", audit_rate=0.2, seed=11) as cache:
            outcomes = []
            for number in range(300):
                topic = TOPICS[number % len(TOPICS)]
                found = await settled(cache.lookup(question(topic, number)))
                outcomes.append(getattr(found, "reason", "hit"))
                if not found:
                    await settled(cache.fill(found, topic))
            transcripts.append(outcomes)
    assert transcripts[0] == transcripts[1]
    assert {"hit", "audited", "uncertain"} <= set(transcripts[0])
