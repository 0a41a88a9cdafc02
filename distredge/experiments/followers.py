"""Who follows links that drift, each in its way: what plan each has in force at every moment.

All are told the same (`Hour.told`), as late (`ADAPT_S`), but for the oracle and the best fixed plan, which know the
truth, and for the paper's actor, which sees the latencies of the image that it is splitting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from distredge.agents.moving.library import Simulators
from distredge.agents.moving.policy import Decision, MovingAgent, WholePlan, features
from distredge.agents.moving.settings import MovingSettings, load_moving_settings
from distredge.experiments.aofl_all import AoflAll
from distredge.experiments.methods import graph_of
from distredge.experiments.traces import LIMITS_MBPS, Drift
from distredge.planners import planner
from distredge.planners.aofl import Fused
from distredge.planners.base import Planner, Strategy, Task
from distredge.planners.linear import linear_models
from distredge.planners.moving import pretrain
from distredge.profiles.profile import FloatArray
from distredge.runtime.replan import GAIN
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.kernel import IntArray

MODEL = "vgg16"

DETECT_S = 1.5
"""So long after a change of rates the estimate is that of the new ones. What a stream says of a link is the median of
eight bins of 0.25 s (`runtime/drift.py`), which is on the new side after 1.25 s."""

SWAP_S = 0.2
"""From a decision until the new plan is in force: everybody has made ready, and the frame under way is done."""

ADAPT_S = DETECT_S + SWAP_S

ESTIMATE_SIGMA = 0.07
"""Standard deviation of the logarithm of an estimated rate over the true one."""

WINDOW_S = 300.0
"""Averaged throughput is that of so many seconds before; the first plan is made for the first of them."""

CHANGED = 0.5
"""A plan is made anew when some device's averaged throughput differs by this share from what the plan was made for."""


@dataclass(frozen=True, eq=False)
class Work:
    """How much the methods search, in evaluations or gradient steps, so that the same work gives the same plans.

    `library` and `critic` are changes to the pre-training's settings; `episodes` are those of the paper's agent at
    first, a quarter of them for a fine-tuning.
    """

    library: Mapping[str, int]
    critic: Mapping[str, int]
    episodes: int
    oracle_steps: int
    oracle_rounds: int
    fixed_tries: int


FULL_WORK = Work(
    library={"rounds": 12, "conditions": 100, "keep": 300},
    critic={},
    episodes=600,
    oracle_steps=12_000,
    oracle_rounds=1,
    fixed_tries=100,
)
QUICK_WORK = Work(
    library={"screens": 4, "rounds": 4, "conditions": 50, "steps": 8000, "keep": 200},
    critic={"conditions": 1000, "steps": 400},
    episodes=300,
    oracle_steps=8000,
    oracle_rounds=1,
    fixed_tries=40,
)


@dataclass(frozen=True)
class Followed:
    """The plan made for each moment, in force `lag_s` after it.

    In wall-clock seconds, what making a plan anew took in the mean (`plan_seconds`), and what had to be done before the
    first moment (`prepare_seconds`).
    """

    plans: Sequence[WholePlan]
    lag_s: float
    plan_seconds: float
    prepare_seconds: float = 0.0


@lru_cache(maxsize=2)
def _simulators(scenario: Scenario) -> Simulators:
    return Simulators(graph_of(MODEL), scenario)


@lru_cache(maxsize=2)
def _costs(scenario: Scenario) -> VolumeCosts:
    return VolumeCosts(graph_of(MODEL), scenario.profiles)


