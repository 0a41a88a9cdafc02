"""The agent for a moving network against search: conditions never seen, worlds other than told, wrong estimates.

Everything is latency over gold: the joint search of scheme, order and cuts under the true conditions, that begins
with the agent's library as well. Searches are given evaluations, not seconds, so that the same effort gives the same
rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distredge.agents.moving.adapting import Adapter, refitted, shifted
from distredge.agents.moving.library import Simulators, disturbed, sample_conditions
from distredge.agents.moving.policy import FloatArray, IntArray, MovingAgent, WholePlan, features
from distredge.agents.moving.searching import guesses, search_from
from distredge.agents.moving.settings import Noise, Ranges
from distredge.experiments.base import Row, Value
from distredge.planners.base import Task
from distredge.planners.candidates import candidate_schemes
from distredge.planners.moving import SearchUnder
from distredge.planners.search import candidate_orders
from distredge.simulate.anneal import anneal
from distredge.simulate.conditions import Conditions
from distredge.simulate.starts import starts

FEW_PROVIDERS = 8

KINDS = {"links": 1.0, "links, devices, I/O": 0.0}
"""What moves: values of `Ranges.links_only`."""

WORLDS = ("a device twice as slow", "I/O + 1 ms", "a link 30 % over-reported", "all three")
"""What the agent is not told."""

KNOWN = 8
"""Plans of the library with which gold begins."""

MEASURED_SIGMA = 0.05
"""Standard deviation of the logarithm of a measured link rate or slowdown, and of a delay in ms."""


@dataclass(frozen=True)
class MovingEffort:
    """How much is tried: conditions of a table, rounds of gold's search, worlds of a kind, draws of an estimate.

    `gold_screen` tells whether gold also begins from nothing. `noise` is of a latency's logarithm. After each of
    `after` images the adapted agent is judged on `judged` conditions.
    """

    conditions: int = 30
    gold_rounds: int = 40
    gold_screen: bool = True
    worlds: int = 4
    judged: int = 6
    after: tuple[int, ...] = (0, 5, 20, 50)
    noise: float = 0.01
    curiosity: float = 1.0
    draws: int = 10
    search_ms: tuple[int, ...] = (1, 10)
    seed: int = 0


class Ground:
    """An agent on the simulator."""

    def __init__(self, task: Task, agent: MovingAgent, effort: MovingEffort) -> None:
        self.task = task
        self.agent = agent
        self.effort = effort
        self.simulators = Simulators(task.graph, task.scenario)
        self.schemes = candidate_schemes(task)

    @property
    def providers(self) -> int:
        """Number of providers."""
        return len(self.task.scenario.providers)

    def rng(self, *numbers: int) -> np.random.Generator:
        """For one case of a table."""
        return np.random.default_rng([self.effort.seed, *numbers])

    def steps(self, milliseconds: int) -> int:
        """Evaluations that a time allows on one core, about: 600 in a ms, with many providers 400."""
        return milliseconds * (600 if self.providers <= FEW_PROVIDERS else 400)

    def sample(self, links_only: float, count: int, rng: np.random.Generator) -> Conditions:
        """Conditions in the range of the agent."""
        about = self.agent.header
        ranges = Ranges(mbps=about.mbps, slowdown=about.slowdown, io_ms=about.io_ms, links_only=links_only)
        return sample_conditions(ranges, self.providers, count, rng)

    def latency(self, conditions: Conditions, plans: Sequence[WholePlan]) -> FloatArray:
        """(plans,) in ms under conditions (one)."""
        found: FloatArray = self.simulators.evaluate(conditions[None], plans)[0]
        return found

    def library(self, conditions: Conditions) -> list[WholePlan]:
        """The agent's plans, cast for conditions (one)."""
        cast = self.agent.roles.cast(conditions.mbps, conditions.slowdown, conditions.io_ms)
        return [plan.played_by(cast) for plan in self.agent.library]

    def decide(self, told: Conditions, agent: MovingAgent | Adapter | None = None) -> WholePlan:
        """The plan of the agent, or of another, or of one that has adapted, where it is told conditions (one)."""
        decision = (agent or self.agent).decide(told.mbps, told.slowdown, told.io_ms)
        return self.agent_of(agent).whole_plan(decision)

    def agent_of(self, agent: MovingAgent | Adapter | None) -> MovingAgent:
        """The agent itself."""
        return agent.agent if isinstance(agent, Adapter) else agent or self.agent

    def gold_ms(self, true: Conditions, number: int, also: float = np.inf) -> float:
        """The least latency that the strongest search finds under conditions (one), or that is known `also`."""
        search = SearchUnder(replace(self.task, rng=self.rng(number)), self.simulators, true)
        if self.effort.gold_screen:
            search.screen(self.schemes, candidate_orders(search))
        library = self.library(true)
        search.know([library[i] for i in np.argsort(self.latency(true, library), kind="stable")[:KNOWN]])
        search.vary(self.effort.gold_rounds)
        return min(search.pool[0].score, also)


