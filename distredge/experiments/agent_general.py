"""The any-cluster curve: how far the general agent is from the strongest search on clusters and models never seen.

Gold is restarted annealing for the same partition scheme and the same order of the providers. Searches are given
evaluations, not seconds, so that the same effort gives the same rows: about a thousand take a millisecond on one core
(docs/agent-general.md says what was measured).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distredge.agents.general.clusters import Grounds
from distredge.agents.general.judging import FEW, MANY, Case, cases, gold
from distredge.agents.general.policy import GeneralPolicy
from distredge.experiments.base import Row
from distredge.simulate.anneal import START_TEMPERATURE, anneal
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

EVALUATIONS_A_MS = 1000

WARM = 0.005
"""Starting temperature of the search from the agent's plan, over its latency: higher ones lose the plan."""

GROUPS = (FEW, (9, 11), MANY, (17, 32))
"""Numbers of providers, from to; trained on are 2 to 16."""

FIRST_CASE = 1000
"""Number of the first case: those that a training is judged by come before."""


@dataclass(frozen=True)
class CurveEffort:
    """How many clusters of each group, how strong gold is, and for how long (ms) the searches go on."""

    clusters: int = 40
    gold_runs: int = 18
    gold_steps: int = 100_000
    search_ms: tuple[int, ...] = (1, 10, 100, 1000)
    ordered: float = 1.0


def curve_cases(models: Sequence[str], effort: CurveEffort) -> Iterator[Case]:
    """The clusters of all groups, a thousand numbers apart."""
    for n, group in enumerate(GROUPS):
        yield from cases(tuple(models), group, effort.clusters, FIRST_CASE * (n + 1))


def run(case: Case, policy: GeneralPolicy, grounds: Grounds, effort: CurveEffort) -> Row:
    """One cluster: latencies over gold of the best proportional plan, of the agent's, and of searches from either.

    `cold N ms` begins with the best proportional plan, `warm N ms` with the agent's, `mixed N ms` spends half on each.
    """
    simulator = case.simulator(grounds, effort.ordered)

    def searched(begin: IntArray, steps: int, warmth: float) -> float:
        return anneal(simulator, begin, steps, np.random.default_rng(case.number), warmth)[1]

    gold_cuts, gold_ms = gold(simulator, effort.gold_runs, effort.gold_steps, np.random.default_rng(case.number))
    cold, warm = _best(simulator, starts(simulator)), _best(simulator, policy.improve(simulator))
    found = {"proportional": _ms(simulator, cold), "agent": _ms(simulator, warm)}
    for ms in effort.search_ms:
        steps = ms * EVALUATIONS_A_MS
        found[f"cold {ms} ms"] = searched(cold, steps, START_TEMPERATURE)
        found[f"warm {ms} ms"] = searched(warm, steps, WARM)
        halves = searched(cold, steps // 2, START_TEMPERATURE), searched(warm, steps // 2, WARM)
        found[f"mixed {ms} ms"] = min(halves)
    least = min(gold_ms, *found.values())
    return {
        "case": case.number,
        "model": case.model,
        "providers": case.providers,
        "volumes": len(simulator.heights),
        "used": int(np.sum(np.diff(gold_cuts, axis=1).sum(axis=0) > 0)),
        "gold_ms": least,
        **{name: latency_ms / least for name, latency_ms in found.items()},
    }


def summary(rows: Sequence[Row], what: Sequence[str]) -> list[Row]:
    """Median and ninth decile of some columns by number of providers; `hard`: where proportional plans are 5 % off."""
    found: list[Row] = []
    for low, high in GROUPS:
        for hard in (False, True):
            mine = [r for r in rows if low <= _number(r["providers"]) <= high]
            mine = [r for r in mine if not hard or _number(r["proportional"]) > 1.05]
            if not mine:
                continue
            line: Row = {"providers": f"{low}-{high}", "hard": int(hard), "clusters": len(mine)}
            for name in what:
                ratios = [_number(r[name]) for r in mine]
                line |= {f"{name} median": float(np.median(ratios)), f"{name} p90": float(np.quantile(ratios, 0.9))}
            found.append(line)
    return found


def _best(simulator: Simulator, plans: IntArray) -> IntArray:
    best: IntArray = plans[int(np.argmin(simulator.evaluate(plans)))]
    return best


def _ms(simulator: Simulator, cuts: IntArray) -> float:
    return float(simulator.evaluate(cuts[None])[0])


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