@dataclass(frozen=True, eq=False)
class Hour:
    """A scenario whose links drift, of which every `every_s` seconds are looked at."""

    scenario: Scenario
    drift: Drift
    seed: int
    every_s: int
    work: Work

    @cached_property
    def simulators(self) -> Simulators:
        """Of the model on the scenario."""
        return _simulators(self.scenario)

    @cached_property
    def told(self) -> FloatArray:
        """(devices, moments): the rates as they are estimated."""
        noise = np.random.default_rng([self.seed, 12]).standard_normal(self.drift.mbps.shape)
        return self.drift.mbps * np.exp(ESTIMATE_SIGMA * noise)

    @cached_property
    def looked_at(self) -> list[int]:
        """Numbers of the moments that are looked at."""
        return [int(k) for k in self.drift.looked_at(self.every_s)]

    @cached_property
    def agent(self) -> tuple[MovingAgent, float]:
        """The policy as pre-trained before the hour, and the seconds that it took."""
        low, high = float(self.drift.mbps.min()), float(self.drift.mbps.max())
        return _pretrained(self.scenario, min(low, LIMITS_MBPS[0]), max(high, LIMITS_MBPS[1]), self.work)

    def at(self, moments: int | Sequence[int]) -> Conditions:
        """The truth at a moment, or a batch."""
        return links(self.drift.mbps.T[moments])

    def task(self, mbps: FloatArray) -> Task:
        """To plan for links of these rates."""
        graph, scenario = graph_of(MODEL), links(mbps).applied(self.scenario)
        return Task(graph, scenario, np.random.default_rng(self.seed), _costs(self.scenario))

    def latencies(self, followed: Followed) -> Iterator[tuple[float, float, float]]:
        """(moment in s, seconds, ms an image) of all that is looked at."""
        looked_at = {*self.looked_at}
        for at_s, seconds, rates, plan in self.drift.spans(followed.lag_s):
            if rates in looked_at:
                found = self.simulators.evaluate(self.at([rates]), [followed.plans[plan]])
                yield at_s, seconds, float(found[0, 0])


def links(mbps: FloatArray) -> Conditions:
    """Conditions of rates (..., devices) in which nothing else has changed."""
    return Conditions(mbps, np.ones(mbps.shape), np.zeros(mbps.shape))


@lru_cache(maxsize=2)
def _pretrained(scenario: Scenario, low: float, high: float, work: Work) -> tuple[MovingAgent, float]:
    began = time.perf_counter()
    data = load_moving_settings().model_dump()
    data["ranges"] = {"mbps": (low, high), "slowdown": (1.0, 1.0), "io_ms": (0.0, 0.0), "links_only": 1.0}
    data["library"] |= work.library
    data["critic"] |= work.critic
    task = Task(graph_of(MODEL), scenario, np.random.default_rng(0), _costs(scenario))
    return pretrain(task, MovingSettings.model_validate(data)), time.perf_counter() - began


def re_plans(drift: Drift) -> list[tuple[int, FloatArray]]:
    """When a plan is made (moment), and for what rates: those of the first window, then after each large change."""
    found = [(0, drift.mean_mbps(0.0, min(WINDOW_S, drift.end_s)))]
    for k in drift.moments:
        now_s = float(drift.starts_s[k])
        if now_s - drift.starts_s[found[-1][0]] < WINDOW_S:
            continue
        averaged = drift.mean_mbps(now_s - WINDOW_S, now_s)
        if np.max(np.abs(averaged / found[-1][1] - 1.0)) > CHANGED:
            found.append((k, averaged))
    return found


def coedge(hour: Hour) -> Followed:
    """CoEdge's programme anew at every moment."""
    with timed() as seconds:
        plans = [whole(planner("coedge").plan(hour.task(rates)), hour.scenario) for rates in hour.told.T]
    return Followed(plans, ADAPT_S, seconds[0] / len(plans))


def aofl(hour: Hour) -> Followed:
    """AOFL's partition after a large change of the average, its devices and ratios at every moment."""
    return _aofl(hour, planner("aofl"), lambda fused, start: fused.best_prefix(start)[1])


def aofl_all(hour: Hour) -> Followed:
    """The same with all devices in every volume."""
    return _aofl(hour, AoflAll(), lambda fused, start: fused.cuts(start)[-1])


