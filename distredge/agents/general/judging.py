"""Clusters and models that the general agent was not trained on, and the strongest search that it is judged against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distredge.agents.general.clusters import Grounds
from distredge.agents.general.policy import GeneralPolicy
from distredge.agents.general.settings import Settings
from distredge.simulate.anneal import anneal
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

FEW, MANY = (2, 8), (12, 16)
"""Numbers of providers, from to, for which figures are given."""

SHORT_GOLD = (6, 20_000)
"""Runs and evaluations of each in the gold that trainings are judged by."""

HELD_OUT_SEED = 9
"""Begins the seeds of these cases; training uses the user's seed in another place, so that none is trained on."""


@dataclass(frozen=True)
class Case:
    """A random cluster of some providers for a model under a random scheme, by number."""

    number: int
    model: str
    providers: int

    def simulator(self, grounds: Grounds, ordered: float = 1.0) -> Simulator:
        """Its simulator, the strongest in the middle, or (`ordered` 0) in the order of drawing."""
        rng = np.random.default_rng([HELD_OUT_SEED, self.number])
        return grounds.of(self.model, rng).draw(self.providers, rng, ordered)


def cases(models: tuple[str, ...], between: tuple[int, int], count: int, first: int = 0) -> Iterator[Case]:
    """`count` cases, models and numbers of providers in turn, numbered from `first` on."""
    low, high = between
    for n in range(count):
        yield Case(first + n, models[n % len(models)], low + n % (high - low + 1))


def gold(simulator: Simulator, runs: int, steps: int, rng: np.random.Generator) -> tuple[IntArray, float]:
    """The best cuts of restarted annealing, and their latency in ms: the scheme and the order stay.

    Two thirds of the runs begin, hot and hotter, with the best four proportional plans in turn; the others go on from
    the best so far, cooler each time.
    """
    first = starts(simulator)
    first = first[np.argsort(simulator.evaluate(first), kind="stable")[:4]]
    cold = -(-2 * runs // 3)
    found = [
        anneal(simulator, first[n % len(first)], steps, rng, 0.1 if n // len(first) % 2 else 0.03) for n in range(cold)
    ]
    for n in range(runs - cold):
        found.append(anneal(simulator, min(found, key=lambda f: f[1])[0], steps, rng, 0.02 / (1 + n)))
    return min(found, key=lambda f: f[1])


class Judge:
    """Judges policies on cases for the models held out, half of them with few providers, half with many."""

    def __init__(self, settings: Settings, grounds: Grounds) -> None:
        half = -(-settings.judge_cases // 2)
        self._cases = [
            *cases(settings.held_out, FEW, half), *cases(settings.held_out, MANY, settings.judge_cases - half, half),
        ]  # fmt: skip
        self._grounds = grounds
        self._known: list[tuple[Case, Simulator, float]] = []

    def figures(self, policy: GeneralPolicy) -> dict[str, float]:
        """Latency of the best of the policy's plans over that of a short gold: median and ninth decile."""
        if not self._known:
            for case in self._cases:
                simulator, rng = case.simulator(self._grounds), np.random.default_rng(case.number)
                self._known.append((case, simulator, gold(simulator, *SHORT_GOLD, rng)[1]))
        ratios = np.array([s.evaluate(policy.improve(s)).min() / gold_ms for _, s, gold_ms in self._known])
        few = np.array([case.providers <= FEW[1] for case, _, _ in self._known])
        found = {"median": float(np.median(ratios))}
        for name, group in (("few", ratios[few]), ("many", ratios[~few])):
            if len(group):
                found |= {f"{name} median": float(np.median(group)), f"{name} p90": float(np.quantile(group, 0.9))}
        return found
