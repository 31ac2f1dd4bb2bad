"""Looking up: what is found, what is not and why, in every world alike."""

from __future__ import annotations

import pytest
from support.embedders import cosine
from support.scenes import IN_PROCESS, Scene, everywhere

import mneme
from mneme import Explanation, Hit, Miss, NamespaceRequiredError
from mneme.guards import DEFAULT_GUARDS


@everywhere()
async def test_what_was_put_is_got_back(s: Scene) -> None:
    """An exact hit has the response, similarity 1.0, its age, namespace and metadata."""
    async with s.cache() as cache:
        assert await cache.get("what is a cache") is None
        assert await cache.put("what is a cache", "a memory", metadata={"by": "me"}) is True
        s.clock.advance(3.0)
        hit = await cache.get("what is a cache")
        assert hit == Hit(
            "a memory", 1.0, 1.0, 3.0, "exact", "default", {"by": "me"}, "what is a cache"
        )
        assert s.embedder.texts == ["what is a cache"] * 2


@everywhere()
async def test_reworded_questions_are_semantic_hits(s: Scene) -> None:
    """A question with the same meaning gets the answer, its cosine and the other's prompt."""
    async with s.cache() as cache:
        await cache.put("capital of france", "Paris")
        hit = await cache.get("france capital of")
        assert (hit.response, hit.layer, hit.prompt) == ("Paris", "semantic", "capital of france")
        assert hit.similarity == hit.confidence == pytest.approx(1.0)
        assert await cache.get("boiling point of water") is None


@everywhere()
async def test_falsy_responses_are_responses(s: Scene) -> None:
    """None, empty text, zero and empty lists come back as hits that carry them."""
    async with s.cache() as cache:
        for at, response in enumerate((None, "", 0, False, 0.0, [], {}, b"")):
            query = f"question number {at} {'x' * at}"
            await cache.put(query, response)
            hit = await cache.get(query)
            assert hit.response == response
            assert type(hit.response) is type(response)


@everywhere(*IN_PROCESS)
async def test_the_threshold_is_inclusive_and_moves_at_run_time(s: Scene) -> None:
    """From the threshold on it is a hit; changing the threshold counts from the next lookup."""
    async with s.cache(similarity_threshold=0.9) as cache:
        await cache.put("a", "A", embedding=cosine(1.0))
        assert await cache.get("b", embedding=cosine(0.89)) is None
        assert (await cache.get("b", embedding=cosine(0.91))).similarity == pytest.approx(0.91)
        await cache.set_similarity_threshold(0.5)
        assert cache.cache.similarity_threshold == 0.5
        assert (await cache.get("b", embedding=cosine(0.51))).response == "A"
        miss = await cache.lookup("b", embedding=cosine(0.49))
        assert (miss.reason, miss.nearest_similarity) == ("below_threshold", pytest.approx(0.49))
        for wrong in (85, -0.1, float("nan"), "0.9", True):
            with pytest.raises(ValueError, match=r"cosine from 0\.0 to 1\.0"):
                await cache.set_similarity_threshold(wrong)
        assert (await cache.get("b", embedding=cosine(0.51))).response == "A"


@everywhere()
async def test_the_best_candidate_wins(s: Scene) -> None:
    """Of several entries over the threshold the nearest one answers."""
    async with s.cache(similarity_threshold=0.5) as cache:
        for prompt, value in (("far", 0.6), ("near", 0.99), ("middle", 0.8)):
            await cache.put(prompt, prompt, embedding=cosine(value))
        assert (await cache.get("asked", embedding=cosine(1.0))).response == "near"


@everywhere()
async def test_case_spacing_and_final_punctuation_do_not_matter(s: Scene) -> None:
    """The exact layer knows a question by its normalized form, and `put` replaces by it."""
    async with s.cache() as cache:
        await cache.put("What  is a\tcache?", "old")
        await cache.put("what is a cache", "new")
        for asked in ("WHAT IS A CACHE??", " what is a cache ", "what is a cache."):
            hit = await cache.get(asked)
            assert (hit.response, hit.layer) == ("new", "exact")
        assert (await cache.stats()).entries == 1