def _aofl(hour: Hour, method: Planner, cuts_of: Callable[[Fused, int], IntArray]) -> Followed:
    plans: list[WholePlan] = []
    spent: list[float] = []
    for moments, averaged in _periods(hour.drift):
        with timed() as seconds:
            scheme = method.plan(hour.task(averaged)).scheme
        spent += seconds
        for k in moments:
            task = hour.task(hour.told[:, k])
            models, unit = linear_models(task), task.scenario.element_bytes
            fused = ((Fused(task.graph, part.stop, models, unit), part.start) for part in scheme.parts)
            cuts = np.stack([cuts_of(volume, start) for volume, start in fused])
            plans.append(whole(Strategy(scheme, task.scenario, cuts, 0.0), hour.scenario))
    return Followed(plans, ADAPT_S, float(np.mean(spent)))


def _periods(drift: Drift) -> Iterator[tuple[range, FloatArray]]:
    """The moments between two large changes, and the rates averaged before them."""
    made = re_plans(drift)
    for (start, averaged), stop in zip(made, [*(k for k, _ in made[1:]), len(drift.moments)], strict=True):
        yield range(start, stop), averaged


def online(hour: Hour) -> Followed:
    """Our policy, pre-trained before the hour: it decides at every moment, as a requester does.

    A controller would fine-tune it after a large change. How much that does depends on the machine (it has seconds,
    not steps), so it is left out here: what is shown is the policy's own.
    """
    agent, prepared = hour.agent
    plans: list[WholePlan] = []
    current: Decision | None = None
    with timed() as seconds:
        for rates in hour.told.T:
            current = decide(agent, rates, current)
            plans.append(agent.whole_plan(current))
    return Followed(plans, ADAPT_S, seconds[0] / len(plans), prepared)


def decide(agent: MovingAgent, mbps: FloatArray, current: Decision | None) -> Decision:
    """The agent's decision, or the one in force unless that is expected to be better by `GAIN` (`runtime/steering`)."""
    decision = agent.decide(mbps, np.ones(len(mbps)), np.zeros(len(mbps)))
    if current is None:
        return decision
    z = features(mbps[current.cast], np.ones(len(mbps)), np.zeros(len(mbps)))
    now_ms = float(agent.networks.latency_ms(z, np.array([current.plan]))[0])
    return decision if decision.latency_ms <= (1.0 - GAIN) * now_ms else current


def paper(hour: Hour) -> Followed:
    """The paper's: LC-PSS and OSDS for averaged rates, then the actor splits each image by the latencies it sees.

    So it needs no estimate. After a large change LC-PSS runs again and actor and critic are trained on.
    """
    from distredge.experiments.paper_actor import train_on

    trained, spent, plans = None, list[float](), list[WholePlan]()
    looked_at, order = {*hour.looked_at}, tuple(range(len(hour.scenario.providers)))
    for moments, averaged in _periods(hour.drift):
        episodes = hour.work.episodes // (4 if trained else 1)
        with timed() as seconds:
            trained = train_on(hour.task(averaged), episodes, trained)
        spent += seconds
        for k in moments:
            if k in looked_at or not plans:
                now = hour.simulators.under(trained.locations, order, hour.at(k))
                plans.append(WholePlan(trained.locations, order, trained.actor.rollout(now)[0]))
            else:
                plans.append(plans[-1])
    return Followed(plans, 0.0, float(np.mean(spent[1:] or spent)), spent[0])


def whole(strategy: Strategy, scenario: Scenario) -> WholePlan:
    """A strategy as a plan with providers by their places in a scenario."""
    order = tuple(scenario.provider_names.index(name) for name in strategy.scenario.provider_names)
    return WholePlan(strategy.scheme.locations, order, strategy.cuts)


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list that has, afterwards, the seconds that it took."""
    seconds: list[float] = []
    began = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - began)
