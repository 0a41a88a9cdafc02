"""The vertical-splitting law for one layer, exact at the borders (DistrEdge, Eq. 1 and 2, with padding)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distredge.geometry.interval import Interval
from distredge.model.layer import Window

IntArray = npt.NDArray[np.int64]


def unclipped(window: Window, out: Interval) -> Interval:
    """Rows that `out` reads, padding included: may begin before row 0 and end after the last."""
    start = out.start * window.stride - window.pad_top
    return Interval(start, (out.stop - 1) * window.stride - window.pad_top + window.extent)


def needed(window: Window, out: Interval, height: int) -> Interval:
    """Rows of an input of `height` rows that the non-empty output rows `out` read.

    Never empty: output rows that lie wholly in padding read the nearest border row, whose value they ignore.
    """
    rows = unclipped(window, out)
    return Interval(min(max(rows.start, 0), height - 1), max(min(rows.stop, height), 1))


def needed_starts(window: Window, starts: IntArray, height: int) -> IntArray:
    """`needed(...).start` for many output starts; it does not depend on where the output stops."""
    return np.clip(starts * window.stride - window.pad_top, 0, height - 1)


def needed_stops(window: Window, stops: IntArray, height: int) -> IntArray:
    """`needed(...).stop` for many output stops; it does not depend on where the output starts."""
    return np.clip((stops - 1) * window.stride - window.pad_top + window.extent, 1, height)
