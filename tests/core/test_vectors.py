"""The border that every embedding crosses."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mneme._core.vectors import as_unit, as_units
from mneme.errors import EmbedderDimensionError, EmbeddingError

DTYPES = ["f2", "f4", "f8", ">f8", "g", "i1", "i2", "i4", "i8", "u1", "u8", "?"]
SIZES = st.floats(1e-300, 1e300)
NUMBERS = st.one_of(st.just(0.0), SIZES, SIZES.map(lambda size: -size))


def arrays(dim: int) -> st.SearchStrategy[Any]:
    """Arrays of any dtype of numbers, their components finite and not all zero."""
    return (
        st.sampled_from(DTYPES)
        .flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), (dim,)))
        .filter(lambda raw: np.isfinite(raw.astype(np.float64)).all() and raw.any())
    )


def length(vector: Any) -> float:
    return math.sqrt(math.fsum(float(one) ** 2 for one in vector))


class Tensor:
    """An array of another library."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.rows, dtype=dtype)


class Broken:
    """One that cannot be read, as a tensor that still has its gradient."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise RuntimeError("call detach() first")


class TestAsUnit:
    @given(st.integers(1, 8).flatmap(arrays))
    def test_any_dtype_gives_a_unit_vector(self, raw: Any) -> None:
        """Whatever numbers the array holds, float32 of length 1 and of its shape comes out."""
        unit = as_unit(raw, raw.size)
        assert unit.dtype == np.float32
        assert unit.shape == raw.shape
        assert math.isclose(length(unit), 1.0, abs_tol=1e-6)

    @given(st.lists(NUMBERS, min_size=1, max_size=8))
    def test_any_scale_gives_a_unit_vector(self, raw: list[float]) -> None:
        """Components from 1e-300 to 1e300, as a plain list, neither overflow nor vanish."""
        assume(any(raw))
        unit = as_unit(raw, len(raw))
        assert math.isclose(length(unit), 1.0, abs_tol=1e-6)
        largest = max(range(len(raw)), key=lambda at: abs(raw[at]))
        assert np.abs(unit).argmax() == largest or math.isclose(
            abs(unit[largest]), np.abs(unit).max(), rel_tol=1e-6
        )
        signs = zip(unit.tolist(), raw, strict=True)
        assert all(one == 0.0 or (one > 0) is (of > 0) for one, of in signs)

    @given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.integers(-900, 900))
    def test_the_scale_does_not_matter(self, raw: list[float], power: int) -> None:
        """Multiplying by a power of two changes no bit of the unit vector."""
        assume(all(one == 0.0 or abs(one) > 1e-9 for one in raw) and any(raw))
        scaled = [math.ldexp(one, power) for one in raw]
        assert np.array_equal(as_unit(raw, len(raw)), as_unit(scaled, len(raw)))

    @given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
    def test_a_unit_vector_stays_what_it_is(self, raw: list[float]) -> None:
        """Crossing the border twice is crossing it once."""
        assume(any(abs(one) > 1e-3 for one in raw))
        unit = as_unit(raw, len(raw))
        assert np.allclose(as_unit(unit, len(raw)), unit, atol=1e-7)

    @given(
        hnp.arrays(np.float32, st.integers(1, 64), elements=st.floats(-1, 1, width=32)),
        st.floats(0.999_99, 1.000_01),
    )
    def test_a_float32_array_is_taken_as_any_other(self, raw: Any, length_: float) -> None:
        """What is a unit vector already skips most steps, and comes to the same."""
        assume(np.abs(raw).max() > 1e-3)
        near = (as_unit(raw.astype("f8"), raw.size) * length_).astype(np.float32)
        quick, slow = as_unit(near, near.size), as_unit(near.astype("f8"), near.size)
        assert np.allclose(quick, slow, rtol=0, atol=1e-6)
        assert math.isclose(length(quick), 1.0, abs_tol=1e-6)
        assert quick.flags.c_contiguous
        assert not np.shares_memory(quick, near)

    def test_the_direction_is_kept(self) -> None:
        """3 and 4 are to 1 as 0.6 and 0.8."""
        assert np.allclose(as_unit(np.array([3, 4, 0]), 3), [0.6, 0.8, 0.0])

    @pytest.mark.parametrize("dtype", ["f4", "f8"])
    def test_the_result_is_never_the_callers_array(self, dtype: str) -> None:
        """An embedder may reuse its buffer: what crossed the border does not change with it."""
        raw = np.array([1.0, 0.0], dtype=dtype)
        unit = as_unit(raw, 2)
        assert not np.shares_memory(unit, raw)
        raw[:] = 7.0
        assert unit.tolist() == [1.0, 0.0]

    def test_numpy_may_be_told_to_raise(self) -> None:
        """An application that has numpy raise on underflow still gets its vector."""
        with np.errstate(all="raise"):
            assert as_unit([1e300, 1e-300], 2).tolist() == [1.0, 0.0]

    def test_the_callers_array_is_not_changed(self) -> None:
        """Normalizing happens in a copy, so a read-only array will do."""
        raw = np.array([3.0, 4.0])
        raw.flags.writeable = False
        as_unit(raw, 2)
        assert raw.tolist() == [3.0, 4.0]

    @pytest.mark.parametrize(
        "raw",
        [
            [3, 4],
            (3, 4.0),
            [np.float32(3), np.int8(4)],
            range(3, 5),
            memoryview(b"\x03\x04"),
        ],
    )
    def test_what_numpy_can_read_is_converted(self, raw: Any) -> None:
        """A list of numbers of any kind is as good as an array."""
        assert np.allclose(as_unit(raw, 2), [0.6, 0.8])

    @pytest.mark.parametrize(
        "shape", [(), (0,), (1,), (3,), (1, 2), (2, 1), (2, 2)], ids=lambda shape: str(shape)
    )
    def test_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        """Anything but one flat vector of the promised length is refused with both shapes."""
        with pytest.raises(EmbedderDimensionError) as refused:
            as_unit(np.ones(shape), 2)
        assert f"shape {shape}, its dim promises (2,)." in str(refused.value)
        assert str(refused.value).endswith("or correct `dim`.")

    @pytest.mark.parametrize(
        "bad", [math.nan, math.inf, -math.inf, np.longdouble("1e400")], ids=str
    )
    @pytest.mark.parametrize("at", [0, 1])
    def test_what_is_not_finite_is_refused(self, bad: float, at: int) -> None:
        """NaN and infinity, wherever they stand, have no direction to compare."""
        raw = np.ones(2, dtype=np.longdouble)
        raw[at] = bad
        with pytest.raises(EmbeddingError, match="NaN or infinity") as refused:
            as_unit(raw, 2)
        assert str(refused.value).endswith("Check the embedder's output for this text.")

    @pytest.mark.parametrize("raw", [[0.0, -0.0], [0, 0], [False, False]])
    def test_a_zero_vector_is_refused(self, raw: list[float]) -> None:
        """Zero has no direction, so no cosine."""
        with pytest.raises(EmbeddingError, match="zero vector: it has no direction") as refused:
            as_unit(raw, 2)
        assert str(refused.value).endswith("Check the embedder's output for this text.")

    @pytest.mark.parametrize(
        "raw",
        [
            "text",
            "12",
            b"12",
            ["1", "2"],
            np.array(["1", "2"]),
            np.array([b"1", b"2"]),
            np.array(["2020", "2021"], dtype="M8[D]"),
            np.array([1, 2], dtype="m8[s]"),
            np.array([1 + 2j, 1]),
            [None, 1.0],
            [[1.0], [1.0, 2.0]],
            {"embedding": [1.0, 2.0]},
            [object(), object()],
            [Decimal(1), Decimal(2)],
            [10**400, 1],
            np.zeros(2, dtype=[("x", "f4"), ("y", "f4")]),
            Broken(),
            None,
        ],
        ids=lambda raw: type(raw).__name__,
    )
    def test_what_is_not_numbers_is_refused(self, raw: Any) -> None:
        """Text, dates, complex numbers and objects are refused, not guessed at."""
        with pytest.raises(EmbeddingError, match="not an array of numbers") as refused:
            as_unit(raw, 2)
        assert f"gave {type(raw).__name__}," in str(refused.value)
        assert str(refused.value).endswith("Return a numpy array or a list of floats.")


class TestAsUnits:
    @pytest.mark.parametrize(
        "make", [list, tuple, np.array, Tensor, lambda rows: [np.array(row) for row in rows]]
    )
    def test_a_batch_is_its_rows(self, make: Any) -> None:
        """Each row of a batch, of whatever container, is what it would be alone, in order."""
        rows = [[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]
        units = as_units(make(rows), 3, 2)
        assert [unit.tolist() for unit in units] == [as_unit(row, 2).tolist() for row in rows]

    @given(
        st.integers(1, 8).flatmap(
            lambda dim: hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.just(dim)))
        )
    )
    def test_an_array_is_refused_as_its_rows_are(self, raw: Any) -> None:
        """A float32 array with NaN, infinity or zeros anywhere is no better than its rows."""
        count, dim = raw.shape
        if np.isfinite(raw).all() and raw.any(axis=1).all():
            assert np.array_equal(as_units(raw, count, dim), [as_unit(row, dim) for row in raw])
        else:
            with pytest.raises(EmbeddingError):
                as_units(raw, count, dim)

    def test_rows_share_no_memory(self) -> None:
        """A vector that is kept does not keep the whole batch in memory."""
        batch = np.eye(3, dtype=np.float32)
        assert not any(np.shares_memory(unit, batch) for unit in as_units(batch, 3, 3))

    def test_an_empty_batch_is_none(self) -> None:
        """No texts, no vectors."""
        assert as_units([], 0, 2) == []

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_rows_is_refused(self, count: int) -> None:
        """A batch that lost a row would give texts each other's vectors."""
        with pytest.raises(EmbedderDimensionError, match=f"2 vectors for {count} texts") as refused:
            as_units(np.eye(2), count, 2)
        assert str(refused.value).endswith("Return one vector per text from embed_batch, in order.")

    @pytest.mark.parametrize("raw", [[1.0, 2.0], np.array([1.0, 2.0]), Tensor([1.0, 2.0])])
    def test_a_flat_vector_is_no_batch(self, raw: Any) -> None:
        """One vector for several texts is refused, even where its length is their number."""
        with pytest.raises(EmbedderDimensionError, match=r"shape \(\)"):
            as_units(raw, 2, 2)

    @pytest.mark.parametrize("raw", [3.0, Tensor(3.0)])
    def test_a_number_is_no_batch(self, raw: Any) -> None:
        """A single number is refused like any other wrong shape."""
        with pytest.raises(EmbedderDimensionError):
            as_units(raw, 1, 1)

    def test_one_bad_row_refuses_the_batch(self) -> None:
        """A row without direction is refused as it would be alone."""
        with pytest.raises(EmbeddingError, match="zero vector"):
            as_units([[1.0, 0.0], [0.0, 0.0]], 2, 2)

    def test_what_is_not_numbers_is_refused(self) -> None:
        """A batch of text is refused with the remedy."""
        with pytest.raises(EmbeddingError, match="Return a numpy array or a list of floats"):
            as_units("text", 4, 1)