def unseen(ground: Ground) -> Iterator[Row]:
    """Conditions that the agent was not trained on: one row for each, latencies over gold by method."""
    for kind, (what, links_only) in enumerate(KINDS.items()):
        for number in range(ground.effort.conditions):
            now = ground.sample(links_only, 1, ground.rng(1, kind, number))[0]
            found = dict(_methods(ground, now, ground.rng(2, kind, number)))
            gold = ground.gold_ms(now, number, min(found.values()))
            yield {"moves": what, "number": number, "gold_ms": gold, **{m: ms / gold for m, ms in found.items()}}


def _methods(ground: Ground, now: Conditions, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Latencies of all methods under conditions (one)."""
    agent = ground.agent
    library = ground.library(now)
    simulated = ground.latency(now, library)
    for count in (1, 16, 48, len(library)):
        header = agent.header.model_copy(update={"candidates": count})
        decision = replace(agent, header=header).decide(now.mbps, now.slowdown, now.io_ms)
        yield f"actor and critic, k = {count}" if count < len(library) else "critic alone", simulated[decision.plan]
    yield "library through the simulator", float(simulated.min())
    yield "nearest known conditions", simulated[_nearest(ground, now)]
    best, cold = guesses(agent, now), _cold(ground, now)
    for ms in ground.effort.search_ms:
        steps = ground.steps(ms)
        yield f"agent + {ms} ms", search_from(ground.simulators, now, best, steps, rng)[1]
        simulator = ground.simulators.under(cold.locations, cold.order, now)
        yield f"cold {ms} ms", anneal(simulator, cold.cuts, steps, rng)[1]


def _cold(ground: Ground, now: Conditions) -> WholePlan:
    """Where annealing without an agent begins: the scheme of most library plans, the best proportional cuts."""
    schemes = [plan.locations for plan in ground.agent.library]
    usual = max(sorted(set(schemes)), key=schemes.count)
    plan = WholePlan(usual, tuple(range(ground.providers)), np.empty(0, np.int64))
    simulator = ground.simulators.under(plan.locations, plan.order, now)
    choices = starts(simulator)
    return plan._replace(cuts=choices[int(np.argmin(simulator.evaluate(choices)))])


NEIGHBOURS = 400
"""Known conditions among which the nearest is looked for."""


def _nearest(ground: Ground, now: Conditions) -> int:
    """Which library plan is best under the nearest of some known conditions, by logarithms in the roles' order."""
    known = ground.sample(0.5, NEIGHBOURS, ground.rng(3))
    roles, agent = ground.agent.roles, ground.agent

    def place(c: Conditions) -> tuple[FloatArray, IntArray]:
        cast = roles.cast(c.mbps, c.slowdown, c.io_ms)
        z = features(*(np.take_along_axis(a, cast, -1) for a in (c.mbps, c.slowdown, c.io_ms)))
        return np.log(z + (np.arange(z.shape[-1]) >= 2 * ground.providers)), cast

    there, casts = place(known)
    at = int(np.argmin(np.square(there - place(now)[0]).sum(axis=1)))
    return int(np.argmin(ground.latency(known[at], [plan.played_by(casts[at]) for plan in agent.library])))


def wrong_world(ground: Ground) -> Iterator[Row]:
    """Worlds other than told, links moving from image to image; one row for each world, image count and condition.

    `end to end` adapts by the images' latencies alone, with its curiosity; `unadapted` does not; both without a
    simulator. `refitted + 10 ms` searches on the simulator, refitted by what devices and links took; `as told + 10
    ms` as it was.
    """
    effort = ground.effort
    for kind, world in enumerate(WORLDS):
        for number in range(effort.worlds):
            rng = ground.rng(4, kind, number)
            images = ground.sample(1.0, max(effort.after), rng)
            judged = ground.sample(1.0, effort.judged, rng)
            change = _change(ground, judged[0], kind, rng)
            golds = [ground.gold_ms(change(judged[k]), k) for k in range(effort.judged)]
            for count, adapter, shifts in _lived(ground, images, change, rng):
                for k, gold in enumerate(golds):
                    told, true = judged[k], change(judged[k])
                    refit = Conditions(*shifted(np.stack([told.mbps, told.slowdown, told.io_ms]), shifts))
                    searched = {
                        f"{name} + 10 ms": _searched(ground, c, rng)
                        for name, c in (("as told", told), ("refitted", refit))
                    }
                    plans = {"unadapted": ground.decide(told), "end to end": ground.decide(told, adapter), **searched}
                    ms = ground.latency(true, list(plans.values()))
                    over = {name: float(x) / gold for name, x in zip(plans, ms, strict=True)}
                    yield {"world": world, "number": number, "images": count, "condition": k, "gold_ms": gold, **over}


def _searched(ground: Ground, now: Conditions, rng: np.random.Generator) -> WholePlan:
    """The agent's plan after 10 ms of search under conditions (one)."""
    return search_from(ground.simulators, now, guesses(ground.agent, now), ground.steps(10), rng)[0]


def _change(
    ground: Ground, told: Conditions, kind: int, rng: np.random.Generator
) -> Callable[[Conditions], Conditions]:
    """What a world makes of what is told; the devices that are off have a part in the agent's own plan."""
    plan = ground.decide(told)
    working = [plan.order[i] for i in np.flatnonzero(np.diff(plan.cuts, axis=1).any(axis=0))]
    slow, over = rng.choice(working, 2, replace=len(working) < 2)
    shifts = np.zeros((3, ground.providers))
    if kind in (0, 3):
        shifts[1, slow] = np.log(2.0)
    if kind in (1, 3):
        shifts[2] = 1.0
    if kind in (2, 3):
        shifts[0, over] = -np.log(1.3)

    def change(told: Conditions) -> Conditions:
        return Conditions(*shifted(np.stack([told.mbps, told.slowdown, told.io_ms]), shifts))

    return change


def _lived(
    ground: Ground, images: Conditions, change: Callable[[Conditions], Conditions], rng: np.random.Generator
) -> Iterator[tuple[int, Adapter, FloatArray]]:
    """After so many images, the agent as it has adapted by then, and the shifts that measuring each part gives."""
    effort, adapter = ground.effort, Adapter(ground.agent)
    told: list[FloatArray] = []
    measured: list[FloatArray] = []
    for n in range(max(effort.after) + 1):
        if n in effort.after:
            shifts = refitted(np.stack(told), np.stack(measured)) if told else np.zeros((3, ground.providers))
            yield n, adapter, shifts
        if n == max(effort.after):
            return
        now, true = images[n], change(images[n])
        decision = adapter.decide(now.mbps, now.slowdown, now.io_ms, effort.curiosity)
        plan = ground.agent.whole_plan(decision)
        took = ground.latency(true, [plan])[0] * np.exp(effort.noise * rng.standard_normal())
        adapter.learn(now.mbps, now.slowdown, now.io_ms, decision, float(took))
        told.append(np.stack([now.mbps, now.slowdown, now.io_ms]))
        measured.append(_measured(true, plan, rng))


def _measured(true: Conditions, plan: WholePlan, rng: np.random.Generator) -> FloatArray:
    """(3, P): what the providers that have a part measure, with noise; NaN of the others."""
    noise = MEASURED_SIGMA * rng.standard_normal((3, len(plan.order)))
    found = np.stack([true.mbps * np.exp(noise[0]), true.slowdown * np.exp(noise[1]), true.io_ms + noise[2]])
    idle = [plan.order[i] for i in np.flatnonzero(~np.diff(plan.cuts, axis=1).any(axis=0))]
    found[:, idle] = np.nan
    return found


def robust(ground: Ground, sigma: float, others: Mapping[str, MovingAgent]) -> Iterator[Row]:
    """Worlds whose rates differ from the estimate (log-normal, `sigma`; slowdowns by half of it).

    One row for each estimate and draw of the world: latencies over gold of the agent, of `others` (such as one
    trained under this noise), and of planning on the estimate as it is, by the agent's plan and 10 ms of search.
    """
    noise = Noise(estimate_sigma=sigma, compute_sigma=sigma / 2.0, risk=None)
    for number in range(ground.effort.conditions):
        told = ground.sample(1.0, 1, ground.rng(5, number))[0]
        rng = ground.rng(6, number)
        plans = {"agent": ground.decide(told)}
        for name, other in others.items():
            plans[name] = ground.decide(told, other)
        plans["search on the estimate"] = _searched(ground, told, rng)
        for draw in range(ground.effort.draws):
            true = disturbed(told[None], noise, rng)[0]
            gold = ground.gold_ms(true, draw)
            ms = ground.latency(true, list(plans.values()))
            over = {name: float(x) / gold for name, x in zip(plans, ms, strict=True)}
            yield {"sigma": sigma, "estimate": number, "draw": draw, "gold_ms": gold, **over}


def summary(rows: Sequence[Row], by: Sequence[str], methods: Sequence[str]) -> list[Row]:
    """Median, mean and 90th percentile of each method over the rows that agree in `by`."""
    groups: dict[tuple[Value, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    found: list[Row] = []
    for key, members in groups.items():
        for method in methods:
            over = np.array([row[method] for row in members])
            figures = {"median": np.median(over), "mean": over.mean(), "p90": np.quantile(over, 0.9)}
            named = {name: float(value) for name, value in figures.items()}
            found.append({**dict(zip(by, key, strict=True)), "method": method, "cases": len(members), **named})
    return found
