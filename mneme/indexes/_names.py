"""Which key each row has, and which row each key."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mneme.records import Key

__all__ = ["KEY_BYTES", "Names", "Packed"]

KEY_BYTES = 16
"""What `mneme.records.Key` promises."""

Packed = npt.NDArray[np.uint8]
"""Keys as they lie in a file: shape ``(n, 16)``."""


class Names:
    """
    Keys by row and rows by key. Reading takes no lock; writers take turns.

    Given `packed` keys it answers from them, and makes Python objects of all of them only
    when a key is asked for or changed.
    """

    def __init__(self, packed: Packed | None = None) -> None:
        self._packed = packed
        self._keys: list[Key] = []
        self._rows: dict[Key, int] = {}

    def __len__(self) -> int:
        packed = self._packed
        return len(self._keys) if packed is None else len(packed)

    def of(self, row: int) -> Key:
        """
        The key of `row`.

        Raises:
            IndexError: there is no such row any more.
        """
        packed = self._packed
        return self._keys[row] if packed is None else Key(packed[row].tobytes())

    def row(self, key: Key) -> int | None:
        if self._packed is not None:
            self._unpack()
        return self._rows.get(key)

    def append(self, key: Key) -> None:
        if self._packed is not None:
            self._unpack()
        self._rows[key] = len(self._keys)
        # Last: from here on searches know of it.
        self._keys.append(key)

    def drop(self, key: Key) -> None:
        """Forget `key`, which is known; the last row takes its place."""
        if self._packed is not None:
            self._unpack()
        row, last = self._rows.pop(key), self._keys[-1]
        if last != key:
            self._keys[row] = last
            self._rows[last] = row
        self._keys.pop()

    def packed(self) -> Packed:
        """
        A copy of all keys.

        Raises:
            ValueError: a key has not 16 bytes.
        """
        if self._packed is not None:
            return self._packed.copy()
        wrong = next((key for key in self._keys if len(key) != KEY_BYTES), None)
        if wrong is not None:
            raise ValueError(
                f"keys of {KEY_BYTES} bytes can be packed, {wrong!r} has {len(wrong)}. "
                "Nothing was changed. Give it keys of that length."
            )
        joined = np.frombuffer(b"".join(self._keys), np.uint8)
        return joined.reshape(-1, KEY_BYTES).copy()

    def _unpack(self) -> None:
        assert self._packed is not None
        joined = self._packed.tobytes()
        starts = range(0, len(joined), KEY_BYTES)
        self._keys = [Key(joined[start : start + KEY_BYTES]) for start in starts]
        self._rows = dict(zip(self._keys, range(len(self._keys)), strict=True))
        # Last: until now readers found all they asked for in the packed keys.
        self._packed = None
