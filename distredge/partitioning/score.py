"""The partitioning score C_p = alpha T + (1 - alpha) O of DistrEdge (Eq. 3), averaged over random splits (Eq. 4)."""

from __future__ import annotations

import numpy as np

from distredge.geometry.receptive import IntArray
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.profiles.profile import FloatArray


class SplitScore:
    """The score of a model's layer-volumes under a fixed set of random split decisions.

    A random decision is one set of cut fractions for every layer, so that whatever the scheme, each volume is cut at
    its last layer's fractions and neighbouring volumes agree. T and O then are sums over volumes, and a volume's
    share depends on its two ends alone: `volume(start, stop)`.

    The paper leaves the common scale of T and O open. Here each is in units of its range over the two extreme
    schemes: one unit of T is what splitting layer by layer transmits more than fusing everything, one unit of O is what
    fusing everything recomputes more than splitting layer by layer.
    """

    def __init__(self, graph: LayerGraph, providers: int, samples: int, alpha: float, rng: np.random.Generator) -> None:
        self.graph = graph
        fractions = np.sort(rng.random((len(graph.layers), samples, providers - 1)), axis=2)
        self._cuts = [_cuts(fractions[i], layer.height) for i, layer in enumerate(graph.layers)]
        self._known: dict[tuple[int, int], float] = {}
        ends = (*graph.partition_points[1:], len(graph.layers))
        steps = list(zip(graph.partition_points, ends, strict=True))
        whole = (0, len(graph.layers))
        traffic = sum(self._traffic(a, b) for a, b in steps) - self._traffic(*whole)
        operations = self._operations(*whole) - sum(self._operations(a, b) for a, b in steps)
        self._weights = (alpha / max(traffic, 1.0), (1.0 - alpha) / max(operations, 1.0))

    def volume(self, start: int, stop: int) -> float:
        """Share of the volume of layers `[start, stop)` in the score, a mean over the random decisions."""
        key = (start, stop)
        if key not in self._known:
            transmit, compute = self._weights
            self._known[key] = transmit * self._traffic(start, stop) + compute * self._operations(start, stop)
        return self._known[key]

    def scheme(self, locations: tuple[int, ...]) -> float:
        """The score of a whole partition scheme."""
        return sum(self.volume(a, b) for a, b in zip(locations, (*locations[1:], len(self.graph.layers)), strict=True))

    def _operations(self, start: int, stop: int) -> float:
        """Mean multiply-accumulates of a volume, halo recomputation included."""
        volume = Volume(self.graph, start, stop)
        starts, stops = volume.tables
        a, b = _ends(self._cuts[stop - 1])
        total = 0.0
        for i, layer in enumerate(volume.layers):
            rows = np.where(b > a, stops[i + 1][b] - starts[i + 1][a], 0)
            total += float(rows.sum()) * layer.macs / layer.height
        return total / len(a)

    def _traffic(self, start: int, stop: int) -> float:
        """Mean elements that enter a volume over the network: rows that a provider needs and does not hold."""
        volume = Volume(self.graph, start, stop)
        starts, stops = volume.tables
        a, b = _ends(self._cuts[stop - 1])
        low, high = starts[0][a], stops[0][b]
        rows = np.where(b > a, high - low, 0)
        if start > 0:
            held_from, held_to = _ends(self._cuts[start - 1])
            held = np.maximum(np.minimum(high, held_to) - np.maximum(low, held_from), 0)
            rows = rows - np.where(b > a, held, 0)
        return float(rows.sum()) * self.graph.input_rows(start)[1] / len(a)


def _cuts(fractions: FloatArray, height: int) -> IntArray:
    """(samples, providers + 1) cuts on `height` rows."""
    samples = len(fractions)
    inner = np.rint(fractions * height).astype(np.int64)
    return np.hstack([np.zeros((samples, 1), np.int64), inner, np.full((samples, 1), height)])


def _ends(cuts: IntArray) -> tuple[IntArray, IntArray]:
    return cuts[:, :-1], cuts[:, 1:]
