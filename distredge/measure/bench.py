"""What a back end is: it times pieces of a model on one device."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from distredge.profiles.measured import Conditions, Subject, Timing

MIN_RUNS, MAX_RUNS = 3, 200
"""A point is timed at least and at most so many times."""


WARM_UP_SHARE = 0.2
"""Warming up before a look, as a share of the time for running."""


@dataclass(frozen=True)
class Piece:
    """Part of a model as an ONNX model of its own with inputs of fixed shapes.

    Large weights lie in files in `folder`, as ONNX's external data. `title` tells people what it is.
    """

    title: str
    model: ModelProto
    folder: Path

    def whole(self) -> ModelProto:
        """A copy of the model with all its weights inside."""
        model = ModelProto()
        model.CopyFrom(self.model)
        onnx.load_external_data_for_model(model, str(self.folder))
        return model


class Bench(ABC):
    """Times pieces on one device. Used by one thread, in a `with` statement, which frees what it holds.

    Opening one raises `DependencyError` where a library that it needs is not installed, and `InputError` where there
    is no such device; `time_ms` raises `RunError` where the device fails or refuses the piece.
    """

    subject: Subject
    caches: str
    """What is done to the caches before each run, in words."""

    looks: int = 1
    """Times that a point is worth loading anew, whenever it is measured: where its data lie changes its speed."""

    commands: tuple[str, ...] = ()
    """Command lines of other programs that it ran, without what differs from piece to piece."""

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  most benches hold nothing
        """Free what the bench holds; the default has nothing to free."""

    @abstractmethod
    def time_ms(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        """Milliseconds of each of some runs of a piece: data in the device's memory, batch 1, no transfer of it.

        Warms up for about `warm_up_s` first, then runs for about `seconds`, at least `MIN_RUNS` and at most `MAX_RUNS`
        times.
        """

    def look(self, piece: Piece, seconds: float) -> list[list[float]]:
        """Milliseconds of the runs of each of the bench's looks at a piece, in about `seconds` in all."""
        each = seconds / self.looks
        return [self.time_ms(piece, WARM_UP_SHARE * each, each) for _ in range(self.looks)]

    @abstractmethod
    def conditions(self) -> Conditions:
        """What state the device is in now."""

    def breakdown_ms(self, piece: Piece) -> dict[str, float] | None:
        """Milliseconds of each kernel in one run of a piece, by the names that the runtime gives them, in order.

        None where the runtime cannot tell. Such profiling slows a run down: its sum is not the piece's latency.
        """
        return None


def repeat(run: Callable[[], object], prepare: Callable[[], None], warm_up_s: float, seconds: float) -> list[float]:
    """Milliseconds of each of `MIN_RUNS` to `MAX_RUNS` calls of `run`, in about `seconds` with what prepares them."""
    for _ in _until(warm_up_s, 1, MAX_RUNS):
        run()
    times = []
    for _ in _until(seconds, MIN_RUNS, MAX_RUNS):
        prepare()
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _until(seconds: float, least: int, most: int) -> Iterator[int]:
    """Count from 0: at least `least` times, at most `most` times, no further than `seconds`."""
    end = time.perf_counter() + seconds
    for i in range(most):
        if i >= least and time.perf_counter() >= end:
            return
        yield i


def summary(looks: Sequence[list[float]]) -> Timing:
    """Median, other quantiles and coefficient of variation of all runs of some looks, in ms."""
    values = np.concatenate([np.array(times) for times in looks])
    p10, median, p90, p99 = (round(float(q), 6) for q in np.quantile(values, [0.1, 0.5, 0.9, 0.99]))
    cv = round(float(values.std() / values.mean()), 4)
    return Timing(median_ms=median, p10_ms=p10, p90_ms=p90, p99_ms=p99, cv=cv, count=len(values), looks=len(looks))