@everywhere("memory")
async def test_normalizing_can_be_off_or_ones_own(s: Scene) -> None:
    """With normalize=False every character matters; a function of one's own decides instead."""
    async with s.cache(normalize=False) as cache:
        await cache.put("Cache", "A", embedding=cosine(1.0))
        assert (await cache.get("cache", embedding=cosine(1.0))).layer == "semantic"
        assert (await cache.get("Cache")).layer == "exact"
    async with s.cache(normalize=lambda text: text.replace("-", "")) as cache:
        await cache.put("e-mail", "B")
        assert (await cache.get("email")).layer == "exact"


@everywhere()
async def test_namespaces_never_meet(s: Scene) -> None:
    """An answer is only found in the namespace it was put in, by every way of naming one."""
    async with s.cache() as cache:
        await cache.put("capital of france", "for a", namespace="a")
        with mneme.namespace("b"):
            await cache.put("capital of france", "for b")
        assert await cache.get("capital of france") is None
        assert await cache.get("france capital of", namespace="c") is None
        assert (await cache.get("capital of france", namespace="b")).response == "for b"
        with mneme.namespace("b"):
            assert (await cache.get("france capital of")).response == "for b"
            # What the call names goes before what is open around it.
            assert (await cache.get("france capital of", namespace="a")).response == "for a"
            with mneme.namespace("a"):
                assert (await cache.get("capital of france")).response == "for a"
            assert (await cache.get("capital of france")).response == "for b"
        assert await cache.list_namespaces() == ["a", "b"]


@everywhere()
async def test_a_namespace_can_be_required(s: Scene) -> None:
    """With require_namespace, calls outside any namespace are refused, and say what to do."""
    async with s.cache(require_namespace=True) as cache:
        for name, *args in (("get", "q"), ("put", "q", "r"), ("delete", "q"), ("explain", "q")):
            with pytest.raises(NamespaceRequiredError, match=r"with mneme\.namespace"):
                await getattr(cache, name)(*args)
        with mneme.namespace("tenant"):
            await cache.put("q", "r")
        assert (await cache.get("q", namespace="tenant")).response == "r"
        assert await cache.invalidate(tag="none") == 0
        assert await cache.clear_namespace("tenant") == 1


@everywhere()
async def test_wrong_queries_and_namespaces_are_refused(s: Scene) -> None:
    """Blank, oversized or non-text queries and useless names raise and leave nothing behind."""
    async with s.cache(max_query_bytes=20) as cache:
        for query in ("", " \n", "x" * 21, "é" * 11, "\ud800"):
            for name, *more in (("get",), ("put", "r"), ("delete",), ("lookup",)):
                with pytest.raises(ValueError, match=r"Nothing was (looked up or )?stored"):
                    await getattr(cache, name)(query, *more)
        await cache.put("x" * 20, "fits")
        for query in (None, 5, b"bytes"):
            with pytest.raises(TypeError, match="must be text"):
                await cache.get(query)
        for namespace in ("", "a\0b", "x" * 1_025):
            with pytest.raises(ValueError, match="name for a namespace"):
                await cache.get("q", namespace=namespace)
        with pytest.raises(TypeError, match="a namespace is text"):
            await cache.get("q", namespace=7)
        with pytest.raises(TypeError, match="list of queries"):
            await cache.get_many("one text")
        assert (await cache.stats()).entries == 1
        assert (await cache.stats()).misses == 0


@everywhere(*IN_PROCESS)
async def test_lookup_says_why_and_fill_embeds_nothing(s: Scene) -> None:
    """A `Miss` is falsy, has its reason and nearest similarity, and is filled with its vector."""
    async with s.cache() as cache:
        miss = await cache.lookup("capital of france")
        assert isinstance(miss, Miss)
        assert not miss
        assert miss.reason == "absent"
        assert await cache.fill(miss, "Paris", metadata={"n": 1}, tags=["geo"]) is True
        assert s.embedder.texts == ["capital of france"]
        assert (await cache.get("france capital of")).metadata == {"n": 1}
        assert await cache.invalidate(tag="geo") == 1
        near = await cache.lookup("capital city of france")
        assert near.nearest_similarity is None
        await cache.put("capital of france", "Paris")
        near = await cache.lookup("capital of spain now")
        assert near.reason == "below_threshold"
        assert 0.2 < near.nearest_similarity < 0.8


