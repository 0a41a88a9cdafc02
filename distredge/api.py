"""The functions that a program calls: partition a model, make a plan."""

from __future__ import annotations

import numpy as np

from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.planners import planner
from distredge.planners.base import Progress, Task, make_plan
from distredge.plans.plan import Plan
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.costs import VolumeCosts


def partition(
    graph: LayerGraph, scenario: Scenario, alpha: float = ALPHA, samples: int = SAMPLES, seed: int = 0
) -> PartitionScheme:
    """The partition scheme that LC-PSS finds (DistrEdge, Algorithm 1).

    `alpha` in [0, 1] weighs transmission against operations.
    """
    return lcpss(graph, len(scenario.providers), alpha, samples, np.random.default_rng(seed))


def plan(
    graph: LayerGraph,
    scenario: Scenario,
    method: str = "osds",
    seed: int = 0,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """A plan for a model on a scenario, with its predicted latency.

    `method` is one of `distredge.planners.METHODS`. With `budget_s` a searching method stops after about that many
    seconds; without it, it does a fixed amount of work, and the same seed gives the same plan. Raises
    `UnknownNameError` for another method, `PlanError` if a provider's memory is too small.
    """
    chosen = planner(method)
    task = make_task(graph, scenario, seed, budget_s, progress)
    return make_plan(task, chosen.plan(task), method, seed)


def make_task(
    graph: LayerGraph, scenario: Scenario, seed: int, budget_s: float | None, progress: Progress | None
) -> Task:
    """What a planner is asked; raises `InputError` for a negative seed or a budget that is not positive."""
    if seed < 0 or (budget_s is not None and budget_s <= 0):
        raise InputError("the seed must not be negative, and a budget must be more than 0 seconds")
    costs = VolumeCosts(graph, scenario.profiles)
    task = Task(graph, scenario, np.random.default_rng(seed), costs, budget_s)
    return task if progress is None else Task(graph, scenario, task.rng, costs, budget_s, progress)
