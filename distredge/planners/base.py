"""What every planner is: a graph and a scenario in, a strategy out, all costed by the same simulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.plans.plan import ModelRef, Plan, VolumePlan
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.aim import make_aim
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.goals import FAILURES, REDUNDANT, Goals
from distredge.simulate.kernel import IntArray
from distredge.simulate.memory import check_memory
from distredge.simulate.quality import Quality, quality
from distredge.simulate.simulator import Simulator
from distredge.simulate.timeline import trace

Progress = Callable[[float, float], None]
"""Called with (share of the work done in [0, 1], best latency in ms so far)."""


@dataclass(frozen=True)
class Task:
    """What a planner is asked.

    `rng` decides every random choice; `budget_s` bounds the time where a planner can use it. `scenario` is what the
    goals leave of one (`Goals.scenario`).

    Without a budget a planner does a fixed amount of work, so that the same seed gives the same plan.
    """

    graph: LayerGraph
    scenario: Scenario
    rng: np.random.Generator
    costs: VolumeCosts
    budget_s: float | None = None
    progress: Progress = lambda share, latency_ms: None
    goals: Goals = field(default_factory=Goals)

    @cached_property
    def scale(self) -> float:
        """About the least weighted sum of the goals that one provider alone reaches, limits and bars aside."""
        scheme = PartitionScheme(self.graph, (0,))
        aim = make_aim(self.goals, self.scenario, scheme, self.costs, 0.0)
        alone = Simulator(self.graph, self.scenario, scheme, self.costs, aim).unbarred()
        shares = self.goals.weights[REDUNDANT] + self.goals.weights[FAILURES]  # of 1, as one alone may have none
        return max(float(np.min(alone.score(alone.single_device_cuts()))) + shares, 1e-12)


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

    `weighs` tells whether it looks for what the task's goals ask; the others look for the least latency (or what their
    authors did), on the scenario that the goals leave, and what they find is checked by `make_plan`.
    """

    name: str
    weighs = False

    @abstractmethod
    def plan(self, task: Task) -> Strategy:
        """The strategy for a task."""


def simulator_for(task: Task, scheme: PartitionScheme, scenario: Scenario | None = None) -> Simulator:
    """A simulator of the task under a scheme, with the tables shared; `scenario` may be a reordered one.

    Where latency alone decides it has no aim.
    """
    chosen = scenario or task.scenario
    aim = make_aim(task.goals, chosen, scheme, task.costs, 0.0)
    return Simulator(task.graph, chosen, scheme, task.costs, aim and aim._replace(scale=task.scale))


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
    """A strategy as a plan, with its prediction.

    Raises `PlanError` if a provider's memory is too small, `InputError` if it does not keep to the task's goals.
    """
    plan = draft(strategy, task.scenario, method, seed)
    bound = plan.bind(task.graph)
    task.goals.check_parts(bound)
    check_memory(bound, task.scenario)
    timeline = trace(bound, task.scenario, task.costs)
    if any(limit is not None for limit in task.goals.limits):
        found = quality(bound, timeline, task.scenario)
        task.goals.check_limits(found, method, lower_bound_ms(task, strategy.scheme))
    return plan.model_copy(update={"predicted": timeline.prediction()})


def lower_bound_ms(task: Task, scheme: PartitionScheme) -> float:
    """A latency that no split decisions under a scheme can beat, by computation and links."""
    return Simulator(task.graph, task.scenario, scheme, task.costs).lower_bound_ms()


def plan_quality(task: Task, plan: Plan) -> Quality:
    """What a frame costs under a plan of the task."""
    bound = plan.bind(task.graph)
    return quality(bound, trace(bound, task.scenario, task.costs), task.scenario)