@everywhere()
async def test_explain_shows_every_candidate_and_counts_nothing(s: Scene) -> None:
    """`explain` gives the outcome, a verdict for each candidate and a report to read."""
    async with s.cache(guards=[_refuse_digits]) as cache:
        await cache.put("room 5", "five", embedding=cosine(1.0))
        await cache.put("the room", "room", embedding=cosine(0.95))
        await cache.put("elsewhere", "no", embedding=cosine(0.1))
        before = await cache.stats()
        explained = await cache.explain("which room", embedding=cosine(1.0))
        assert isinstance(explained, Explanation)
        assert [v.reason for v in explained.verdicts] == ["guarded", None, "below_threshold"]
        assert explained.outcome.response == "room"
        assert "room 5" in str(explained)
        assert "guarded (digits)" in str(explained)
        explained = await cache.explain("room 5")
        assert explained.outcome.layer == "exact"
        assert (await cache.explain("nothing like it")).outcome.reason == "below_threshold"
        assert await cache.stats() == before


def _refuse_digits(asked: str, cached: str) -> str | None:
    return "digits" if any(letter.isdigit() for letter in cached) else None


@everywhere()
async def test_guards_refuse_semantic_candidates_only(s: Scene) -> None:
    """A guarded candidate makes room for the next; the exact layer asks no guard."""
    async with s.cache(guards=[_refuse_digits]) as cache:
        await cache.put("room 5", "five", embedding=cosine(1.0))
        assert (await cache.get("ROOM 5?", embedding=cosine(1.0))).layer == "exact"
        miss = await cache.lookup("room five", embedding=cosine(1.0))
        assert (miss.reason, miss.nearest_similarity) == ("guarded", pytest.approx(1.0))
        assert len(s.heard("guarded")) == 1
        await cache.put("a room", "fallback", embedding=cosine(0.9))
        assert (await cache.get("room five", embedding=cosine(1.0))).response == "fallback"


@everywhere("memory")
async def test_guards_are_on_by_default(s: Scene) -> None:
    """Another number in the same words is another question, unless guards are turned off."""
    async with s.cache(guards=DEFAULT_GUARDS) as cache:
        await cache.put("refunds within 30 days", "yes", embedding=cosine(1.0))
        miss = await cache.lookup("refunds within 90 days", embedding=cosine(0.99))
        assert miss.reason == "guarded"
        assert (await cache.get("refunds in 30 days", embedding=cosine(0.99))).response == "yes"
    async with s.cache(guards=()) as cache:
        assert await cache.get("refunds within 90 days", embedding=cosine(0.99)) is not None


@everywhere()
async def test_the_validator_is_asked_at_put_and_in_both_layers(s: Scene) -> None:
    """What the validator refuses is not stored, and what is stored is not served."""
    refused: set[str] = {"never"}
    async with s.cache(validator=lambda response: response not in refused) as cache:
        assert await cache.put("a", "never", embedding=cosine(1.0)) is False
        assert (await cache.stats()).entries == 0
        assert await cache.put("a", "later", embedding=cosine(1.0)) is True
        refused.add("later")
        assert await cache.get("a") is None
        miss = await cache.lookup("b", embedding=cosine(1.0))
        assert miss.reason == "invalid"
        refused.discard("later")
        assert (await cache.get("a")).response == "later"


@everywhere()
async def test_confidence_decides_in_both_layers(s: Scene) -> None:
    """confidence_fn sees similarity, age and metadata; under the threshold it is a miss."""
    asked: list[tuple[float, float, dict[str, object]]] = []

    def confidence(similarity: float, age_seconds: float, metadata: dict[str, object]) -> float:
        asked.append((round(similarity, 4), age_seconds, metadata))
        return similarity - age_seconds / 100.0

    async with s.cache(confidence_fn=confidence) as cache:
        await cache.put("a", "A", embedding=cosine(1.0), metadata={"k": 1})
        s.clock.advance(10.0)
        assert (await cache.get("a")).confidence == pytest.approx(0.9)
        assert (await cache.get("b", embedding=cosine(0.95))).confidence == pytest.approx(0.85)
        s.clock.advance(15.0)
        assert await cache.get("a", embedding=cosine(1.0)) is None
        assert (await cache.lookup("b", embedding=cosine(0.99))).reason == "low_confidence"
        assert asked[:2] == [(1.0, 10.0, {"k": 1}), (0.95, 10.0, {"k": 1})]


