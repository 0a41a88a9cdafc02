"""What followers of drifting links are measured against: an oracle, and the best plan that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distredge.agents.moving.policy import WholePlan
from distredge.agents.moving.searching import search_from
from distredge.experiments.followers import Followed, Hour, re_plans, timed, whole
from distredge.planners import planner
from distredge.planners.moving import SearchUnder
from distredge.profiles.profile import FloatArray
from distredge.simulate.conditions import Conditions
from distredge.simulate.kernel import IntArray

BEST = 8
"""Plans from which a search begins."""

CASTS = 24
"""Ways to give providers their roles, of those that occur, in which a plan may be the best fixed one."""


def oracle(hour: Hour) -> Followed:
    """A search under the true rates of every moment, in two passes; the second knows what the first found anywhere.

    Both begin with the best for the moment: of the policy's library, then of the plans found as well. The first moves
    cuts only, the second partition and order too.
    """
    agent = hour.agent[0]
    rng, known = np.random.default_rng([hour.seed, 13]), list(agent.library)
    best: dict[int, WholePlan] = {}
    with timed() as seconds:
        for search in (_cuts_searched, _all_searched):
            found = []
            for k in hour.looked_at:
                now = hour.at(k)
                cast = agent.roles.cast(now.mbps, now.slowdown, now.io_ms)
                plans = [plan.played_by(cast) for plan in known]
                ranked = np.argsort(hour.simulators.evaluate(now[None], plans)[0], kind="stable")[:BEST]
                best[k] = search(hour, now, [plans[i] for i in ranked], rng)
                found.append(best[k].played_by(np.argsort(cast)))
            known += list({plan.key: plan for plan in found}.values())
    plans = [best[max(j for j in hour.looked_at if j <= k)] for k in hour.drift.moments]
    return Followed(plans, 0.0, seconds[0] / len(hour.looked_at))


def _cuts_searched(hour: Hour, now: Conditions, plans: list[WholePlan], rng: np.random.Generator) -> WholePlan:
    return search_from(hour.simulators, now, plans, hour.work.oracle_steps, rng)[0]


def _all_searched(hour: Hour, now: Conditions, plans: list[WholePlan], rng: np.random.Generator) -> WholePlan:
    search = SearchUnder(replace(hour.task(now.mbps), scenario=hour.scenario, rng=rng), hour.simulators, now)
    search.know(plans)
    search.vary(hour.work.oracle_rounds)
    return search.found()[0]


def best_fixed(hour: Hour) -> Followed:
    """The one plan that is best over all moments looked at, in hindsight: of many, then its cuts moved about."""
    agent = hour.agent[0]
    now = hour.at(hour.looked_at)
    rng = np.random.default_rng([hour.seed, 14])
    casts, count = np.unique(agent.roles.cast(now.mbps, now.slowdown, now.io_ms), axis=0, return_counts=True)
    casts = casts[np.argsort(-count, kind="stable")[:CASTS]]
    with timed() as seconds:
        plans = [*held(hour), *(plan.played_by(cast) for plan in agent.library for cast in casts)]
        mean_ms = _mean_ms(hour, plans)
        ranked = np.argsort(mean_ms, kind="stable")[:BEST]
        moved = [_moved(hour, plans[i], float(mean_ms[i]), rng) for i in ranked]
    return Followed([min(moved, key=lambda m: m[1])[0]] * len(hour.drift.moments), 0.0, seconds[0])


def held(hour: Hour) -> list[WholePlan]:
    """Plans that one would hold for want of a better idea: made for the mean of the first window."""
    averaged = re_plans(hour.drift)[0][1]
    agent, ones = hour.agent[0], np.ones(len(averaged))
    made = [whole(planner(name).plan(hour.task(averaged)), hour.scenario) for name in ("coedge", "aofl", "offload")]
    return [*made, agent.whole_plan(agent.decide(averaged, ones, 0.0 * ones))]


def _mean_ms(hour: Hour, plans: Sequence[WholePlan]) -> FloatArray:
    """(plans,): over the moments looked at, as long as each lasts."""
    seconds = np.diff(np.append(hour.drift.starts_s, hour.drift.end_s))[hour.looked_at]
    found: FloatArray = seconds @ hour.simulators.evaluate(hour.at(hour.looked_at), plans) / seconds.sum()
    return found


def _moved(hour: Hour, plan: WholePlan, mean_ms: float, rng: np.random.Generator) -> tuple[WholePlan, float]:
    """A plan whose cuts are moved at random as long as that helps, and its mean latency; steps get smaller."""
    for n in range(hour.work.fixed_tries):
        reach = 0.3 * (1.0 - n / hour.work.fixed_tries) ** 2
        tried = [plan._replace(cuts=_shifted(plan.cuts, reach, rng)) for _ in range(BEST)]
        found = _mean_ms(hour, tried)
        at = int(np.argmin(found))
        if found[at] < mean_ms:
            plan, mean_ms = tried[at], float(found[at])
    return plan, mean_ms


def _shifted(cuts: IntArray, reach: float, rng: np.random.Generator) -> IntArray:
    """Cuts with one of them moved, in some volumes on end, by a part of the height; at least by a row."""
    moved = cuts.copy()
    first, last = np.sort(rng.integers(len(cuts), size=2))
    part, up = reach * rng.random(), rng.random() < 0.5
    rows = np.maximum(1, np.rint(part * cuts[first : last + 1, -1])).astype(np.int64)
    moved[first : last + 1, rng.integers(1, cuts.shape[1] - 1)] += rows if up else -rows
    ordered: IntArray = np.sort(np.clip(moved, 0, cuts[:, -1:]), axis=1)
    return ordered
