"""Offload: the whole model on one provider (DistrEdge, section V-B, baseline 7)."""

from __future__ import annotations

import numpy as np

from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.plans.scheme import PartitionScheme


class Offload(Planner):
    """One volume, on the provider that answers first end to end (or is best for the task's goals).

    The paper takes the one with the best hardware; where links differ, the best end to end is the stronger baseline.
    """

    name = "offload"
    weighs = True

    def plan(self, task: Task) -> Strategy:
        """The best of as many strategies as there are providers."""
        scheme = PartitionScheme(task.graph, (0,))
        simulator = simulator_for(task, scheme)
        choices = simulator.single_device_cuts()
        latencies = simulator.evaluate(choices)
        best = int(np.argmin(simulator.score(choices)))
        task.progress(1.0, float(latencies[best]))
        return Strategy(scheme, task.scenario, choices[best], float(latencies[best]))
