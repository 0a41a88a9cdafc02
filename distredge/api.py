"""The functions that a program calls: partition a model, make a plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.planners import planner
from distredge.planners.base import Progress, Task, make_plan, plan_quality
from distredge.planners.front import Front
from distredge.plans.plan import Plan
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.goals import GOALS, Goals
from distredge.simulate.quality import Quality


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
    goals: Goals | None = None,
) -> Plan:
    """A plan for a model on a scenario, with its predicted latency.

    `method` is one of `distredge.planners.METHODS`. With `budget_s` a searching method stops after about that many
    seconds; without it, it does a fixed amount of work, and the same seed gives the same plan. `goals` are what to
    minimise (by default latency) and what to keep to. Raises `UnknownNameError` for another method, `PlanError` if a
    provider's memory is too small, `InputError` if the method finds no plan that keeps to the goals.
    """
    chosen = planner(method)
    task = make_task(graph, scenario, seed, budget_s, progress, goals)
    return make_plan(task, chosen.plan(task), method, seed)


def pareto(
    graph: LayerGraph,
    scenario: Scenario,
    against: str = "energy",
    points: int = 8,
    seed: int = 0,
    budget_s: float | None = None,
    progress: Progress | None = None,
    goals: Goals | None = None,
) -> list[tuple[Plan, Quality]]:
    """Plans, fastest first, of which none beats another in both latency and `against`; at most `points`.

    `against` is `energy`, `cost`, `redundant` or `failures` (the share of frames lost). Raises `InputError` if the
    scenario lacks the figures, or no plan was found that keeps to the limits of `goals`.
    """
    choices = GOALS[1:]
    if against not in choices:
        raise UnknownNameError("goal", against, choices)
    asked = replace(goals or Goals(), minimise={"latency": 1.0, against: 1.0})
    task = make_task(graph, scenario, seed, budget_s, progress, asked)
    front = Front(task, GOALS.index(against), points).search()
    if not front:
        make_plan(task, planner("search").plan(task), "pareto", seed)  # says which limit it is
        raise InputError("no plan was found that keeps to all limits: relax one")
    plans = [make_plan(task, point.strategy, "search", seed) for point in front]
    return [(made, plan_quality(task, made)) for made in plans]


def make_task(
    graph: LayerGraph,
    scenario: Scenario,
    seed: int,
    budget_s: float | None,
    progress: Progress | None,
    goals: Goals | None = None,
) -> Task:
    """What a planner is asked.

    Raises `InputError` for a negative seed, a budget that is not positive, or goals that do not fit the scenario.
    """
    if seed < 0 or (budget_s is not None and budget_s <= 0):
        raise InputError("the seed must not be negative, and a budget must be more than 0 seconds")
    goals = goals or Goals()
    scenario = goals.scenario(graph, scenario)
    costs = VolumeCosts(graph, scenario.profiles)
    task = Task(graph, scenario, np.random.default_rng(seed), costs, budget_s, goals=goals)
    return task if progress is None else replace(task, progress=progress)
