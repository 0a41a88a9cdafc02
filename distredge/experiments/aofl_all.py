"""AOFL without its choice of devices: every volume is shared among all of them. A yardstick, not a baseline.

The original grows the set of devices one by one and keeps the best prefix, and so does `aofl`: slow devices are left
out. The DistrEdge paper describes AOFL by its linear ratio only; whether devices could be left out is not said. This
form shows how much hangs on it.
"""

from __future__ import annotations

import numpy as np

from distredge.experiments.judging import EVERYONE
from distredge.planners.aofl import Fused
from distredge.planners.base import Planner, Strategy, Task
from distredge.planners.linear import linear_models, strategy_of
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.kernel import IntArray


class AoflAll(Planner):
    """AOFL's dynamic programme and ratios; only who would not be done in time with nothing gets nothing."""

    name = EVERYONE

    def plan(self, task: Task) -> Strategy:
        """One strategy, as `Aofl` makes it, of the largest set of devices in each volume."""
        points = task.graph.partition_points
        ends = (*points[1:], len(task.graph.layers))
        models = linear_models(task)
        fused = [Fused(task.graph, end, models, task.scenario.element_bytes) for end in ends]
        best: dict[int, tuple[float, int, IntArray]] = {}  # from a block on: time, where its volume ends, cuts
        for i in reversed(range(len(points))):
            for stop in range(i + 1, len(points) + 1):
                cuts = fused[stop - 1].cuts(points[i])[-1:]
                time_ms = float(fused[stop - 1].times_ms(points[i], cuts).max())
                time_ms += best[stop][0] if stop < len(points) else 0.0
                if i not in best or time_ms < best[i][0]:
                    best[i] = (time_ms, stop, cuts[0])
        starts, chosen, at = [], [], 0
        while at < len(points):
            starts.append(points[at])
            chosen.append(best[at][2])
            at = best[at][1]
        return strategy_of(task, PartitionScheme(task.graph, tuple(starts)), np.stack(chosen))
