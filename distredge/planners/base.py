"""What every planner is: a graph and a scenario in, a strategy out, all costed by the same simulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.plans.plan import ModelRef, Plan, VolumePlan
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.kernel import IntArray
from distredge.simulate.memory import check_memory
from distredge.simulate.simulator import Simulator
from distredge.simulate.timeline import trace

Progress = Callable[[float, float], None]
"""Called with (share of the work done in [0, 1], best latency in ms so far)."""


@dataclass(frozen=True)
class Task:
    """What a planner is asked.

    `rng` decides every random choice; `budget_s` bounds the time where a planner can use it.

    Without a budget a planner does a fixed amount of work, so that the same seed gives the same plan.
    """

    graph: LayerGraph
    scenario: Scenario
    rng: np.random.Generator
    costs: VolumeCosts
    budget_s: float | None = None
    progress: Progress = lambda share, latency_ms: None


@dataclass(frozen=True)
class Strategy:
    """A distribution strategy: a scheme, the providers' order along the height, cuts (volumes, providers + 1)."""

    scheme: PartitionScheme
    scenario: Scenario
    cuts: IntArray
    latency_ms: float


class Planner(ABC):
    """A method that makes strategies.

    `plan` returns a strategy that is valid for the task's graph and scenario (its providers in any order), whose
    `latency_ms` is what the simulator says of it; it does not print, and it is deterministic in the task's `rng`
    unless a budget is given. Raises `InputError` if it cannot serve the task.
    """

    name: str

    @abstractmethod
    def plan(self, task: Task) -> Strategy:
        """The strategy for a task."""


def simulator_for(task: Task, scheme: PartitionScheme, scenario: Scenario | None = None) -> Simulator:
    """A simulator of the task under a scheme, with the tables shared; `scenario` may be a reordered one."""
    return Simulator(task.graph, scenario or task.scenario, scheme, task.costs)


def draft(strategy: Strategy, scenario: Scenario, method: str, seed: int) -> Plan:
    """A strategy for a scenario as a plan file's value, without a prediction."""
    graph, names = strategy.scheme.graph, strategy.scenario.provider_names
    volumes = tuple(
        VolumePlan(layers=layers, cuts=tuple(int(c) for c in cuts))
        for layers, cuts in zip(strategy.scheme.volumes, strategy.cuts, strict=True)
    )
    return Plan(
        method=method,
        seed=seed,
        model=ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape),
        scenario=scenario.name,
        providers=names,
        volumes=volumes,
        head_provider=names[int(np.argmax(np.diff(strategy.cuts[-1])))],
    )


def make_plan(task: Task, strategy: Strategy, method: str, seed: int) -> Plan:
    """A strategy as a plan, with its prediction; raises `PlanError` if a provider's memory is too small."""
    plan = draft(strategy, task.scenario, method, seed)
    bound = plan.bind(task.graph)
    check_memory(bound, task.scenario)
    return plan.model_copy(update={"predicted": trace(bound, task.scenario, task.costs).prediction()})
