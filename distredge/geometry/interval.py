"""Half-open row intervals."""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """Rows `[start, stop)`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of rows, 0 when empty."""
        return max(0, self.stop - self.start)

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both (both non-empty)."""
        return Interval(min(self.start, other.start), max(self.stop, other.stop))

    def overlap(self, other: Interval) -> Interval:
        """Rows in both; empty intervals have size 0."""
        return Interval(max(self.start, other.start), min(self.stop, other.stop))
