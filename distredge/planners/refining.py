"""Fine-tunes an agent for a moving network where it is used: for the conditions that it has got into.

New plans, found for these conditions, join its library; the critic gets their forms from the simulator's slopes, as in
the pre-training, and a plan's place in the embedding is between those that are good and bad where it is. Then rounds:
the actor's last layer is fitted anew (ridge regression towards what it was) to where the best plans stand, half on
conditions about these, half on all that the agent is for, so that it forgets nothing; and where the critic is wrong
about the plan that is decided, it gets the simulator's tangent. As a latency is nearly a maximum of linear forms, a
tangent makes the critic right at one place and hardly wrong at others. What comes of a round is kept only if it decides
no worse now, and elsewhere hardly. A second's work at most, with NumPy alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from distredge.agents.moving.library import Simulators, cast_conditions, sample_conditions
from distredge.agents.moving.policy import (
    Float32Array,
    FloatArray,
    IntArray,
    MovingAgent,
    Networks,
    WholePlan,
    actor_inputs,
    features,
)
from distredge.agents.moving.sampling import first_pieces, slopes
from distredge.agents.moving.settings import Ranges
from distredge.simulate.conditions import Conditions

BUDGET_S = 1.0

SAMPLES = 400
"""Conditions that it learns from, half of them about the present ones; fewer if the simulator is slow."""

LEAST_SAMPLES = 16

SAMPLING_SHARE = 0.4
"""Of the time, that the simulator may take for them."""

SLOPES_AT = 32
"""Of the conditions, how many the simulator's slopes of new plans are taken at."""

SPREADS = (0.1, 0.3)
"""Standard deviations of the logarithms of rates about the present ones, in turn."""

ROUNDS = 8

WRONG = 0.002
"""The critic is right if it errs by less than this share."""

FORGETS = 0.002
"""By so much, in the mean of the logarithm, may latencies grow near by and elsewhere."""

NEAREST = 3
"""Plans between which a new one is put."""

CAP = 1.5
"""What a plan takes over the best, as a logarithm, counts up to this."""

RELEVANT = 0.15
"""A plan slower than the best by this share weighs 1/e times as much when its forms are chosen."""

HOLD = 10.0
"""Weight of what the actor's last layer was, in conditions."""

NOW = 20.0
"""Weight of the present conditions among the others."""

MOST = 600
"""Plans in a library; those that are never best go first, then the oldest."""


@dataclass(frozen=True)
class Refined:
    """The agent after it; the `curve` is of what it decides now: (seconds since the beginning, latency in ms)."""

    agent: MovingAgent
    curve: tuple[tuple[float, float], ...]


class Lessons(NamedTuple):
    """n conditions in the order of the roles: the present ones, some `near` ones in all, then from everywhere.

    `z` (n, 3 P + 1) are their features, `latency_ms` (n, plans) the simulator's, of the agent's library.
    """

    told: Conditions
    near: int
    z: Float32Array
    latency_ms: FloatArray


class Mark(NamedTuple):
    """What an agent decides: latency in ms now, means of its logarithm near by and elsewhere."""

    now_ms: float
    near: float
    elsewhere: float

    def beats(self, other: Mark, first: Mark) -> bool:
        """Whether the agent is better where it is than another one, and nowhere worse than at `first`."""
        kept = max(self.near - first.near, self.elsewhere - first.elsewhere) <= FORGETS
        return kept and self.now_ms <= first.now_ms and self.here < other.here

    @property
    def here(self) -> float:
        """Now and near by count the same."""
        return float(np.log(self.now_ms)) + self.near


def refine(
    agent: MovingAgent,
    simulators: Simulators,
    now: Conditions,
    plans: Sequence[WholePlan],
    rng: np.random.Generator,
    budget_s: float = BUDGET_S,
) -> Refined:
    """An agent that decides at least as well under the conditions `now` (one, in the scenario's order).

    `plans` have providers by their places in the scenario. The agent stays as it was if nothing is gained. The time is
    kept to but for a round; how much is done in it depends on the machine.
    """
    began = time.perf_counter()
    known = {plan.key for plan in agent.library}
    new = [plan for plan in _in_roles(agent, now, plans) if plan.key not in known]
    lessons = _lessons(replace(agent, library=(*agent.library, *new)), simulators, now, rng, budget_s)
    first = _mark(agent, lessons)
    best, mark, curve = agent, first, [(0.0, first.now_ms)]
    changed, lessons = _joined(agent, simulators, lessons, new)
    for _ in range(ROUNDS):
        for tried in (changed, _aimed(changed, lessons)):
            if (found := _mark(tried, lessons)).beats(mark, first):
                best, mark = tried, found
        curve.append((time.perf_counter() - began, mark.now_ms))
        corrected = _corrected(tried, simulators, lessons)
        if corrected is tried or curve[-1][0] > budget_s:
            break
        changed = corrected
    return Refined(best, tuple(curve))


