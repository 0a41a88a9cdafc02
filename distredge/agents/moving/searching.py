"""A little search after the agent: its best guesses, annealed on the simulator."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from distredge.agents.moving.library import Simulators
from distredge.agents.moving.policy import MovingAgent, WholePlan, features
from distredge.simulate.anneal import anneal
from distredge.simulate.conditions import Conditions

WARMTH = 0.003
"""Starting temperature: the guesses are good already."""

GUESSES = 8
"""Plans that the critic likes best, which are annealed; then the best of them, for as long again."""

TRIAL_STEPS = 50
"""Evaluations by which it is measured how many a time allows."""


def guesses(agent: MovingAgent, conditions: Conditions, count: int = GUESSES) -> list[WholePlan]:
    """The plans that the critic likes best under conditions (one), providers by their places in the scenario."""
    cast = agent.roles.cast(conditions.mbps, conditions.slowdown, conditions.io_ms)
    z = features(conditions.mbps[cast], conditions.slowdown[cast], conditions.io_ms[cast])
    near = agent.shortlist(z)
    ranked = near[np.argsort(agent.networks.latency_ms(z, near), kind="stable")]
    return [agent.library[i].played_by(cast) for i in ranked[:count]]


def search_from(
    simulators: Simulators, conditions: Conditions, plans: Sequence[WholePlan], steps: int, rng: np.random.Generator
) -> tuple[WholePlan, float]:
    """The best plan found from `plans` in about `steps` evaluations under conditions (one), and its latency in ms."""
    each = max(1, steps // (2 * len(plans)))
    tried = [_annealed(simulators, conditions, plan, each, rng) for plan in plans]
    best, latency = min(tried, key=lambda found: found[1])
    polished = _annealed(simulators, conditions, best, steps - each * len(plans), rng)
    return min(polished, (best, latency), key=lambda found: found[1])


def search_for(
    simulators: Simulators, conditions: Conditions, plans: Sequence[WholePlan], seconds: float, rng: np.random.Generator
) -> tuple[WholePlan, float]:
    """`search_from` in about so many seconds; what is compiled, or made once for a scheme, does not count."""
    for plan in plans:
        _annealed(simulators, conditions, plan, 1, rng)
    began = time.perf_counter()
    first = _annealed(simulators, conditions, plans[0], TRIAL_STEPS, rng)
    spent = time.perf_counter() - began
    steps = int(TRIAL_STEPS * (seconds / spent - 1.0))
    if steps < len(plans):
        return first
    return search_from(simulators, conditions, [first[0], *plans[1:]], steps, rng)


def _annealed(
    simulators: Simulators, conditions: Conditions, plan: WholePlan, steps: int, rng: np.random.Generator
) -> tuple[WholePlan, float]:
    cuts, latency = anneal(simulators.under(plan.locations, plan.order, conditions), plan.cuts, steps, rng, WARMTH)
    return plan._replace(cuts=cuts), latency
