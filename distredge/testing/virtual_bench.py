"""A stand-in for a device: its times come from a formula, and measuring takes no time. Named as such in its subject."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distredge.measure.bench import MIN_RUNS, Bench, Piece
from distredge.model.operators import static_shape
from distredge.profiles.measured import Conditions, Subject


class VirtualBench(Bench):
    """Every run of a piece takes `latency_ms(title, output rows)`, with normal noise of a relative size.

    `measured` are the titles of the pieces in the order in which they were timed.
    """

    caches = "none: a stand-in"

    def __init__(
        self,
        latency_ms: Callable[[str, int], float],
        rng: np.random.Generator,
        noise: float = 0.0,
        conditions: Conditions | None = None,
        host: str = "virtual",
    ) -> None:
        self.subject = Subject(
            backend="ort", host=host, device="stand-in", runtime="formula", runtime_version="1", threads=1
        )
        self.measured: list[str] = []
        self._latency_ms, self._rng, self._noise = latency_ms, rng, noise
        self._conditions = conditions or Conditions(at="2026-01-01T00:00:00+00:00")

    def time_ms(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        """See `Bench`."""
        self.measured.append(piece.title)
        shape = static_shape(piece.model.graph.output[0]) or (1,)
        true = self._latency_ms(piece.title, shape[2] if len(shape) > 2 else 1)
        runs = 1.0 + self._noise * self._rng.standard_normal(4 * MIN_RUNS)
        return [max(float(true * factor), 1e-6) for factor in runs]

    def conditions(self) -> Conditions:
        """See `Bench`."""
        return self._conditions
