"""A large partition is searched from a floor on; who judges sees what matters to it."""

from __future__ import annotations

from typing import Any

import pytest
from support.embedders import cosine
from support.scenes import Scene, everywhere


@pytest.fixture(autouse=True)
def _large_from_two_entries_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mneme._core.live.MANY", 2)


async def _lookup(s: Scene, at: float, **settings: Any) -> Any:
    """The outcome of a lookup with entries at cosines of 1, `at` and -0.5."""
    async with s.cache(similarity_threshold=0.8, guards=(), **settings) as cache:
        await cache.put("far", "far", embedding=cosine(-0.5))
        await cache.put("near", "near", embedding=cosine(at))
        found = await cache.lookup("asked", embedding=cosine(1.0))
        return found, await cache.explain("asked", embedding=cosine(1.0))


@everywhere()
async def test_from_the_threshold_on_it_is_a_hit(s: Scene) -> None:
    """As in a small partition."""
    found, _ = await _lookup(s, 0.81)
    assert (found.response, found.similarity) == ("near", pytest.approx(0.81))


@everywhere()
async def test_a_miss_does_not_look_for_the_nearest(s: Scene) -> None:
    """It says `below_threshold` without a cosine, which `explain` does look for."""
    found, explained = await _lookup(s, 0.79)
    assert (found.reason, found.nearest_similarity) == ("below_threshold", None)
    assert [v.similarity for v in explained.verdicts] == pytest.approx([0.79, -0.5])
    assert explained.outcome.nearest_similarity == pytest.approx(0.79)


@everywhere()
async def test_the_verifier_is_asked_below_the_threshold(s: Scene) -> None:
    """As far as its band reaches."""
    found, _ = await _lookup(s, 0.75, verify=lambda asked, cached: True, verify_band=(0.1, 0.0))
    assert found.response == "near"


@everywhere()
async def test_shadow_mode_hears_of_what_no_threshold_lets_through(s: Scene) -> None:
    """The nearest is compared with the new answer, whatever its cosine."""
    found, _ = await _lookup(s, 0.3, mode="shadow")
    assert found.nearest_similarity == pytest.approx(0.3)
    assert found.trial.best.entry.prompt == "near"


@everywhere()
async def test_the_learned_policy_sees_all_that_is_near(s: Scene) -> None:
    """A threshold is not what it decides by."""
    found, _ = await _lookup(s, 0.3, policy="learned")
    assert [one.similarity for one in found.trial.candidates] == pytest.approx([0.3, -0.5])
