"""The learned policy serves what its labels support, under its budget, and forgets nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme._core.learned.budget import Budget
from mneme._core.learned.features import FEATURES
from mneme._core.learned.fit import Calibration, Posterior, Rows, chance, focused, newton
from mneme._core.learned.labels import Comparisons
from mneme._core.learned.lexical import Rarity, evidence, gist
from mneme._core.learned.notes import Note, Notes
from mneme._core.learned.policy import WARM_UP, Decision, LearnedPolicy, Neighbour
from mneme._core.learned.prior import read_prior, shipped_prior
from mneme._core.learned.state import dump, load
from mneme._core.learned.words import WordModel

TOPICS = ("open an account", "lost my card", "change the address", "exchange rate", "close it")
FRAMES = ("how do i {}", "please {}", "i want to {} now", "can you help me {}", "what about {}")


class Town:
    """A world of few answers: asks by topic, vectors around the topic's own."""

    def __init__(self, policy: LearnedPolicy, seed: int = 0, spread: float = 0.7) -> None:
        self.policy = policy
        self.random = np.random.default_rng(seed)
        self.centres = self._unit(self.random.normal(size=(len(TOPICS), 32)))
        self.spread = spread
        self.texts: list[str] = []
        self.topics: list[int] = []
        self.vectors = np.empty((0, 32))
        self.served = self.wrong = self.asks = 0

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def ask(self) -> Decision:
        topic = int(self.random.integers(len(TOPICS)))
        text = str(self.random.choice(FRAMES)).format(TOPICS[topic])
        noise = self._unit(self.random.normal(size=32)) * self.spread
        vector = self._unit(self.centres[topic] + noise)
        decision = self.policy.decide(text, self.near(vector))
        self.asks += 1
        if decision.serve is not None:
            self.served += 1
            self.wrong += self.topics[number(decision.serve)] != topic
        else:
            same = {entry: self.topics[number(entry)] == topic for entry in decision.compare}
            opinion = self.policy.learned(decision, same)
            self.policy.added(name(len(self.texts)), text, decision, opinion)
            self.texts.append(text)
            self.topics.append(topic)
            self.vectors = np.vstack([self.vectors, vector])
            if self.policy.is_due:
                self.policy.refit()
        return decision

    def near(self, vector: np.ndarray) -> list[Neighbour]:
        cosines = self.vectors @ vector
        best = np.argsort(-cosines, kind="stable")[:8].tolist()
        return [Neighbour(name(at), float(cosines[at]), self.texts[at]) for at in best]

    def run(self, asks: int) -> list[tuple[bytes | None, float]]:
        return [(found.serve, found.chance_wrong) for found in (self.ask() for _ in range(asks))]


def name(entry: int) -> bytes:
    return entry.to_bytes(4)


def number(entry: bytes) -> int:
    return int.from_bytes(entry)


# -- serving ----------------------------------------------------------------------------------


def test_nothing_is_served_before_there_are_labels() -> None:
    """However near an entry is, no answer is served before answers have been compared."""
    policy = LearnedPolicy(0.05)
    for at in range(8):
        policy.added(name(at), f"how do i open account {at}")
    near = [Neighbour(name(at), 1.0 - at / 100, f"how do i open account {at}") for at in range(8)]
    for _ in range(3_000):
        decision = policy.decide("how do i open account 0", near)
        assert decision.serve is None
        assert not decision.is_audit


def test_it_learns_to_serve() -> None:
    """Where the neighbours tell the answer, most asks are served, and right."""
    town = Town(LearnedPolicy(0.01))
    town.run(600)
    before = town.served
    town.run(600)
    assert town.served - before > 400
    assert town.wrong <= 12


def test_where_neighbours_tell_nothing_hardly_anything_is_served_wrong() -> None:
    """When near entries have other answers as often as not, errors stay within the budget."""
    policy = LearnedPolicy(0.01)
    town = Town(policy, spread=12.0)
    town.run(1_500)
    assert town.wrong <= 25


def test_an_entry_that_may_not_serve_is_never_served() -> None:
    """A neighbour that a guard refused counts as surroundings and is no candidate."""
    town = Town(LearnedPolicy(0.02))
    town.run(800)
    near = town.near(town.centres[0])
    policy = town.policy
    refused = [Neighbour(one.entry, one.similarity, one.text, may_serve=False) for one in near]
    decision = policy.decide("how do i open an account", refused)
    assert decision.candidate is None
    assert decision.serve is None
    assert set(decision.compare) == {one.entry for one in near}


def test_unknown_neighbours_are_no_candidates() -> None:
    """An entry that the policy never heard of, or has heard is gone, is passed over."""
    policy = LearnedPolicy()
    policy.added(b"a", "what is it")
    policy.removed(b"a")
    policy.removed(b"a")
    decision = policy.decide("what is it", [Neighbour(b"a", 1.0, "what is it")])
    assert decision.compare == ()
    assert decision.chance_wrong == 1.0
    policy.added(b"b", "what is it", decision, policy.learned(decision, {}))
    assert len(policy.notes) == 1


