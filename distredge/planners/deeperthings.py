"""DeeperThings (Stahl et al., IJPP 2021): all layers shared out equally, in several fused volumes.

The original fuses early layers into tiles as DeepThings does; in the later ones, where weights outnumber feature maps,
it splits weights: two layers at a time, the first by output and the second by input channels, so that devices exchange
data once a pair. It assumes equal devices. DistrEdge's comparison takes from it "equal-split, multiple fused-layers"
(section V-B), by rows. Here volumes end where the original exchanges data, and every one is split into equal rows:

- the first is DeepThings' fused volume;
- then each two blocks that have weights are one. A block is what lies between two partition points; blocks without
  weights (poolings) join the volume before them.

Simplified: rows in the place of channels, so every provider holds all weights and computes halos; no work stealing.
"""

from __future__ import annotations

from distredge.model.graph import LayerGraph
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.deepthings import fused_end, weights
from distredge.planners.linear import strategy_of
from distredge.plans.scheme import PartitionScheme


class DeeperThings(Planner):
    """Several fused volumes, each in equal parts."""

    name = "deeperthings"

    def plan(self, task: Task) -> Strategy:
        """One strategy, no search."""
        scheme = PartitionScheme(task.graph, (0, *pair_starts(task.graph)))
        return strategy_of(task, scheme, simulator_for(task, scheme).equal_cuts())


def pair_starts(graph: LayerGraph) -> list[int]:
    """The partition points behind the fused volume at which a pair of blocks with weights begins."""
    starts: list[int] = []
    points = (*graph.partition_points, len(graph.layers))
    first, count = fused_end(graph), 0
    for start, stop in zip(points, points[1:], strict=False):
        if start >= first and weights(graph, start, stop):
            if count % 2 == 0:
                starts.append(start)
            count += 1
    return starts
