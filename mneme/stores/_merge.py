"""Several commits as one that comes to the same."""

from __future__ import annotations

from collections.abc import Iterable

from mneme.records import Changes, Entry, Identity, Label

__all__ = ["merged"]


def merged(several: Iterable[Changes]) -> Changes:
    """
    One commit that does what `several`, in their order, do; its mark is that of the last.

    Of an identity only the last word is left, so it does no more work than they.
    """
    cleared: dict[str, None] = {}
    removed: dict[Identity, None] = {}
    puts: dict[Identity, Entry] = {}
    counts: dict[tuple[str, str], int] = {}
    labels: list[Label] = []
    states: dict[str, bytes] = {}
    used: dict[Identity, None] = {}
    mark = 0
    for changes in several:
        if changes.cleared:
            cleared |= dict.fromkeys(changes.cleared)
            names = set(changes.cleared)
            puts = {i: entry for i, entry in puts.items() if entry.namespace not in names}
        for identity in changes.removed:
            puts.pop(identity, None)
            removed[identity] = None
        for entry in changes.puts:
            # Out and in again: the order of a scan is that of the last commit.
            identity = entry.identity
            puts.pop(identity, None)
            removed.pop(identity, None)
            puts[identity] = entry
        for name, count in changes.counts.items():
            counts[name] = counts.get(name, 0) + count
        labels.extend(changes.labels)
        states.update(changes.states)
        if changes.used:
            used |= dict.fromkeys(changes.used)
        mark = changes.mark
    return Changes(
        tuple(puts.values()),
        tuple(removed),
        counts,
        mark,
        tuple(labels),
        states,
        tuple(cleared),
        tuple(used),
    )
