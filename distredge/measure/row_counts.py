"""Which numbers of rows of a layer to measure: every n-th, or as few as an error bound allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distredge.profiles.measured import Timing

LEAST_POINTS = 8
MOST_SHARE = 0.15
"""A layer gets at most so many points, or this share of its rows if that is more: noise could ask for all."""

WIDE_GAP = 8
"""A gap of more rows than these and than half of the height is always halved."""

Timings = Mapping[int, Timing]
"""What was measured of a layer, by numbers of rows."""


@dataclass(frozen=True)
class Every:
    """Every `granularity`-th number of rows from 1 to the height, both among them."""

    granularity: int

    def wanted(self, height: int, timings: Timings) -> list[int]:
        """What is still to measure."""
        rows = {1, *range(self.granularity, height + 1, self.granularity), height}
        return sorted(rows - set(timings))

    def describe(self) -> str:
        """In words, for the profile's file."""
        return f"every {self.granularity} rows" if self.granularity > 1 else "every number of rows"


@dataclass(frozen=True)
class Adaptive:
    """Refines where a straight line between two measured points is off by more than `max_error`.

    It begins with few points in geometric steps, since few rows tell the fixed cost. Each gap between them is tested
    by a point in its middle: if the line between the gap's ends predicts that within half the bound, the gap is done,
    else both halves are tested in turn. Half, since a curve that bends one way is nowhere more than twice as far from
    its chord as in the middle; and of the gap's least latency. What the measurements may be off by, by their own
    spread, is allowed on top.
    """

    max_error: float

    def wanted(self, height: int, timings: Timings) -> list[int]:
        """What is to measure next; nothing when every gap is within the bound or the layer has had its points."""
        first = first_rows(height)
        missing = [rows for rows in first if rows not in timings]
        if missing:
            return missing
        room = max(LEAST_POINTS, int(MOST_SHARE * height)) - len(timings)
        return self.untested(height, timings)[: max(room, 0)]

    def untested(self, height: int, timings: Timings) -> list[int]:
        """The middles of all gaps in which the bound is not known to hold, those of the widest gaps first."""
        first = first_rows(height)
        wide = max(WIDE_GAP, height // 2)
        gaps = [gap for a, b in zip(first[:-1], first[1:], strict=True) for gap in self._open(a, b, wide, timings)]
        return [middle for _, middle in sorted(gaps, key=lambda gap: (-gap[0], gap[1]))]

    def describe(self) -> str:
        """In words, for the profile's file."""
        return f"as few as a bound of {self.max_error:.1%} on linear interpolation asks for"

    def _open(self, a: int, b: int, wide: int, timings: Timings) -> list[tuple[int, int]]:
        """(width, middle) of the gaps between two measured points that are not tested yet."""
        if b - a < 2:
            return []
        middle = (a + b) // 2
        if middle not in timings:
            return [(b - a, middle)]
        if b - a <= wide and self._on_line(a, middle, b, timings):
            return []
        return self._open(a, middle, wide, timings) + self._open(middle, b, wide, timings)

    def _on_line(self, a: int, middle: int, b: int, timings: Timings) -> bool:
        predicted = np.interp(middle, [a, b], [timings[a].median_ms, timings[b].median_ms])
        measured, least = timings[middle].median_ms, min(timings[rows].median_ms for rows in (a, middle, b))
        noise = math.hypot(timings[middle].standard_error_ms, timings[b].standard_error_ms)
        return abs(float(predicted) - measured) <= self.max_error / 2 * least + noise


def first_rows(height: int) -> list[int]:
    """The points that adaptive measuring begins with: 1, the height, and one or two between."""
    count = 3 if height <= 32 else 4
    if height <= count:
        return list(range(1, height + 1))
    return sorted({round(rows) for rows in np.geomspace(1, height, count).tolist()})