@pytest.mark.parametrize("bad", [{"max_error": 0.0}, {"max_error": 1.0}, {"max_error": math.nan}])
def test_a_budget_is_a_share(bad: dict[str, float]) -> None:
    """A `max_error` that is no share between 0 and 1 is a ValueError."""
    with pytest.raises(ValueError, match="max_error is a share"):
        LearnedPolicy(**bad)


def test_an_audit_rate_is_a_share() -> None:
    """So is an audit rate."""
    with pytest.raises(ValueError, match="audit_rate is a share"):
        LearnedPolicy(audit_rate=1.5)


def test_some_hits_are_audited_and_without_a_rate_none() -> None:
    """A share of would-be hits calls the model, unless audits are off."""
    for rate, expected in ((0.05, True), (0.0, False)):
        town = Town(LearnedPolicy(0.01, audit_rate=rate))
        audits = [town.ask().is_audit for _ in range(1_500)]
        assert any(audits) is expected


def test_what_did_not_go_out_is_not_charged() -> None:
    """A hit that is withdrawn gives its share of the budget back."""
    town = Town(LearnedPolicy(0.02))
    town.run(500)
    spent = town.policy.budget.spent
    while (decision := town.ask()).serve is None:
        spent = town.policy.budget.spent
    town.policy.withdrawn(decision)
    assert town.policy.budget.spent == pytest.approx(spent)


# -- the same again ---------------------------------------------------------------------------


def test_decisions_are_deterministic() -> None:
    """The same asks after the same seed get the same decisions."""
    assert Town(LearnedPolicy(seed=3)).run(700) == Town(LearnedPolicy(seed=3)).run(700)


@pytest.mark.parametrize("asks", [0, 1, 60, 700])
def test_state_round_trip(asks: int) -> None:
    """What was dumped and loaded dumps to the same bytes, and decides the same from then on."""
    town = Town(LearnedPolicy(0.02, seed=5))
    town.run(asks)
    data = dump(town.policy)
    restored = load(data)
    assert dump(restored) == data
    went_on = town.run(400)
    twin = Town(LearnedPolicy(0.02, seed=5))
    twin.run(asks)
    twin.policy = restored
    assert twin.run(400) == went_on


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: d[:-9], lambda d: d[:99] + d[100:]])
def test_damaged_state_is_refused(damage: object) -> None:
    """Bytes that are not a whole state are a ValueError that says to start anew."""
    data = dump(LearnedPolicy())
    with pytest.raises(ValueError, match="Start a new one"):
        load(damage(data))  # type: ignore[operator]


def test_state_of_other_features_is_refused() -> None:
    """So is the state of a version that looks at other features."""
    import struct
    from zlib import crc32

    body = dump(LearnedPolicy())[:-4].replace(b'"csls"', b'"clss"')
    with pytest.raises(ValueError, match="other features"):
        load(body + struct.pack("<I", crc32(body)))


def test_state_is_small() -> None:
    """An entry costs at most 150 bytes of saved state."""
    town = Town(LearnedPolicy())
    town.run(500)
    policy = town.policy
    before = len(dump(policy))
    for at in range(1_000):
        policy.added(b"n" * 28 + name(at), f"how do i open an account number {at} in town")
    assert (len(dump(policy)) - before) / 1_000 <= 150


def test_the_shipped_prior_is_of_these_features() -> None:
    """The file in the wheel fits the code, and another's is refused."""
    prior = shipped_prior()
    assert len(prior.weights) == len(prior.covariance) == len(FEATURES) + 1
    assert np.linalg.eigvalsh(prior.covariance).min() > 0.0
    assert (prior.scale > 0).all()
    with pytest.raises(ValueError, match="this prior is for the features"):
        read_prior('{"features": ["cosine"]}')


# -- the budget -------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200),
    st.floats(0.001, 0.5),
    st.floats(0.001, 0.5),
)
def test_a_larger_budget_never_serves_less(chances: list[float], one: float, two: float) -> None:
    """The limit on the chance of an error does not fall when more errors are allowed."""
    limits = []
    for max_error in sorted((one, two)):
        budget = Budget(max_error)
        for chance_wrong in chances:
            budget.ask(chance_wrong)
        budget.pace()
        limits.append(budget.limit)
    assert limits[0] <= limits[1]


