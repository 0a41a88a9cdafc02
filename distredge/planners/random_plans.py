"""Random plans that a planner might have made: to ask whether the simulator is right about plans in general."""

from __future__ import annotations

import numpy as np

from distredge.errors import InputError, PlanError
from distredge.partitioning.lcpss import lcpss
from distredge.planners.base import Strategy, Task, make_plan, simulator_for
from distredge.plans.plan import Plan
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.kernel import IntArray

METHOD = "random"

MOST_VOLUMES = 8

LIKENESS = 20.0
"""How like the shares of a plan's volumes are: concentration of the Dirichlet distribution around the plan's own."""

TRIES = 50
"""So many plans may be too large for the providers' memory, one after the other."""


def random_plans(task: Task, count: int, seed: int) -> list[Plan]:
    """Plans that the task's generator draws: every second one on the scheme that LC-PSS finds, others on random ones.

    Each has shares of the rows of its own, from the Dirichlet distribution, around which those of its volumes vary.
    Raises `InputError` if the providers' memory allows hardly any.
    """
    found = lcpss(task.graph, len(task.scenario.providers), 0.75, 100, task.rng) if count else None
    plans: list[Plan] = []
    refused = 0
    while len(plans) < count:
        scheme = found if found and len(plans) % 2 == 0 else random_scheme(task)
        try:
            plans.append(make_plan(task, _strategy(task, scheme), METHOD, seed))
        except PlanError as exc:
            refused += 1
            if refused > TRIES + count:
                raise InputError(f"hardly any random plan fits: {exc}") from exc
    return plans


def random_scheme(task: Task) -> PartitionScheme:
    """One to `MOST_VOLUMES` volumes, each number as likely, cut anywhere."""
    points = task.graph.cut_points[1:]
    volumes = int(task.rng.integers(1, min(MOST_VOLUMES, len(points) + 1) + 1))
    chosen = sorted(int(p) for p in task.rng.choice(points, volumes - 1, replace=False)) if volumes > 1 else []
    return PartitionScheme(task.graph, (0, *chosen))


def _strategy(task: Task, scheme: PartitionScheme) -> Strategy:
    simulator = simulator_for(task, scheme)
    devices = len(task.scenario.providers)
    own = task.rng.dirichlet(np.ones(devices))
    cuts = np.stack([_cuts(task.rng.dirichlet(LIKENESS * own + 0.05), int(height)) for height in simulator.heights])
    return Strategy(scheme, task.scenario, cuts, float(simulator.evaluate(cuts[None])[0]))


def _cuts(shares: np.ndarray, height: int) -> IntArray:
    inner = np.rint(np.cumsum(shares[:-1]) * height).astype(np.int64)
    return np.concatenate([[0], np.minimum(inner, height), [height]])
