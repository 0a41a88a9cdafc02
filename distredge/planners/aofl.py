"""AOFL (Zhou et al., SEC 2019): several fused volumes, each on the best number of devices, by dynamic programming.

With `t_f(i, k)` the time of `k` blocks from the `i`-th on, fused, the least time of the `j` blocks from `i` on is

    t_o(i, 0) = 0,   t_o(i, 1) = t_f(i, 1),   t_o(i, j) = min over 1 <= k <= j of t_f(i, k) + t_o(i + k, j - k).

`t_f` is the transfer of the first input from the source, the compute of all layers with halo, and the transfer of the
last output to the source, of whichever device takes longest; all under linear models: `a * F + b` a layer, bytes by the
rate. Devices are ranked by clock (here: capability `1 / a`), then by bandwidth to the source; the set is grown one at a
time, and the prefix with the least `t_f` kept. The ratios in a set make compute + transfer equal; who would not be done
in time with nothing gets nothing.

Simplified: a block is what lies between two partition points of the DAG, the source is the requester. Ratios are solved
without halos, then rounded to rows, and `t_f` counts the halos of these rows. The output of a volume is taken to go to
the source and back, as in the original; in the simulator and in the runtime rows go straight to whoever needs them, so
AOFL overrates what a boundary costs and fuses more than would be best. Transfers of several devices are not taken to
slow each other down. Tensors that leave for the head or the requester on the way are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.linear import LinearModels, linear_models, operations, strategy_of
from distredge.plans.scheme import PartitionScheme
from distredge.profiles.profile import FloatArray
from distredge.simulate.kernel import IntArray


class Aofl(Planner):
    """The dynamic programme over blocks, with the best prefix of devices for each."""

    name = "aofl"

    def plan(self, task: Task) -> Strategy:
        """One strategy; every range of blocks is looked at once."""
        points = task.graph.partition_points
        best = search(task)
        starts, cuts, at = [], [], 0
        while at < len(points):
            starts.append(points[at])
            cuts.append(best[at].cuts)
            at = best[at].stop
        return strategy_of(task, PartitionScheme(task.graph, tuple(starts)), np.stack(cuts))


class Rest(NamedTuple):
    """The best for all blocks from one on: `t_o`, the block before which its first volume ends, that volume's cuts."""

    time_ms: float
    stop: int
    cuts: IntArray


def search(task: Task) -> list[Rest]:
    """The best for the blocks from each block on."""
    points = task.graph.partition_points
    ends = (*points[1:], len(task.graph.layers))
    models = linear_models(task)
    fused = [Fused(task.graph, end, models, task.scenario.element_bytes) for end in ends]
    one = PartitionScheme(task.graph, (0,))
    one_ms = float(simulator_for(task, one).evaluate(fused[-1].best_prefix(0)[1][None, None])[0])
    best: list[Rest] = []  # of the blocks from i + 1 on
    for i in reversed(range(len(points))):
        rests = []
        for stop in range(i + 1, len(points) + 1):
            time_ms, cuts = fused[stop - 1].best_prefix(points[i])
            rests.append(Rest(time_ms + (best[stop - i - 1].time_ms if stop < len(points) else 0.0), stop, cuts))
        best.insert(0, min(rests, key=lambda rest: rest.time_ms))
        task.progress(0.9 * len(best) / len(points), one_ms)
    return best


@dataclass(frozen=True, eq=False)
class Fused:
    """The volumes that end before layer `stop`, wherever they begin, under linear models."""

    graph: LayerGraph
    stop: int
    models: LinearModels
    element_bytes: int

    @cached_property
    def rows(self) -> tuple[IntArray, IntArray]:
        """`Volume.tables` of the layers alone: they are the same wherever before them the volume begins."""
        volume = Volume(self.graph, 0, self.stop)
        starts, stops = volume.tables
        return starts[len(volume.entering) :], stops[len(volume.entering) :]

    def best_prefix(self, start: int) -> tuple[float, IntArray]:
        """`t_f` of the layers `[start, stop)`, and the cuts (providers + 1,) that give it; of equals, the fewest."""
        cuts = self.cuts(start)
        times = self.times_ms(start, cuts).max(axis=1)
        best = int(np.argmin(times))
        return float(times[best]), cuts[best]

    def cuts(self, start: int) -> IntArray:
        """(prefixes, providers + 1): rows shared among the best device, the best two, and so on."""
        graph, models, last = self.graph, self.models, self.graph.layers[self.stop - 1]
        layers = graph.layers[start : self.stop]
        moved = self._row_bytes(start - 1) * graph.shape(start - 1)[1] + self._row_bytes(self.stop - 1) * last.height
        whole_ms = models.operation_ms * sum(map(operations, layers)) + models.source_byte_ms * moved
        fixed_ms = models.layer_ms * len(layers)
        shares = np.zeros((len(whole_ms), len(whole_ms)))
        ranking = np.lexsort((models.source_byte_ms, models.operation_ms))
        for count in range(1, len(ranking) + 1):
            chosen = ranking[:count]
            shares[count - 1, chosen] = equal_times(whole_ms[chosen], fixed_ms[chosen])
        edges = np.pad(np.cumsum(shares, axis=1), ((0, 0), (1, 0)))
        edges[:, -1] = 1.0
        return np.rint(edges * last.height).astype(np.int64)

    def times_ms(self, start: int, cuts: IntArray) -> FloatArray:
        """(n, providers): input, compute with halo, output of each provider for some cuts; 0 for an empty part."""
        starts, stops = self.rows
        layers = self.graph.layers[start : self.stop]
        a, b = cuts[:, :-1], cuts[:, 1:]
        row_work = np.array([operations(layer) / layer.height for layer in layers])
        rows = np.maximum(stops[start:, b] - starts[start:, a], 0)
        compute_ms = np.tensordot(row_work, rows, 1) * self.models.operation_ms + self.models.layer_ms * len(layers)
        moved = self._rows_read(start, a, b) * self._row_bytes(start - 1) + (b - a) * self._row_bytes(self.stop - 1)
        return np.where(b > a, compute_ms + moved * self.models.source_byte_ms, 0.0)

    def _rows_read(self, start: int, a: IntArray, b: IntArray) -> IntArray:
        """Rows that parts need of the one tensor that enters the layers from `start` on, made by the layer before.

        Where several branches read it, the hull of what they need.
        """
        starts, stops = self.rows
        graph = self.graph
        height = graph.shape(start - 1)[1]
        first, end = np.full(a.shape, height), np.zeros(a.shape, dtype=np.int64)
        for i in range(start, self.stop):
            for source in graph.layers[i].inputs:
                if graph.index[source.source] == start - 1:
                    first = np.minimum(first, source.reads.starts(starts[i], height)[a])
                    end = np.maximum(end, source.reads.stops(stops[i], height)[b])
        rows: IntArray = np.maximum(end - first, 0)
        return rows

    def _row_bytes(self, layer: int) -> float:
        return float(self.graph.row_elements(layer) * self.element_bytes)


def equal_times(whole_ms: FloatArray, fixed_ms: FloatArray) -> FloatArray:
    """Shares that add up to 1 and make `share * whole_ms + fixed_ms` one time T, 0 where `fixed_ms` is T or more."""
    order = np.argsort(fixed_ms, kind="stable")
    speed = np.cumsum(1.0 / whole_ms[order])
    together = (1.0 + np.cumsum(fixed_ms[order] / whole_ms[order])) / speed
    used = int(np.flatnonzero(together > fixed_ms[order])[-1])
    shares = np.maximum(together[used] - fixed_ms, 0.0) / whole_ms
    return np.asarray(shares / shares.sum())