@everywhere()
async def test_age_alone_never_makes_a_miss(s: Scene) -> None:
    """Without a TTL and a confidence_fn an entry serves for ever."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        s.clock.advance(50 * 365 * 86_400.0)
        assert (await cache.get("q")).confidence == 1.0


@everywhere()
async def test_get_many_is_one_batch_in_order(s: Scene) -> None:
    """Many lookups cost one embedder batch for those that the exact layer does not know."""
    async with s.cache() as cache:
        assert await cache.put_many([("capital of france", "Paris"), ("red colour", "red")]) == 2
        assert s.embedder.batches == [2]
        found = await cache.get_many(
            ["france capital of", "Red colour", "something else", "colour red"]
        )
        assert [hit and hit.response for hit in found] == ["Paris", "red", None, "red"]
        assert [hit.layer for hit in found if hit] == ["semantic", "exact", "semantic"]
        assert s.embedder.batches == [2, 3]
        assert await cache.get_many([]) == []
        stats = await cache.stats()
        assert (stats.hits_exact, stats.hits_semantic, stats.misses) == (1, 2, 1)


@everywhere()
async def test_many_take_embeddings_of_their_own(s: Scene) -> None:
    """Given vectors spare the embedder; their number must be that of the queries."""
    async with s.cache() as cache:
        vectors = [cosine(1.0), cosine(0.0)]
        await cache.put_many({"a": "A", "b": "B"}, embeddings=vectors)
        found = await cache.get_many(["x", "y"], embeddings=vectors)
        assert [hit.response for hit in found] == ["A", "B"]
        with pytest.raises(ValueError, match="1 embeddings for 2"):
            await cache.get_many(["x", "y"], embeddings=vectors[:1])
        with pytest.raises(ValueError, match="1 embeddings for 2"):
            await cache.put_many({"c": "C", "d": "D"}, embeddings=vectors[:1])
        assert (await cache.stats()).entries == 2
        assert s.embedder.texts == []


@everywhere()
async def test_bypass_neither_reads_nor_writes(s: Scene) -> None:
    """Under bypass lookups find nothing and puts keep nothing; afterwards all is as before."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        assert await cache.get("q", bypass=True) is None
        with mneme.bypass():
            assert await cache.get("q") is None
            assert (await cache.lookup("q")).reason == "bypass"
            assert await cache.put("q", "other") is False
            assert await cache.put_many({"p": "other"}) == 0
            assert await cache.get_many(["q"]) == [None]
        assert (await cache.get("q")).response == "r"
        assert (await cache.stats()).entries == 1
        assert (await cache.stats()).misses == 0


@everywhere()
async def test_refresh_reads_nothing_and_overwrites(s: Scene) -> None:
    """Under refresh every lookup is a miss that counts for nothing, and puts replace."""
    async with s.cache() as cache:
        await cache.put("q", "old")
        with mneme.refresh():
            miss = await cache.lookup("q")
            assert miss.reason == "refresh"
            await cache.fill(miss, "new")
        assert (await cache.get("q")).response == "new"
        assert (await cache.stats()).misses == 0


@everywhere()
async def test_observe_collects_outcomes(s: Scene) -> None:
    """Every outcome inside the block is collected in order, in nested blocks too."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        with mneme.observe() as outer:
            await cache.get("q")
            with mneme.observe() as inner:
                await cache.get_many(["q", "zzz"])
        await cache.get("q")
        assert [isinstance(one, Hit) for one in outer] == [True, True, False]
        assert outer[1:] == inner


@everywhere()
async def test_served_values_are_the_callers_own(s: Scene) -> None:
    """Changing a served response or its metadata changes nothing for the next caller."""
    async with s.cache() as cache:
        given, notes = {"items": [1]}, {"tags": ["x"]}
        await cache.put("q", given, metadata=notes, embedding=cosine(1.0))
        given["items"].append(2)
        notes["tags"].append("y")
        for query in ("q", "other"):
            hit = await cache.get(query, embedding=cosine(1.0))
            hit.response["items"].append(3)
            hit.metadata["tags"].append("z")
        hit = await cache.get("q")
        assert (hit.response, hit.metadata) == ({"items": [1]}, {"tags": ["x"]})


@everywhere()
async def test_long_text_is_exact_only(s: Scene) -> None:
    """A prompt past the embedder's max_chars is never compared, only found again as it is."""
    s.embedder.max_chars = 10  # type: ignore[attr-defined]
    async with s.cache() as cache:
        await cache.put("a prompt of many characters", "r")
        assert (await cache.get("A prompt of many characters!")).layer == "exact"
        assert (await cache.lookup("many characters of a prompt")).reason == "exact_only"
        assert s.embedder.texts == []
