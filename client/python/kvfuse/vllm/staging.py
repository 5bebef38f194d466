"""Slots of blocks in one piece of memory."""

from __future__ import annotations


class Slots:
    """Hands out runs of neighbouring slots, first fit."""

    def __init__(self, count: int) -> None:
        self._free: list[tuple[int, int]] = [(0, count)] if count else []  # (first, count), by first, never touching

    def take(self, count: int) -> tuple[int, int]:
        """(first, how many): a run of `count`, or the longest there is; (0, 0) if there is none."""
        best = -1
        for i, (_, length) in enumerate(self._free):
            if length >= count:
                best = i
                break
            if best < 0 or length > self._free[best][1]:
                best = i
        if best < 0 or count <= 0:
            return 0, 0
        first, length = self._free[best]
        taken = min(count, length)
        if taken == length:
            del self._free[best]
        else:
            self._free[best] = (first + taken, length - taken)
        return first, taken

    def give(self, first: int, count: int) -> None:
        """A run that was taken is free again."""
        merged: list[tuple[int, int]] = []
        for run in sorted([*self._free, (first, count)]):
            if merged and merged[-1][0] + merged[-1][1] == run[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + run[1])
            else:
                merged.append(run)
        self._free = merged
