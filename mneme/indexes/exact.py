"""
Exact search by cosine with numpy alone.

Rows live in blocks, so growing never copies what is there (the first block starts small). A
removed row is overwritten by the last one: no tombstones, no compaction.

In a large partition a sketch rules out nearly all rows at a fraction of the cost of comparing
with them (see `mneme.indexes._sketch`). It is fitted to the searches that were made, in the
background, and taken into use in one step; where none is worth its cost, there is none. What
it is worth is measured: searches are timed, and one that is slower with a sketch goes without.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np

from mneme import _forks
from mneme.indexes._best import Best
from mneme.indexes._body import Body
from mneme.indexes._compare import compare_all, compare_likely, nearest_of
from mneme.indexes._decide import Exact, Found, decided
from mneme.indexes._fit import DEEPEST, LEAST, SAMPLE, fitted
from mneme.indexes._many import AT_ONCE, all_of_many, likely_of_many
from mneme.indexes._names import Names
from mneme.indexes._parts import Parts, sketch_parts, table_of, taken
from mneme.indexes._quantised import CODES, QuantisedTable
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.indexes._table import Table
from mneme.indexes._watch import Watch
from mneme.records import Key, Vector

__all__ = ["ExactIndex"]

SKETCH_FROM = 4_096
"""Rows under which comparing with all of them is as cheap."""

STEP = 2**25
"""Multiplications for which a fit holds the lock at a time: about a millisecond."""

PAUSE_SECONDS = 0.0005
"""Between two steps of a fit; a lock that is let go of only to be taken again starves others."""

DTYPES = ("float32", *CODES)

Work = Callable[[], None]


def in_background(work: Work) -> None:
    """Do `work` in a thread of its own."""
    threading.Thread(target=work, name="mneme-fit", daemon=True).start()


class ExactIndex:
    """
    The unit vectors of one partition, shape ``(dim,)`` each.

    Args:
        dtype: how they are kept: ``"float32"``; ``"float16"``, in half of the memory; or
            ``"int8"``, in a quarter. A cosine is then off by no more than `slack`.
        exact: for the last two, gives the float32 vectors of keys, None for those it has not.
            The few rows that may be in an answer are then decided by these, so that the answer
            is that of float32; without it they are decided by the cosine that may be off.
        exact_floats: what a call of `exact` costs, as in `search_floats`.
        start: is given the work of a fit and has it done, at once or later.

    Raises:
        ValueError: another dtype.
    """

    def __init__(
        self,
        dim: int,
        *,
        dtype: str = "float32",
        exact: Exact | None = None,
        exact_floats: int = 0,
        start: Callable[[Work], object] = in_background,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}.")
        self._dim = dim
        self.dtype = dtype
        self._exact = exact
        self._exact_floats = exact_floats
        self._start = start
        table = Table(dim) if dtype == "float32" else QuantisedTable(dim, dtype)
        self._body = Body(table, Names())
        self._fitting = _forks.lock(_forks.NEVER)

    @cached_property
    def _watch(self) -> Watch:
        # Not before there is something to watch: of ten thousand partitions few are large.
        return Watch()

    @classmethod
    def from_parts(
        cls,
        parts: Parts,
        *,
        exact: Exact | None = None,
        exact_floats: int = 0,
        start: Callable[[Work], object] = in_background,
    ) -> ExactIndex:
        """
        An index on arrays that `parts` gave, which may be mapped from a file; none is copied.

        It searches at once. What is changed later is written into arrays that may be written
        to (a copy-on-write mapping), and into copies of others.
        """
        index = cls(
            parts.dim, dtype=parts.dtype, exact=exact, exact_floats=exact_floats, start=start
        )
        sketch = None
        if (kept := parts.sketch) is not None:
            sketch = Sketch(kept.directions, kept.first)
            sketch.heads, sketch.tails = list(kept.heads), list(kept.tails)
            index._watch.adopted(len(parts.keys))
        index._body = Body(table_of(parts), Names(parts.keys), sketch)
        return index

    def parts(self, *, copy: bool = True) -> Parts:
        """
        The arrays it is made of, as they are now; adding and removing wait meanwhile.

        Without a copy they are those that the next change is written into.

        Raises:
            ValueError: a key has not 16 bytes.
        """
        body = self._body
        with body.lock:
            count, sketch = len(body.names), body.sketch
            sizes = [min(BLOCK, count - at) for at in range(0, count, BLOCK)]
            scales = body.table.scales if isinstance(body.table, QuantisedTable) else []
            return Parts(
                self._dim,
                body.names.packed(),
                taken(body.table.blocks, sizes, copy=copy),
                None if sketch is None else sketch_parts(sketch, sizes, copy=copy),
                self.dtype,
                taken(scales, sizes[: len(scales)], copy=copy),
                body.table.slack,
            )

    def __len__(self) -> int:
        return len(self._body.names)

    @property
    def memory_bytes(self) -> int:
        sketch = self._body.sketch
        extra = 0 if sketch is None else sketch.memory_bytes
        return extra + self._body.table.memory_bytes

    @property
    def slack(self) -> float:
        """How far the cosine that a row is found by may be off; 0 for float32."""
        return self._body.table.slack

    @property
    def directions(self) -> tuple[Vector, int] | None:
        """Those of its sketch, and in how many every row is looked at; None: it has none."""
        sketch = self._body.sketch
        return None if sketch is None else (sketch.directions, sketch.first)

    @property
    def search_floats(self) -> int:
        """
        What a search costs, in numbers read by one matrix-vector product: all there are, or the
        share of them that searches with the sketch have lately taken.
        """
        share = 1.0 if self._body.sketch is None else self._watch.share
        count = len(self) * self._dim
        return max(min(count, 1), int(count * share)) + (self._exact_floats if count else 0)

    def add(self, key: Key, vector: Vector) -> None:
        self._body.add(key, vector)

    def remove(self, key: Key) -> None:
        self._body.remove(key)

    @property
    def least_seconds(self) -> float | None:
        """What the fastest of the last searches took; None: too few were made of many rows."""
        count = len(self)
        least = self._watch.least if count >= SKETCH_FROM else None
        return None if least is None else least * count / 1e9

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        """At most `k` keys with a cosine of `at_least`, best first; equal ones in any order."""
        body, names = self._body, self._body.names
        if len(names) < SKETCH_FROM and body.sketch is None:
            found = body.consistent(lambda: self._compared(vector, k, at_least))
            return self._decided(found, vector, k, at_least)
        watch = self._watch
        pace = watch.pace(at_least)
        uses_sketch = body.sketch is not None and not pace.compares_all()
        began = time.perf_counter_ns()
        if uses_sketch:
            found, share = body.consistent(lambda: self._likely(vector, k, at_least))
        else:
            found, share = body.consistent(lambda: self._compared(vector, k, at_least)), None
        took = time.perf_counter_ns() - began
        found = self._decided(found, vector, k, at_least)
        pace.took(took / max(1, len(names)), sketched=uses_sketch)
        watch.saw(vector, _sufficient(found, k, at_least), share)
        self._look_after()
        return found

    def search_or_nearest(self, vector: Vector, *, k: int, at_least: float) -> Found:
        """As `search`; where nothing has such a cosine, the nearest. Compares with all."""
        body = self._body
        if len(body.names) >= SKETCH_FROM or body.sketch is not None or body.table.slack:
            found = self.search(vector, k=k)
            return [*found[:1], *(pair for pair in found[1:] if pair[1] >= at_least)]
        return body.consistent(lambda: self._nearest(vector, k, at_least))

    def search_many(
        self, vectors: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[Sequence[tuple[Key, float]]]:
        """
        What `search` gives for each of `vectors`, shape ``(m, dim)``, in order.

        Many at once cost a fraction of as many searches, since what is read from memory is
        read once for all of them.
        """
        found: list[Found] = []
        for start in range(0, len(vectors), AT_ONCE):
            some = vectors[start : start + AT_ONCE]
            found += self._body.consistent(partial(self._many, some, k, at_least))
        found = [
            self._decided(own, vector, k, at_least)
            for vector, own in zip(vectors, found, strict=True)
        ]
        if len(self) >= SKETCH_FROM:
            for vector, own in zip(vectors, found, strict=True):
                self._watch.saw(vector, _sufficient(own, k, at_least))
            self._look_after()
        return found

    def fit(self) -> None:
        """Fit the sketch to the rows there are and the searches that were made."""
        with self._fitting:
            self._fit()

    def adopt(self, sketch: Sketch) -> None:
        """Tell `sketch`, which is empty, of every row, a few at a time, and use it from then on."""
        with self._fitting:
            self._adopt(sketch)
            self._watch.adopted(len(self))

    # -- searching ----------------------------------------------------------------------------

    def _compared(self, vector: Vector, k: int, at_least: float) -> Found:
        """By comparing with all."""
        # Rows are written before they are counted.
        count, best = len(self._body.names), Best(k, at_least, self._body.table.slack)
        compare_all(self._body.table, count, vector, best)
        return self._named(best)

    def _nearest(self, vector: Vector, k: int, at_least: float) -> Found:
        # Rows are written before they are counted.
        body = self._body
        pairs = nearest_of(body.table, len(body.names), vector, k, at_least)
        return [(body.names.of(row), cosine) for row, cosine in pairs]

    def _likely(self, vector: Vector, k: int, at_least: float) -> tuple[Found, float]:
        """By the sketch; and its cost, as a share of comparing with all."""
        # In this order: rows are added to the sketch and the table before they are counted.
        count, sketch = len(self._body.names), self._body.sketch
        if sketch is None or not count:
            return self._compared(vector, k, at_least), 1.0
        best = Best(k, at_least, self._body.table.slack)
        share = compare_likely(sketch, self._body.table, count, vector, best)
        return self._named(best), share

    def _many(self, vectors: Vector, k: int, at_least: float) -> list[Found]:
        count, sketch = len(self._body.names), self._body.sketch
        bests = [Best(k, at_least, self._body.table.slack) for _ in vectors]
        if sketch is None or not bests[0].has_floor or self._watch.floored.is_lossy:
            all_of_many(self._body.table, count, vectors, bests)
        else:
            likely_of_many(sketch, self._body.table, count, vectors, bests)
        return [self._named(best) for best in bests]

    def _decided(self, found: Found, vector: Vector, k: int, at_least: float) -> Found:
        """Of what was found by cosines that may be off, the answer."""
        slack = self._body.table.slack
        if not slack:
            return found
        if self._exact is None:
            return [(key, cosine) for key, cosine in found[:k] if cosine >= at_least]
        return decided(found, vector, k, at_least, slack, self._exact)

    def _named(self, best: Best) -> Found:
        name = self._body.names.of
        return [(name(row), cosine) for row, cosine in best.pairs()]

    # -- fitting ------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Drop a sketch that loses, and begin a fit that is due."""
        if self._body.sketch is not None and self._watch.is_lossy:
            self._body.forget_sketch()
        count = len(self)
        if count < SKETCH_FROM:
            return
        if self._watch.is_due(count) and self._fitting.acquire(blocking=False):
            try:
                self._start(self._fit_and_release)
            except RuntimeError:
                # No more threads: searches go on as they are.
                self._fitting.release()

    def _fit_and_release(self) -> None:
        try:
            self._fit()
        finally:
            self._fitting.release()

    def _fit(self) -> None:
        count, past = len(self), tuple(self._watch.past)
        plan = None
        if past and count >= LEAST:
            # Who keeps vectors in less memory would not want more than that for a sketch.
            deepest = self._dim if self.dtype == "float32" else self._dim // 4
            plan = fitted(self._sample(count), past, count, count, min(deepest, DEEPEST))
        if plan is not None:
            self._adopt(plan[0])
        else:
            self._body.forget_sketch()
        self._watch.fitted(count, None if plan is None else plan[1])

    def _sample(self, count: int) -> Vector:
        """Some of the rows; one that changes meanwhile makes the sketch a little worse."""
        table = self._body.table
        picks = np.random.default_rng(count).permutation(count)[:SAMPLE]
        rows = [table.slab(row // BLOCK, row % BLOCK, row % BLOCK + 1) for row in picks.tolist()]
        return np.concatenate(rows)

    def _adopt(self, sketch: Sketch) -> None:
        step = max(1, STEP // (self._dim * sketch.depth))
        self._body.begin(sketch)
        while not self._body.tell_more(step):
            time.sleep(PAUSE_SECONDS)


def _sufficient(found: Found, k: int, at_least: float) -> float:
    """The highest floor with which a search would have found the same."""
    return found[-1][1] if found and len(found) == k else at_least