def decided_ms(agent: MovingAgent, simulators: Simulators, now: Conditions) -> float:
    """What the simulator says of what an agent decides under conditions (one), in ms."""
    whole = agent.whole_plan(agent.decide(now.mbps, now.slowdown, now.io_ms))
    return float(simulators.evaluate(now[None], [whole])[0, 0])


def _in_roles(agent: MovingAgent, now: Conditions, plans: Sequence[WholePlan]) -> list[WholePlan]:
    """Plans for roles instead of providers; distinct."""
    role_of = np.argsort(agent.roles.cast(now.mbps, now.slowdown, now.io_ms))
    found = [plan._replace(order=tuple(int(role_of[i]) for i in plan.order)) for plan in plans]
    return list({plan.key: plan for plan in found}.values())


# What it learns from.


def _lessons(
    agent: MovingAgent, simulators: Simulators, now: Conditions, rng: np.random.Generator, budget_s: float
) -> Lessons:
    """As many as there is time for."""
    present = cast_conditions(agent.roles, now[None])
    simulators.evaluate(present, agent.library)  # makes the tables
    began = time.perf_counter()
    simulators.evaluate(present, agent.library)
    affordable = int(SAMPLING_SHARE * budget_s / (time.perf_counter() - began))
    near = max(LEAST_SAMPLES, min(SAMPLES, affordable)) // 2
    told = cast_conditions(agent.roles, _sample(agent, now, near, rng))
    return Lessons(told, near, features(told.mbps, told.slowdown, told.io_ms), simulators.evaluate(told, agent.library))


def _sample(agent: MovingAgent, now: Conditions, each: int, rng: np.random.Generator) -> Conditions:
    """Conditions about the present ones, which come first, then as many from all that the agent is for."""
    header, shape = agent.header, (each, len(now.mbps))
    off = np.resize(SPREADS, (each, 1)) * rng.standard_normal(shape)
    off[0] = 0.0
    ranges = Ranges(mbps=header.mbps, slowdown=header.slowdown, io_ms=header.io_ms, links_only=0.5)
    far = sample_conditions(ranges, shape[1], each, rng)
    return Conditions(
        np.concatenate([now.mbps * np.exp(off), far.mbps]),
        np.concatenate([np.broadcast_to(now.slowdown, shape), far.slowdown]),
        np.concatenate([np.broadcast_to(now.io_ms, shape), far.io_ms]),
    )


def _mark(agent: MovingAgent, lessons: Lessons) -> Mark:
    decided = _decided(agent, lessons.told)
    ms = lessons.latency_ms[np.arange(len(decided)), decided]
    return Mark(float(ms[0]), float(np.log(ms[: lessons.near]).mean()), float(np.log(ms[lessons.near :]).mean()))


def _decided(agent: MovingAgent, told: Conditions) -> IntArray:
    """(n,): numbers of the plans."""
    return np.array([agent.decide(*condition).plan for condition in zip(told.mbps, told.slowdown, told.io_ms)])  # noqa: B905


# New plans.


def _joined(
    agent: MovingAgent, simulators: Simulators, lessons: Lessons, new: list[WholePlan]
) -> tuple[MovingAgent, Lessons]:
    """The agent with new plans in its library, its critic and its embedding; and the lessons for what stays of it."""
    if not new:
        return agent, lessons
    z, log_latency, count = lessons.z, np.log(lessons.latency_ms), len(agent.library)
    behind = log_latency - log_latency.min(axis=1, keepdims=True)
    at = np.unique(np.linspace(0, len(z) - 1, SLOPES_AT).astype(int))
    forms = slopes(simulators, new, lessons.told[at], lessons.latency_ms[at, count:])
    relevance = np.exp(-behind[:, count:] / RELEVANT).astype(np.float32)
    pieces = agent.networks.critic.shape[1]
    critic = first_pieces(forms, z, log_latency[:, count:], relevance, pieces)
    places = _places(np.minimum(behind, CAP), agent.networks.embedding)
    networks = Networks(
        np.concatenate([agent.networks.critic, _stored(critic)]),
        agent.networks.actor,
        np.concatenate([agent.networks.embedding, places]),
    )
    return _bounded(replace(agent, library=(*agent.library, *new), networks=networks), lessons)