def simulated(seed: int, max_error: float, asks: int) -> float:
    """The share of wrong answers when every chance that the budget hears is the true one."""
    random = np.random.default_rng(seed)
    budget = Budget(max_error)
    wrong = 0
    # Easy and hard traffic take turns.
    for ask in range(asks):
        easy = (ask // 700) % 2 == 0
        chance_wrong = float(random.beta(0.3, 6.0 if easy else 1.5))
        budget.ask(chance_wrong)
        if ask % 25 == 0:
            budget.pace()
        if chance_wrong <= budget.limit:
            budget.spend(chance_wrong)
            wrong += bool(random.random() < chance_wrong)
    return wrong / asks


@pytest.mark.parametrize("max_error", [0.01, 0.03])
def test_errors_keep_to_the_budget_when_chances_are_true(max_error: float) -> None:
    """
    Of 20 simulations of 8,000 asks with calibrated chances, none ends over 1.25 times the
    budget (beyond 2.5 standard deviations of the count: each fails by chance in under 1 %),
    their mean is under it, and at least three quarters of it are used.
    """
    errors = [simulated(seed, max_error, 8_000) for seed in range(20)]
    assert max(errors) <= 1.25 * max_error
    assert 0.75 * max_error <= np.mean(errors) <= max_error


def test_an_overspent_budget_is_made_up_for() -> None:
    """When hits turn out worse than they were held to be, the limit falls, and recovers."""
    budget = Budget(0.01)
    for at in range(2_000):
        budget.ask(at % 20 / 100)
        if at % 20 == 0:
            budget.spend(0.0)
    budget.pace()
    before = budget.limit
    for _ in range(100):
        budget.spend(0.9)
    budget.pace()
    assert budget.limit < before
    for at in range(20_000):
        budget.ask(at % 20 / 100)
        if at % 25 == 0:
            budget.pace()
    assert budget.limit >= before


def test_audits_tighten_the_budget() -> None:
    """Audits that find more errors than expected lower the limit; fewer do not raise it."""
    limits = []
    for wrong in (1.0, 0.1, 0.0):
        budget = Budget(0.002)
        for at in range(1_000):
            budget.ask(at % 100 / 100)
        for _ in range(60):
            budget.audit(0.1, wrong)
        budget.pace()
        limits.append(budget.limit)
    assert limits[0] < limits[1] == limits[2]


# -- the fit ----------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[Rows, np.ndarray]:
    count, width = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 3))
    features = np.clip(random.normal(size=(count, width)) * scale, -1e4, 1e4)
    right = random.integers(0, 2, count).astype(float)
    weight = random.exponential(size=count) * 10.0 ** draw(st.integers(-2, 2))
    return Rows(features, right, weight), random.normal(size=width) * scale


@settings(deadline=None)
@given(problems())
def test_a_refit_never_diverges(problem: tuple[Rows, np.ndarray]) -> None:
    """From any start, steps end at finite weights of no greater loss."""
    rows, start = problem
    centre, precision = np.zeros(len(start)), np.eye(len(start))

    def loss(weights: np.ndarray) -> float:
        logits = rows.features @ weights
        fit = np.logaddexp(0.0, logits) - rows.right * logits
        return float((rows.weight * fit).sum() + 0.5 * weights @ weights)

    found = newton(rows, start, centre, precision, 8)
    assert np.isfinite(found).all()
    assert loss(found) <= loss(start) * (1 + 1e-9)


@given(problems())
def test_what_may_be_served_counts_most(problem: tuple[Rows, np.ndarray]) -> None:
    """The label of a better score is never worth less, and none is worth nothing."""
    rows, weights = problem
    share = focused(rows, weights).weight / rows.weight
    order = np.argsort(rows.features @ weights)
    assert (np.diff(share[order]) >= -1e-9).all()
    assert (share > 0.0).all()
    assert (share < 1.0).all()


def test_a_refit_finds_the_weights() -> None:
    """With many labels the posterior is at the truth, and surer than the prior."""
    random = np.random.default_rng(1)
    truth = np.array([0.5, 2.0, -1.0])
    features = random.normal(size=(20_000, 3))
    right = (random.random(20_000) < 1 / (1 + np.exp(-features @ truth))).astype(float)
    posterior = Posterior(np.zeros(3), np.eye(3))
    posterior.refit(Rows(features, right, np.ones(20_000)), steps=10)
    assert posterior.weights == pytest.approx(truth, abs=0.1)
    assert np.trace(posterior.covariance) < 0.01


@given(st.floats(-20, 20), st.floats(0.0, 100.0))
def test_being_unsure_draws_scores_to_even(score: float, variance: float) -> None:
    """A score is never farther from 0 than the weights say, and keeps its sign."""
    posterior = Posterior(np.array([score]), np.array([[variance + 1e-6]]))
    found = float(posterior.scores(np.ones((1, 1)))[0])
    assert abs(found) <= abs(score) + 1e-9
    assert found * score >= 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-12, 12), st.booleans()), min_size=1, max_size=60))
