"""From candidates to the one that may be served, or the reason why none may."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.choose import Choice, Rules, Unusable, as_hit, choose
from mneme.codecs import AutoCodec
from mneme.records import Candidate, Entry, Hit, MissReason, Payload, Verdict
from mneme.testing import entry
from mneme.types import Guard

NOW = 1_700_000_000.0
CODEC = AutoCodec()
AGES: dict[str, dict[str, Any]] = {
    "fresh": {"expires_at": NOW + 10.0, "dies_at": NOW + 20.0},
    "endless": {},
    "stale": {"expires_at": NOW - 10.0, "dies_at": NOW + 10.0},
    "expired": {"expires_at": NOW - 20.0, "dies_at": NOW - 10.0},
    "just stale": {"expires_at": NOW, "dies_at": NOW + 1.0},
    "just fresh": {"expires_at": NOW + 0.5},
    "over": {"expires_at": NOW},
}
COSINES = st.one_of(st.floats(), st.floats(-1, 1), st.sampled_from([0.8, 0.85, 0.9, 1.0]))
# Most candidates pass each rule, so that many are refused by one rule alone.
NEAR = st.one_of(st.floats(0.85, 1), st.floats(0.85, 1), COSINES)
MOSTLY_NOT = st.sampled_from([False] * 5 + [True])
THRESHOLDS = st.one_of(st.floats(0, 1), st.floats(0, 0.85))


def refuses(asked: str, cached: str) -> str | None:
    return "another number" if "guarded" in cached else None


def is_right(response: str) -> bool:
    return "invalid" not in response


def doubts(similarity: float, age: float, metadata: dict[str, Any]) -> float:
    return float(metadata.get("confidence", similarity))


RULES = Rules(0.85, (refuses,), is_right, doubts)


@dataclass(frozen=True)
class Trait:
    """What one candidate is like, and what must come of it."""

    similarity: float
    age: str = "fresh"
    is_guarded: bool = False
    is_invalid: bool = False
    is_readable: bool = True
    confidence: float | None = None

    def candidate(self, at: int) -> Candidate:
        """The candidate; `at` tells it from the others."""
        note = {} if self.confidence is None else {"confidence": self.confidence}
        kind = "text" if self.is_readable else "pickle"
        text = f"answer {at}{' invalid' if self.is_invalid else ''}"
        return Candidate(
            entry(
                f"question {at}{' guarded' if self.is_guarded else ''}",
                payload=Payload(kind, text),
                metadata=json.dumps(note) if note else "{}",
                created_at=NOW - 5.0,
                **AGES[self.age],
            ),
            self.similarity,
        )

    def verdict(self, threshold: float) -> MissReason | None:
        """The reason by the words of the rules, in the order in which they are asked."""
        if math.isnan(self.similarity) or self.similarity < threshold:
            return "below_threshold"
        if self.is_guarded:
            return "guarded"
        if self.age in ("expired", "over"):
            return "expired"
        if not self.is_readable:
            return "undecodable"
        if self.is_invalid:
            return "invalid"
        confidence = self.similarity if self.confidence is None else self.confidence
        if math.isnan(confidence) or confidence < threshold:
            return "low_confidence"
        return "stale" if self.age in ("stale", "just stale") else None


TRAITS = st.builds(
    Trait,
    similarity=NEAR,
    age=st.sampled_from(list(AGES)),
    is_guarded=MOSTLY_NOT,
    is_invalid=MOSTLY_NOT,
    is_readable=MOSTLY_NOT.map(lambda isnt: not isnt),
    confidence=st.one_of(st.none(), st.none(), st.none(), COSINES),
)


def chosen(*traits: Trait, rules: Rules = RULES) -> Choice:
    candidates = [trait.candidate(at) for at, trait in enumerate(traits)]
    return choose("asked", candidates, rules, now=NOW, codec=CODEC)


class TestChoose:
    @given(st.lists(TRAITS, max_size=6), THRESHOLDS)
    def test_the_first_that_passes_every_rule_is_taken(
        self, traits: list[Trait], threshold: float
    ) -> None:
        """Whatever the floats, the hit is the first allowed one, and all before it are refused."""
        choice = chosen(*traits, rules=replace(RULES, threshold=threshold))
        expected = [trait.verdict(threshold) for trait in traits]
        taken = expected.index(None) if None in expected else None
        seen = expected if taken is None else expected[: taken + 1]
        assert [verdict.reason for verdict in choice.verdicts] == seen
        if taken is None:
            assert choice.hit is None
            assert choice.entry is None
            assert choice.reason == (expected[0] if expected else "absent")
            return
        best = traits[taken]
        assert choice.hit is not None
        assert choice.hit.similarity == best.similarity >= threshold
        assert choice.hit.response == f"answer {taken}"
        assert choice.entry == best.candidate(taken).entry

    @given(st.lists(TRAITS, max_size=6))
    def test_the_best_stale_answer_is_kept_aside(self, traits: list[Trait]) -> None:
        """The first candidate that only its age refuses is given as stale, never as the hit."""
        choice = chosen(*traits)
        expected = [verdict.reason for verdict in choice.verdicts]
        if "stale" not in expected:
            assert choice.stale is None
            return
        assert choice.stale is not None
        assert choice.stale.response == f"answer {expected.index('stale')}"
        assert choice.stale.ttl_seconds in (-10.0, 0.0)
        assert choice.hit is None or choice.hit.response != choice.stale.response

    @given(st.lists(TRAITS, min_size=1, max_size=6))
    def test_the_nearest_similarity_is_that_of_the_best_refused(self, traits: list[Trait]) -> None:
        """A miss tells how near the best candidate was."""
        choice = chosen(*traits)
        if choice.verdicts[0].reason is not None:
            assert choice.nearest_similarity == pytest.approx(traits[0].similarity, nan_ok=True)
        else:
            assert choice.nearest_similarity is None

    @pytest.mark.parametrize(("age", "ttl"), [("stale", -10.0), ("just stale", 0.0)])
    def test_a_stale_answer_is_no_hit(self, age: str, ttl: float) -> None:
        """From the moment it expires an answer is stale, and a fresh one behind it is the hit."""
        choice = chosen(Trait(0.95, age), Trait(0.9, age), Trait(0.9, "just fresh"))
        assert choice.stale is not None
        assert (choice.stale.response, choice.stale.ttl_seconds) == ("answer 0", ttl)
        assert choice.hit is not None
        assert (choice.hit.response, choice.hit.ttl_seconds) == ("answer 2", 0.5)
        assert chosen(Trait(0.95, age)).reason == "stale"

    def test_no_candidates_are_a_miss_without_a_similarity(self) -> None:
        """Where nothing is near there is nothing to tell."""
        assert chosen() == Choice(None, None, "absent", None, None, ())

    def test_the_threshold_itself_is_enough(self) -> None:
        """A cosine equal to the threshold is a hit, the next float below it is not."""
        assert chosen(Trait(0.85)).hit is not None
        assert chosen(Trait(math.nextafter(0.85, 0.0))).reason == "below_threshold"

    def test_the_verdicts_name_prompt_and_reason(self) -> None:
        """Each candidate that was looked at has a line, those after the hit have none."""
        traits = Trait(0.99, is_guarded=True), Trait(0.95), Trait(0.9)
        assert chosen(*traits).verdicts == (
            Verdict("question 0 guarded", 0.99, "guarded", "another number"),
            Verdict("question 1", 0.95, None),
        )

    def test_guards_are_asked_in_order_until_one_refuses(self) -> None:
        """Each guard hears what was asked and what is cached; the first reason counts."""
        heard: list[tuple[str, str, str]] = []

        def guard(name: str, why: str | None) -> Guard:
            def asked_about(asked: str, cached: str) -> str | None:
                heard.append((name, asked, cached))
                return why

            return asked_about

        rules = Rules(0.5, (guard("a", None), guard("b", "no"), guard("c", "never")))
        (verdict,) = chosen(Trait(0.9), rules=rules).verdicts
        assert verdict.detail == "no"
        assert heard == [("a", "asked", "question 0"), ("b", "asked", "question 0")]

    def test_a_candidate_below_the_threshold_costs_nothing(self) -> None:
        """Neither guard nor validator nor codec is asked about what is too far."""
        rules = Rules(0.85, (raising,), raising, raising)
        assert chosen(Trait(0.5, is_readable=False), rules=rules).reason == "below_threshold"

    def test_an_empty_reason_of_a_guard_is_a_reason(self) -> None:
        """Only None lets a candidate pass."""
        rules = Rules(0.85, (lambda asked, cached: "",))
        assert chosen(Trait(0.9), rules=rules).reason == "guarded"


class Oops(Exception):
    pass


def raising(*args: Any) -> Any:
    raise Oops("no such model")


class Unclear:
    """Neither true nor false, as an array of several numbers is."""

    def __bool__(self) -> bool:
        raise Oops("neither")


class TestRulesThatRaise:
    @pytest.mark.parametrize(
        ("rules", "reason", "detail"),
        [
            (Rules(0.85, (raising,)), "guarded", "Oops: no such model"),
            (Rules(0.85, (), raising), "invalid", "Oops: no such model"),
            (Rules(0.85, (), lambda response: Unclear()), "invalid", "Oops: neither"),  # type: ignore[arg-type, return-value]
            (Rules(0.85, (), None, raising), "low_confidence", "Oops: no such model"),
            (Rules(0.85, (), None, lambda *args: None), "low_confidence", "TypeError: "),  # type: ignore[arg-type, return-value]
            (Rules(0.85, (), None, lambda *args: "high"), "low_confidence", "ValueError: "),  # type: ignore[arg-type, return-value]
        ],
    )
    def test_a_rule_that_raises_refuses(
        self, rules: Rules, reason: MissReason, detail: str
    ) -> None:
        """A broken rule makes a miss that says what it raised."""
        choice = chosen(Trait(0.9), rules=rules)
        assert (choice.hit, choice.reason) == (None, reason)
        assert choice.verdicts[0].detail.startswith(detail)

    def test_the_next_candidate_is_still_looked_at(self) -> None:
        """What a rule raises about one candidate says nothing of the next."""

        def picky(response: str) -> bool:
            return response == "answer 1" or raising()

        choice = chosen(Trait(0.9), Trait(0.88), rules=Rules(0.85, (), picky))
        assert choice.hit is not None
        assert choice.hit.response == "answer 1"

    @pytest.mark.parametrize("place", ["guard", "validator", "confidence_fn"])
    def test_what_is_no_error_is_not_stopped(self, place: str) -> None:
        """An interrupt in a rule is no verdict about a candidate."""

        def interrupted(*args: Any) -> Any:
            raise KeyboardInterrupt

        rules = {
            "guard": Rules(0.85, (interrupted,)),
            "validator": Rules(0.85, (), interrupted),
            "confidence_fn": Rules(0.85, (), None, interrupted),
        }[place]
        with pytest.raises(KeyboardInterrupt):
            chosen(Trait(0.9), rules=rules)


class TestAsHit:
    def hit(self, kept: Entry, rules: Rules = RULES, similarity: float = 1.0) -> Hit:
        return as_hit(kept, similarity, "exact", rules, now=NOW, codec=CODEC)

    def test_an_entry_becomes_an_answer(self) -> None:
        """A hit tells everything about the answer: how near, how sure, how old, whose."""
        kept = entry(
            "q",
            "a",
            namespace="n",
            created_at=NOW - 60.0,
            expires_at=NOW + 30.0,
            metadata='{"model": "m"}',
        )
        assert self.hit(kept, Rules(0.85)) == Hit(
            "a", 1.0, 1.0, 60.0, "exact", "n", {"model": "m"}, "q", 30.0
        )

    def test_without_an_end_there_is_no_ttl(self) -> None:
        """An answer without a TTL says so."""
        assert self.hit(entry()).ttl_seconds is None

    @pytest.mark.parametrize("age", [0.0, 0.25, 1e9])
    def test_the_age_is_that_of_the_entry(self, age: float) -> None:
        """The age is counted from when the answer was given."""
        assert self.hit(entry(created_at=NOW - age)).age_seconds == age

    def test_an_age_is_never_negative(self) -> None:
        """A clock that was set back makes no answer come from the future."""
        assert self.hit(entry(created_at=NOW + 99.0)).age_seconds == 0.0

    def test_the_confidence_function_hears_similarity_age_and_metadata(self) -> None:
        """What it says is the confidence of the hit, and the similarity stays what it is."""
        heard: list[tuple[float, float, dict[str, Any]]] = []

        def confidence(similarity: float, age: float, metadata: dict[str, Any]) -> float:
            heard.append((similarity, age, metadata))
            return 0.9

        kept = entry(created_at=NOW - 7.0, metadata='{"n": 1}')
        hit = self.hit(kept, Rules(0.85, confidence_fn=confidence), 0.87)
        assert heard == [(0.87, 7.0, {"n": 1})]
        assert (hit.similarity, hit.confidence) == (0.87, 0.9)

    @given(COSINES, st.floats(0, 1))
    def test_the_confidence_must_reach_the_threshold(
        self, confidence: float, threshold: float
    ) -> None:
        """For any float, a confidence below the threshold is a miss that says how low it was."""
        rules = Rules(threshold, confidence_fn=lambda *args: confidence)
        if confidence >= threshold:
            assert self.hit(entry(), rules).confidence == confidence
            return
        with pytest.raises(Unusable) as refused:
            self.hit(entry(), rules)
        assert refused.value.reason == "low_confidence"
        assert refused.value.detail == f"confidence {confidence:.4f}"

    def test_by_default_the_similarity_is_the_confidence_and_age_does_not_matter(self) -> None:
        """Age alone never turns a hit into a miss."""
        assert self.hit(entry(created_at=0.0), Rules(0.85), 0.86).confidence == 0.86

    def test_a_similarity_is_not_compared_here(self) -> None:
        """An exact match needs no cosine: the threshold is for what is merely near."""
        assert self.hit(entry(), Rules(1.0), 0.1).similarity == 0.1

    def test_no_two_hits_share_their_metadata(self) -> None:
        """A caller may change the metadata of a hit without changing the next one's."""
        kept = entry(metadata='{"n": [1]}')
        first, second = self.hit(kept), self.hit(kept)
        first.metadata["n"].append(2)
        self.hit(entry()).metadata["x"] = 1
        assert second.metadata == {"n": [1]}
        assert self.hit(entry()).metadata == {}

    @pytest.mark.parametrize(
        ("kept", "reason", "detail"),
        [
            (entry(**AGES["expired"]), "expired", ""),
            (entry(response="invalid"), "invalid", ""),
            (entry(payload=Payload("json", "{")), "undecodable", "Expecting"),
            (entry(payload=Payload("pickle", b"")), "undecodable", "stored as pickle"),
            (entry(metadata='{"confidence": 0.1}'), "low_confidence", "confidence 0.1000"),
        ],
    )
    def test_what_may_not_be_served_says_why(
        self, kept: Entry, reason: MissReason, detail: str
    ) -> None:
        """An entry that any rule refuses is unusable, with the reason of the miss it makes."""
        with pytest.raises(Unusable) as refused:
            self.hit(kept)
        assert refused.value.reason == reason
        assert detail in refused.value.detail
        assert str(refused.value) == reason


def test_a_hit_is_a_hit_like_any_other() -> None:
    """However it was filled: equal, frozen, of one class, and replaceable."""
    made = as_hit(entry(), 0.9, "semantic", Rules(0.8), now=1_700_000_001.0, codec=AutoCodec())
    plain = Hit("a memory", 0.9, 0.9, 1.0, "semantic", "default", {}, "what is a cache", None)
    assert (type(made), made, hash(made.prompt)) == (Hit, plain, hash(plain.prompt))
    assert replace(made, similarity=1.0) == replace(plain, similarity=1.0)
    assert pickle.loads(pickle.dumps(made)) == plain
    with pytest.raises(FrozenInstanceError):
        made.similarity = 0.5  # type: ignore[misc]
