"""Stand-ins for boards that are not here: they take the time that a profile says and compute nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distredge.engine.base import Engine, FloatRows, HeadEngine
from distredge.geometry.interval import Interval


class EmulatedEngine(Engine):
    """Holds a split-part for exactly `hold_ms` and returns zeros of the right shapes.

    The hold ends at a deadline on the monotonic clock, so that what waking up costs does not add up.
    """

    def __init__(self, out_shapes: Sequence[tuple[int, ...]], hold_ms: float) -> None:
        self._out_shapes = tuple(out_shapes)
        self._hold_ms = hold_ms

    def prepare(self, out: Interval) -> None:
        """Nothing to do."""

    def run(self, out: Interval, inputs: Sequence[FloatRows]) -> list[FloatRows]:
        """Zeros, after the hold."""
        sleep_until(time.monotonic() + self._hold_ms / 1000.0)
        return [zeros(shape) for shape in self._out_shapes]


class EmulatedHead(HeadEngine):
    """As `EmulatedEngine`, for the head: zeros for each of `outputs` (name, shape)."""

    def __init__(self, outputs: Sequence[tuple[str, tuple[int, ...]]], hold_ms: float) -> None:
        self._outputs = tuple(outputs)
        self._hold_ms = hold_ms

    def run(self, inputs: Sequence[FloatRows]) -> dict[str, npt.NDArray[np.generic]]:
        """Zeros, after the hold."""
        sleep_until(time.monotonic() + self._hold_ms / 1000.0)
        return {name: zeros(tuple(max(size, 1) for size in shape)) for name, shape in self._outputs}


def zeros(shape: tuple[int, ...]) -> FloatRows:
    """Zeros that take no memory: a read-only array whose strides are all 0."""
    return np.broadcast_to(np.float32(0), shape)


def sleep_until(deadline: float) -> None:
    """Sleep, without spinning, until `time.monotonic()` has reached `deadline`."""
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(left)
