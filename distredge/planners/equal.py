"""Equal split: LC-PSS's layer-volumes in parts of equal rows, whatever the devices; a yardstick, nobody's method."""

from __future__ import annotations

from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.planners.base import Planner, Strategy, Task, simulator_for


class Equal(Planner):
    """Every provider (that may) computes the same number of rows of every volume."""

    name = "equal"

    def plan(self, task: Task) -> Strategy:
        """One strategy, no search."""
        scheme = lcpss(task.graph, len(task.scenario.providers), ALPHA, SAMPLES, task.rng)
        simulator = simulator_for(task, scheme)
        cuts = simulator.permitted(simulator.equal_cuts())
        latency = float(simulator.evaluate(cuts[None])[0])
        task.progress(1.0, latency)
        return Strategy(scheme, task.scenario, cuts, latency)
