"""How far a guard is heeded by the learned policy."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mneme._core.choose import Rules
from mneme._core.judge import Judge
from mneme._core.keys import Ask, normalize
from mneme._core.learned.policy import Decision
from mneme._core.learned.vetoes import Vetoes
from mneme._core.manner import Manner
from mneme.codecs import AutoCodec
from mneme.guards import numbers
from mneme.records import Candidate, Partition
from mneme.testing import entry

HERE = Partition(b"p" * 16)


def of_the_user(asked: str, cached: str) -> str | None:
    return "numbers: mine"


chances = st.floats(0.001, 0.2)


@given(st.lists(st.tuples(st.sampled_from(["numbers", "names"]), chances, st.booleans())), chances)
def test_a_refusal_never_makes_an_answer_likelier(
    heard: list[tuple[str, float, bool]], said: float
) -> None:
    """And the chance stays one, whatever was heard."""
    vetoes = Vetoes()
    for guard, chance, wrong in heard:
        vetoes.learn(guard, chance, float(wrong))
    assert said <= vetoes.chance_wrong("numbers", said) < 1.0


def test_a_guard_is_believed_until_it_is_known_to_be_wrong() -> None:
    """It loses its say by refusing what is right, and others a part of theirs with it."""
    vetoes = Vetoes()
    before = vetoes.chance_wrong("numbers", 0.01)
    assert before > 0.05
    for _ in range(15):
        vetoes.learn("numbers", 0.02, 0.0)
    assert vetoes.chance_wrong("numbers", 0.01) < 0.03
    assert vetoes.chance_wrong("numbers", 0.01) < vetoes.chance_wrong("names", 0.01) < before
    for _ in range(10):
        vetoes.learn("names", 0.02, 1.0)
    assert vetoes.chance_wrong("names", 0.01) > 0.1


def judged(judge: Judge, rules: Rules) -> tuple[str, float | None]:
    """What becomes of a candidate that the policy is sure of, and its confidence."""
    learned = judge._learned
    assert learned is not None
    near = [Candidate(entry("renew 3 cards"), 0.99)]
    name = b"".join(near[0].entry.identity)
    learned.added(name, near[0].entry.prompt)
    ask = Ask("n", HERE, "renew 4 cards", AutoCodec(), normalize)

    def weigh(text: str, neighbours: object) -> Decision:
        found = type(learned).weigh(learned, text, neighbours)  # type: ignore[arg-type]
        return replace(found, serve=found.candidate, chance_wrong=0.02, limit=0.1)

    learned.weigh = weigh  # type: ignore[method-assign, assignment]
    choice = judge.weigh(ask, rules, near, 0.0)
    return choice.reason, None if choice.hit is None else choice.hit.confidence


def test_a_built_in_guard_is_overruled_where_it_is_known_to_be_wrong() -> None:
    """Not before; and a guard of the user's own never is."""
    rules = Rules(0.8, (numbers,))
    judge = Judge("policy", Manner(policy="learned"))
    assert judged(judge, rules) == ("guarded", None)
    assert judge._learned is not None
    for _ in range(100):
        judge._learned.vetoes.learn("numbers", 0.02, 0.0)
    _, confidence = judged(judge, rules)
    assert confidence is not None
    assert judged(judge, replace(rules, guards=(of_the_user, numbers))) == ("guarded", None)