def _stored(critic: Float32Array) -> Float32Array:
    """Forms as a file keeps them."""
    return critic.astype(np.float16).astype(np.float32)


def _places(regret: FloatArray, embedding: Float32Array) -> Float32Array:
    """(new plans, D): between the plans whose regrets (n, plans) are most like those of the last, new ones."""
    known, new = regret[:, : len(embedding), None], regret[:, None, len(embedding) :]
    far = np.square(known - new).sum(axis=0)
    near = np.argsort(far, axis=0, kind="stable")[:NEAREST]
    weights = 1.0 / (np.take_along_axis(far, near, axis=0) + 1e-3)
    weights /= weights.sum(axis=0)
    places: Float32Array = np.einsum("kn,knd->nd", weights, embedding[near]).astype(np.float32)
    return places


def _bounded(agent: MovingAgent, lessons: Lessons) -> tuple[MovingAgent, Lessons]:
    """No more than `MOST` plans."""
    excess = len(agent.library) - MOST
    if excess <= 0:
        return agent, lessons
    wins = np.bincount(np.argmin(lessons.latency_ms, axis=1), minlength=len(agent.library))
    stay: IntArray = np.sort(np.lexsort((np.arange(len(wins)), wins > 0))[excess:])
    networks = Networks(agent.networks.critic[stay], agent.networks.actor, agent.networks.embedding[stay])
    fewer = replace(agent, library=tuple(agent.library[i] for i in stay), networks=networks)
    return fewer, lessons._replace(latency_ms=lessons.latency_ms[:, stay])


# Rounds.


def _aimed(agent: MovingAgent, lessons: Lessons) -> MovingAgent:
    """The agent with its actor's last layer fitted to where the best plans stand."""
    networks = agent.networks
    wanted = networks.embedding[np.argmin(lessons.latency_ms, axis=1)].astype(np.float64)
    x = actor_inputs(lessons.z).astype(np.float64)
    for weights, biases in networks.actor[:-1]:
        x = np.maximum(x @ weights + biases, 0.0)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    matters = np.ones((len(x), 1))
    matters[0] = NOW
    weights, biases = networks.actor[-1]
    was = np.concatenate([weights, biases[None]]).astype(np.float64)
    gap = x.T @ (matters * (wanted - x @ was))
    fitted = was + np.linalg.solve(x.T @ (matters * x) + HOLD * np.eye(x.shape[1]), gap)
    last = fitted[:-1].astype(np.float32), fitted[-1].astype(np.float32)
    return replace(agent, networks=replace(networks, actor=(*networks.actor[:-1], last)))


def _corrected(agent: MovingAgent, simulators: Simulators, lessons: Lessons) -> MovingAgent:
    """The agent with its critic right about what it decides near the present conditions, and about what is best now.

    The same agent if it was.
    """
    critic = agent.networks.critic.copy()
    decided = _decided(agent, lessons.told[: lessons.near])
    cases = [(0, int(np.argmin(lessons.latency_ms[0]))), *enumerate(decided.tolist())]
    wrong = [_correct(critic, agent.library, simulators, lessons, n, plan) for n, plan in dict.fromkeys(cases)]
    return replace(agent, networks=replace(agent.networks, critic=critic)) if any(wrong) else agent


def _correct(
    critic: Float32Array,
    library: Sequence[WholePlan],
    simulators: Simulators,
    lessons: Lessons,
    n: int,
    plan: int,
) -> bool:
    """Make a critic right about a plan under the n-th conditions; False if it was.

    The tangent there takes the place of the forms that are above the truth or, if all are below, of that which matters
    least.
    """
    true_ms, values = lessons.latency_ms[n, plan], critic[plan] @ lessons.z.T
    if abs(values[:, n].max() / true_ms - 1.0) < WRONG:
        return False
    tangent = slopes(simulators, [library[plan]], lessons.told[n : n + 1], np.array([[true_ms]]))[0, 0]
    above = np.flatnonzero(values[:, n] > true_ms)
    matters = np.bincount(np.argmax(values, axis=0), minlength=len(values))
    critic[plan, above if len(above) else int(np.argmin(matters))] = _stored(tangent)
    return True
