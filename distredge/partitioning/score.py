"""The partitioning score C_p = alpha T + (1 - alpha) O of DistrEdge (Eq. 3), averaged over random splits (Eq. 4)."""

from __future__ import annotations

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE, LayerGraph
from distredge.model.rows import IntArray
from distredge.profiles.profile import FloatArray


class SplitScore:
    """The score of a model's layer-volumes under a fixed set of random split decisions.

    A random decision is one set of cut fractions for every layer, so that whatever the scheme, each volume is cut at
    its last layer's fractions and neighbouring volumes agree. T and O then are sums over volumes, and a volume's
    share depends on its two ends alone: `volume(start, stop)`. A tensor that crosses several volumes counts as cut at
    its own layer's fractions; what the head and the requester get is the same under every scheme and does not count.

    The paper leaves the common scale of T and O open. Here each is in units of its range over the two extreme
    schemes: one unit of T is what splitting layer by layer transmits more than fusing everything, one unit of O is what
    fusing everything recomputes more than splitting layer by layer.
    """

    def __init__(self, graph: LayerGraph, providers: int, samples: int, alpha: float, rng: np.random.Generator) -> None:
        self.graph = graph
        fractions = np.sort(rng.random((len(graph.layers), samples, providers - 1)), axis=2)
        self._cuts = [_cuts(fractions[i], layer.height) for i, layer in enumerate(graph.layers)]
        self._known: dict[tuple[int, int], float] = {}
        ends = (*graph.cut_points[1:], len(graph.layers))
        steps = [Volume(graph, a, b) for a, b in zip(graph.cut_points, ends, strict=True)]
        whole = Volume(graph, 0, len(graph.layers))
        traffic = sum(map(self._traffic, steps)) - self._traffic(whole)
        operations = self._operations(whole) - sum(map(self._operations, steps))
        self._weights = (alpha / max(traffic, 1.0), (1.0 - alpha) / max(operations, 1.0))

    def volume(self, start: int, stop: int) -> float:
        """Share of the volume of layers `[start, stop)` in the score, a mean over the random decisions."""
        key = (start, stop)
        if key not in self._known:
            transmit, compute = self._weights
            volume = Volume(self.graph, start, stop)
            self._known[key] = transmit * self._traffic(volume) + compute * self._operations(volume)
        return self._known[key]

    def scheme(self, locations: tuple[int, ...]) -> float:
        """The score of a whole partition scheme."""
        return sum(self.volume(a, b) for a, b in zip(locations, (*locations[1:], len(self.graph.layers)), strict=True))

    def _operations(self, volume: Volume) -> float:
        """Mean multiply-accumulates of a volume, halo recomputation included."""
        starts, stops = volume.tables
        a, b = _ends(self._cuts[volume.stop - 1])
        total = 0.0
        for k, layer in enumerate(volume.layers, start=len(volume.entering)):
            if layer.macs:
                rows = np.where(b > a, np.maximum(stops[k][b] - starts[k][a], 0), 0)
                total += float(rows.sum()) * layer.macs / layer.height
        return total / len(a)

    def _traffic(self, volume: Volume) -> float:
        """Mean elements that enter a volume over the network: rows that a provider needs and does not hold."""
        starts, stops = volume.tables
        a, b = _ends(self._cuts[volume.stop - 1])
        total = 0.0
        for k, i in enumerate(volume.entering):
            low, high = starts[k][a], stops[k][b]
            held = 0
            if i != IMAGE:
                held_from, held_to = _ends(self._cuts[i])
                held = np.maximum(np.minimum(high, held_to) - np.maximum(low, held_from), 0)
            total += float(np.where(b > a, high - low - held, 0).sum()) * self.graph.row_elements(i)
        return total / len(a)


def _cuts(fractions: FloatArray, height: int) -> IntArray:
    """(samples, providers + 1) cuts on `height` rows."""
    samples = len(fractions)
    inner = np.rint(fractions * height).astype(np.int64)
    return np.hstack([np.zeros((samples, 1), np.int64), inner, np.full((samples, 1), height)])


def _ends(cuts: IntArray) -> tuple[IntArray, IntArray]:
    return cuts[:, :-1], cuts[:, 1:]