def test_calibration_keeps_the_order(labels: Sequence[tuple[float, bool]]) -> None:
    """Whatever the labels, a better score stays a better score."""
    calibration = Calibration(0.3, 0.15)
    scores, right = np.array(labels, np.float64).T
    calibration.refit(scores, right, np.ones(len(scores)))
    assert calibration(-3.0) < calibration(0.0) < calibration(3.0)
    assert 0.0 < chance(calibration(1e9)) <= 1.0


# -- labels and groups ------------------------------------------------------------------------


def test_true_comparisons_are_believed() -> None:
    """Without contradictions a new answer is of the group that it equals, against any score."""
    comparisons = Comparisons()
    opinion = comparisons.weigh([1, 2, 1], [False, True, False], {1: 3.0, 2: -3.0})
    assert opinion.group == 2
    assert opinion.chances[2] > 0.9 > 0.1 > opinion.chances[1]


def test_one_wrong_comparison_is_outvoted() -> None:
    """Where 5 % of comparisons are wrong, the right group is found but for rare ties."""
    comparisons = Comparisons()
    random = np.random.default_rng(2)
    found = 0
    for _ in range(300):
        truth = [True] * 4 + [False] * 4
        same = [is_same != bool(random.random() < 0.05) for is_same in truth]
        opinion = comparisons.weigh([1] * 4 + [2] * 4, same, {})
        found += opinion.group == 1
        assert opinion.group != 2
    assert found >= 290
    assert comparisons.wrong == pytest.approx(0.05, abs=0.02)


def test_an_answer_unlike_all_has_a_group_of_its_own() -> None:
    """Nothing equal, or nothing compared: no group."""
    assert Comparisons().weigh([1, 2], [False, False], {1: 5.0}).group is None
    assert Comparisons().weigh([], [], {}).group is None


def test_groups_join_when_one_answer_fits_both() -> None:
    """Groups that were two for want of a comparison become one, and count as one."""
    notes = Notes()
    homes = [notes.found(), notes.found()]
    for at, home in enumerate(homes):
        notes.add(name(at), Note(home, 0.5, ()), frozenset())
    assert notes.link(homes[0], homes[1], 2.0) == homes[0]
    assert len(notes.groups) == 2
    notes.link(homes[0], homes[1], 2.0)
    assert len(notes.groups) == 1
    assert {notes.group_of(notes.of[name(at)]) for at in (0, 1)} == {homes[0]}
    assert notes.groups[homes[0]].size == 2
    for at in (0, 1):
        notes.remove(name(at))
    assert not notes.groups


def test_learning_after_entries_have_gone() -> None:
    """An answer may come when its neighbours, and their groups, are gone."""
    town = Town(LearnedPolicy())
    town.run(200)
    near = town.near(town.centres[1])
    decision = town.policy.decide("lost my card", near)
    for one in near:
        town.policy.removed(one.entry)
    opinion = town.policy.learned(decision, dict.fromkeys(decision.compare, True))
    town.policy.added(b"late", "lost my card", decision, opinion)
    assert b"late" in town.policy.notes.of


def test_words_that_matter_are_learned() -> None:
    """A word that changes the answer comes to tell more than one that does not."""
    model = WordModel()
    kitchen, bedroom, could = (gist(text).words for text in ("kitchen", "bedroom", "could"))
    light = gist("light on").words
    for _ in range(100):
        pair = model.compare(light | kitchen, light | bedroom, 0.9, 0.1)
        fine = model.compare(light | kitchen, light | kitchen | could, 0.9, 0.1)
        model.learn([pair, fine], [False, True])
    assert model.compare(light | kitchen, light | bedroom, 0.9, 0.1).logit < -1.0
    assert model.compare(light | bedroom, light | bedroom | could, 0.9, 0.1).logit > 1.0


# -- words ------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.text(max_size=60))
def test_evidence_is_finite_and_symmetric(one: str, other: str) -> None:
    """Any two texts compare, to numbers that do not depend on which was asked."""
    rarity = Rarity()
    rarity.add(gist(one).content)
    there = evidence(gist(one), gist(other), rarity)
    back = evidence(gist(other), gist(one), rarity)
    assert there == pytest.approx(back)
    assert all(math.isfinite(value) for value in there)


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [
        ("a table for 4", "a table for five", 3),
        ("order 7 pizzas", "order pizzas", 4),
        ("it isn't open", "it is open", 5),
        ("Where's my card?", "where is the card", 6),
    ],
)
def test_evidence_sees(one: str, other: str, at: int) -> None:
    """Numbers, negation and sameness of words are seen."""
    assert evidence(gist(one), gist(other), Rarity())[at] == 1.0


def test_the_warm_up_is_short() -> None:
    """The first answer is served within two warm-ups where the traffic is easy."""
    town = Town(LearnedPolicy(0.02), spread=0.3)
    town.run(2 * WARM_UP)
    assert town.served
