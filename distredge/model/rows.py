"""Row maps: which rows of an input the output rows of a layer read, on the height dimension.

The vertical-splitting law (DistrEdge, Eq. 1 and 2) for one input, exact at the borders, for every kind of operator. All
maps are monotone: where the needed rows start depends only on where the output rows start, and where they stop only on
where those stop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class RowMap(ABC):
    """What output rows read of an input of `height` rows.

    For non-empty output rows `[start, stop)`, `starts` and `stops` bound the input rows that hold all they read: never
    empty, never outside the input. Output rows that lie wholly in padding read the nearest border row, whose value they
    ignore.
    """

    @abstractmethod
    def starts(self, starts: IntArray, height: int) -> IntArray:
        """First needed rows, in `[0, height)`, of output rows that begin at `starts`."""

    @abstractmethod
    def stops(self, stops: IntArray, height: int) -> IntArray:
        """Where the needed rows end, in `[1, height]`, of output rows that end at `stops`."""


@dataclass(frozen=True, slots=True)
class Window(RowMap):
    """A window that slides over the input, as a convolution's or a pooling's.

    Output row `o` reads the input rows `o * stride - pad_top + i * dilation`, `0 <= i < kernel`; rows outside the input
    are padding. The default is a row-by-row operation; a negative `pad_top` skips rows at the top.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad_top: int = 0

    @property
    def extent(self) -> int:
        """Rows from the first that is read to the last, both counted."""
        return (self.kernel - 1) * self.dilation + 1

    def starts(self, starts: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        return _clip(starts * self.stride - self.pad_top, 0, height - 1)

    def stops(self, stops: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        return _clip((stops - 1) * self.stride + (self.extent - self.pad_top), 1, height)


@dataclass(frozen=True, slots=True)
class Spread(RowMap):
    """A window that slides over the output, as a transposed convolution's; `extent` as in `Window`.

    Input row `i` is spread over the output rows `i * stride - pad_top + k`, `0 <= k < extent`.
    """

    extent: int
    stride: int
    pad_top: int = 0

    def starts(self, starts: IntArray, height: int) -> IntArray:
        """See `RowMap`; rows that no input row reaches (a stride over the extent) count to the input row before."""
        place = starts + self.pad_top
        first = np.minimum(-((self.extent - 1 - place) // self.stride), place // self.stride)
        return _clip(first, 0, height - 1)

    def stops(self, stops: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        return _clip((stops - 1 + self.pad_top) // self.stride + 1, 1, height)


@dataclass(frozen=True, slots=True)
class Listed(RowMap):
    """Output row `o` reads the input rows `[first[o], last[o]]`: resizing, and padding by what is there."""

    first: tuple[int, ...]
    last: tuple[int, ...]

    def starts(self, starts: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        least = np.minimum.accumulate(np.array(self.first, dtype=np.int64)[::-1])[::-1]
        return least[np.minimum(starts, len(least) - 1)]

    def stops(self, stops: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        most = np.maximum.accumulate(np.array(self.last, dtype=np.int64))
        return most[np.maximum(stops - 1, 0)] + 1


@dataclass(frozen=True, slots=True)
class Everything(RowMap):
    """Every output row reads all of the input: a global pooling, a gate that is broadcast over the rows."""

    def starts(self, starts: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        return np.zeros_like(starts)

    def stops(self, stops: IntArray, height: int) -> IntArray:
        """See `RowMap`."""
        return np.full_like(stops, height)


def _clip(rows: IntArray, least: int, most: int) -> IntArray:
    """As `np.clip`, which takes several times as long for the short arrays that there are many of."""
    return np.minimum(np.maximum(rows, least), most)


ROW_BY_ROW = Window()
EVERYTHING = Everything()
