"""The front of plans of which none beats another in both latency and a second goal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from distredge.planners.base import Strategy, Task
from distredge.planners.candidates import candidate_schemes
from distredge.planners.moves import Locations, Order
from distredge.planners.search import Candidate, JointSearch, candidate_orders
from distredge.simulate.costs import BARRED_MS
from distredge.simulate.goals import GOALS, Goals


@dataclass(frozen=True)
class FrontPoint:
    """A plan on a front: `value` is its other goal."""

    strategy: Strategy
    latency_ms: float
    value: float


FRONT_ROUNDS = 12
"""Rounds of variation for each point of a front when no budget is given."""


class Front:
    """Latency against another goal (of `GOALS`, by its place): the search for the plans of which none beats another.

    Both goals are minimised alone, then latency under limits between the two values of the other. Each search begins
    with all that the ones before found. The task's limits hold at every point; what it minimises does not count.
    """

    def __init__(self, task: Task, against: int, points: int) -> None:
        self.task, self.against, self.points = task, against, max(points, 2)
        self._known: dict[tuple[object, ...], Candidate] = {}
        self._schemes: list[Locations] = []
        self._orders: list[Order] = []
        self._done = 0
        self._judges = [
            JointSearch(replace(task, goals=goals))
            for goals in (replace(task.goals, minimise={GOALS[against]: 1.0}), Goals({GOALS[against]: 1.0}))
        ]

    def search(self) -> list[FrontPoint]:
        """The front, fastest first; empty if the task's limits cannot be kept."""
        fastest = self._point(self._solve({"latency": 1.0}, None))
        little = 1e-3 * fastest.value / fastest.latency_ms  # of two that are alike in the other goal, the faster
        least = self._point(self._solve({GOALS[self.against]: 1.0, "latency": little}, None))
        for n in range(1, self.points - 1):
            limit = least.value + (fastest.value - least.value) * (1.0 - n / (self.points - 1))
            self._solve({"latency": 1.0}, limit)
        found = [self._point(c) for c in self._known.values() if self._keeps(c)]
        front: list[FrontPoint] = []
        for point in sorted(found, key=lambda p: (p.latency_ms, p.value)):
            if not front or point.value < front[-1].value:
                front.append(point)
        return _spread(front, self.points)

    def _solve(self, minimise: dict[str, float], limit: float | None) -> Candidate:
        goals = replace(self.task.goals, minimise=minimise)
        goals = goals if limit is None else goals.limited(self.against, limit)
        done = self._done

        def progress(share: float, latency_ms: float) -> None:
            self.task.progress((done + share) / self.points, latency_ms)

        budget_s = None if self.task.budget_s is None else self.task.budget_s / self.points
        search = JointSearch(replace(self.task, goals=goals, budget_s=budget_s, progress=progress))
        if not self._schemes:
            self._schemes, self._orders = candidate_schemes(search.task), candidate_orders(search)
        search.screen(self._schemes, self._orders)
        self._schemes, self._orders = self._schemes[:1], self._orders[:1]
        search.adopt(list(self._known.values()))
        search.mend(self._schemes, self._orders, FRONT_ROUNDS // 2)
        search.vary(FRONT_ROUNDS)
        self._known.update((c.key, c) for c in search.pool)
        self._done += 1
        return search.pool[0]

    def _point(self, candidate: Candidate) -> FrontPoint:
        strategy = self._judges[1].strategy(candidate)
        return FrontPoint(strategy, strategy.latency_ms, self._scores(candidate)[1])

    def _keeps(self, candidate: Candidate) -> bool:
        """Whether a plan keeps to the task's limits, which its score shows, and bars."""
        limited, free = self._scores(candidate)
        return limited <= free and self._point(candidate).latency_ms < BARRED_MS

    def _scores(self, candidate: Candidate) -> list[float]:
        """The other goal, with penalties for the task's limits, and by itself."""
        simulators = [judge.simulator(candidate.locations, candidate.order) for judge in self._judges]
        return [float(simulator.score(candidate.cuts[None])[0]) for simulator in simulators]


def _spread(front: list[FrontPoint], most: int) -> list[FrontPoint]:
    """At most so many points: both ends, and those nearest to even steps of the other goal."""
    if len(front) <= most:
        return front
    values = np.array([point.value for point in front])
    wanted = np.linspace(values[0], values[-1], most)
    chosen = sorted({0, len(front) - 1, *(int(np.argmin(np.abs(values - value))) for value in wanted)})
    return [front[i] for i in chosen]
