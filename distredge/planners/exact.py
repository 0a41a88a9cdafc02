"""Exact: the proven optimum over partition scheme, split decisions and order of the providers, where it is feasible.

Label-setting over partial strategies, from the image to the result. A label knows where the next volume begins, the
cuts of the volumes that still matter (whose tensors later layers read), and the simulator's state. Three things keep
labels few:

- *Dominance*: of two labels with the same cuts, one whose state is nowhere later makes the other superfluous.
- *Bounds*: for all cuts that matter, the least time from when each provider's part is done to the end, found backwards;
  a label that cannot beat the best strategy known is dropped.
- A first pass, which follows only the most promising labels, finds that strategy; the second pass proves it or finds
  the optimum.

"Proven" means: under the simulator, no strategy of any scheme of cut points, any order of the providers and any cuts
is better by more than `SAME_MS`. That rests on the simulator being monotone: what is ready earlier never makes the
frame later. So it is where a queue gets one message at a boundary (two providers), or no message is longer than a
quantum. Elsewhere the compiled simulator looks at a queue only when messages begin: with `n` senders the time at a
receiver is monotone but for `(n - 1) * quantum` bytes of its link, and it moves with all times alike. There a label
dominates another only if it is earlier by all that this can add up to until the end, and bounds are lowered by as
much: the result is as exact, but labels are many more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import numpy as np

from distredge.errors import InputError
from distredge.model.graph import IMAGE
from distredge.planners import exact_bounds, exact_labels
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.exact_bounds import Left, Nodes, Step
from distredge.planners.exact_labels import Pool, empty_pool, most_promising, roomy, root_pool, without_states
from distredge.planners.exact_space import (
    Chain,
    CutNumbers,
    Group,
    LastOnly,
    all_groups,
    distinct_orders,
    margins_ms,
    settled,
    stops,
)
from distredge.planners.offload import Offload
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.kernel import FloatArray, IntArray, Problem
from distredge.simulate.simulator import build_problem

MOST_WORK = 2_000_000_000
"""Pairs of successive cuts and extensions of labels, at most, where no budget is given: about ten minutes."""

MOST_LABELS = 12_000_000
"""Labels kept at once, at most: 2 GB."""

MOST_NODES = 1_000_000
"""Nodes at most, with their bounds: 1 GB."""

MOST_GROUPS = 5_000
"""Groups at most."""

BEAM = 64
"""Labels of a group that the first pass follows."""

VECTORS = 24
"""Of a bound, at most."""

CHUNK = 400_000
"""Extensions in one compiled call: Ctrl-C and the budget wait for its end."""


@dataclass
class Incumbent:
    """The best strategy so far, the pairs of cuts and extensions of labels so far, and the labels made."""

    strategy: Strategy
    work: int = 0
    labels: int = 0

    @property
    def latency_ms(self) -> float:
        """Its latency."""
        return self.strategy.latency_ms


class Meter:
    """Reports progress and ends the work at its limits."""

    def __init__(self, task: Task, incumbent: Incumbent, passes: int) -> None:
        self.task, self.incumbent, self.passes = task, incumbent, passes
        self.passed, self.shown = 0.0, 0.0
        self._deadline = None if task.budget_s is None else time.perf_counter() + task.budget_s

    def advance(self, work: int, share: float = 0.0) -> None:
        """`work` was done, `share` of the current pass is."""
        self.incumbent.work += work
        self.shown = max(self.shown, min(0.999, (self.passed + share) / self.passes))
        self.task.progress(self.shown, self.incumbent.latency_ms)
        if self._deadline is not None and time.perf_counter() > self._deadline:
            give_up(self.task, f"not within {self.task.budget_s:g} s", self.incumbent)
        if self._deadline is None and self.incumbent.work > MOST_WORK:
            give_up(self.task, f"not with {MOST_WORK:.0e} extensions", self.incumbent)


class Exact(Planner):
    """The proven optimum, or an error that says how far it is out of reach."""

    name = "exact"

    def plan(self, task: Task) -> Strategy:
        """Deterministic, also with a budget.

        Raises `InputError` if the optimum is not proven within the budget; without one, within a fixed amount of work.
        """
        return self.prove(task).strategy

    def prove(self, task: Task) -> Incumbent:
        """The optimum, and what it took."""
        quiet = replace(task, progress=lambda share, latency_ms: None)
        incumbent = Incumbent(Offload().plan(quiet))
        feasible_groups(task, 1)  # gives up where there are too many cuts, before all orders are listed
        orders = distinct_orders(task.scenario.providers)
        early = task.graph.to_head - {len(task.graph.layers) - 1}
        heads = range(len(orders[0])) if early else (-1,)
        passes = len(orders) * len(heads)
        groups = feasible_groups(task, passes)
        meter = Meter(task, incumbent, 2 * passes)
        searches = [Labelling(task, order, head, groups, meter) for order in orders for head in heads]
        for vectors, width in ((1, BEAM), (VECTORS, None)):
            for search in searches:
                search.bound(vectors)
                search.run(width)
                meter.passed += 1.0
        task.progress(1.0, incumbent.latency_ms)
        return incumbent


class Labelling:
    """The labels of one order of the providers, and of one provider for the head where that matters early (else -1)."""

    def __init__(self, task: Task, order: tuple[int, ...], head: int, groups: list[Group], meter: Meter) -> None:
        self.task, self.graph, self.head, self.meter = task, task.graph, head, meter
        self.scenario = task.scenario.reordered(order)
        self.end = len(self.graph.layers)
        self.points = stops(self.graph)
        self.numbers = CutNumbers(self.graph, self.points, len(order))
        self.groups = groups
        self.nodes = {group: self._nodes(group) for group in self.groups}
        self.settled = settled(self.graph)
        self.left: dict[Group, Left] = {}
        self._problems: dict[tuple[tuple[int, int], ...], Problem] = {}

    def run(self, width: int | None) -> None:
        """Follow all labels (or of each group the `width` most promising) to the end."""
        pools = [empty_pool(len(self.scenario.providers), self._count(group)) for group in self.groups]
        pools[0] = root_pool(pools[0])
        for number, group in enumerate(self.groups):
            if group.location == self.end:
                break
            chosen = most_promising(pools[number], width)
            for stop in (p for p in self.points if p > group.location):
                if len(chosen):
                    self._over(pools, number, stop, chosen)
            pools[number] = without_states(pools[number])

    def _over(self, pools: list[Pool], number: int, stop: int, chosen: IntArray) -> None:
        """Extend the chosen labels of a group over the volume up to `stop`."""
        following, step = self._step(self.groups[number], stop)
        if stop == self.end:
            self._conclude(pools, number, step, chosen)
            return
        place, at, meter = self.groups.index(following), 0, self.meter
        while at < len(chosen):
            target = pools[place] = roomy(pools[place], int(step.after.counts[-1]))
            before = int(target.counts[0])
            at, done = exact_labels.extend(
                step, self.numbers.table, pools[number], chosen, at, number, target, meter.incumbent.latency_ms, CHUNK
            )
            meter.incumbent.labels += int(target.counts[0]) - before
            meter.advance(done, 0.7 + 0.3 * number / len(self.groups))
            if sum(len(p.states) for p in pools) > MOST_LABELS:
                give_up(self.task, f"not with {MOST_LABELS:.0e} labels", meter.incumbent)

    def _conclude(self, pools: list[Pool], number: int, step: Step, chosen: IntArray) -> None:
        """Extend the chosen labels of a group to the end, and keep what is better."""
        at = 0
        while at < len(chosen):
            best = self.meter.incumbent.latency_ms
            at, done, _, label, cuts = exact_labels.conclude(
                step, self.numbers.table, pools[number], chosen, at, best, CHUNK
            )
            if label >= 0:
                self.meter.incumbent.strategy = self._strategy(pools, number, label, cuts)
            self.meter.advance(done)

    def _strategy(self, pools: list[Pool], number: int, label: int, last: int) -> Strategy:
        """What a label and the number of the last volume's cuts amount to."""
        locations, ids = [], [last]
        while number > 0:
            nodes, pool = self.nodes[self.groups[number]], pools[number]
            locations.append(self.groups[number].location)
            ids.append(int(nodes.bases[-1] + pool.nodes[label] % nodes.counts[-1]))
            number, label = (int(x) for x in pool.parents[label])
        scheme = PartitionScheme(self.graph, (0, *locations[::-1]))
        cuts = self.numbers.table[ids[::-1]]
        latency = simulator_for(self.task, scheme, self.scenario).evaluate(cuts[None])[0]
        return Strategy(scheme, self.scenario, cuts, float(latency))

    def bound(self, width: int) -> None:
        """Bounds of `width` vectors, found backwards; where there are some already, first which nodes they leave."""
        providers, best = len(self.scenario.providers), self.meter.incumbent.latency_ms
        since = self._since(best)
        for number, group in enumerate(self.groups[:0:-1]):
            count = self._count(group)
            vectors = np.full((count, width if group.location < self.end else 1, providers), np.inf)
            left = self.left[group] = Left(vectors, np.zeros(count, dtype=np.int64), since[group])
            if group.location == self.end:
                base = int(self.nodes[group].bases[-1])
                exact_bounds.bound_end(self._problem(group.spans), self.head, self.numbers.table, base, left)
            for stop in (p for p in self.points if p > group.location):
                _, step = self._step(group, stop)
                for first, last in self._chunks(group, step, 0.1 + 0.6 * number / len(self.groups)):
                    exact_bounds.bound(step, self.numbers.table, left, first, last, best)

    def _since(self, best: float) -> dict[Group, FloatArray]:
        """By group, for each node: a state that none is before, infinite where the bounds so far let nothing pass."""
        shape = (4, len(self.scenario.providers) + 1)
        if not self.left:
            return {group: np.zeros((self._count(group), *shape)) for group in self.groups}
        found = {group: np.full((self._count(group), *shape), np.inf) for group in self.groups}
        self.left = {group: left._replace(since=found[group]) for group, left in self.left.items()}
        found[self.groups[0]][:] = 0.0
        for group in self.groups:
            for stop in (p for p in self.points if p > group.location):
                _, step = self._step(group, stop)
                for first, last in self._chunks(group, step, 0.0):
                    exact_bounds.earliest(step, self.numbers.table, found[group], first, last, best)
        return found

    def _chunks(self, group: Group, step: Step, share: float) -> Iterator[tuple[int, int]]:
        """Ranges of a group's nodes, so small that a compiled call on them returns soon; counts the work."""
        each, count = int(step.after.counts[-1]), self._count(group)
        rows = max(1, CHUNK // 4 // each)
        for first in range(0, count, rows):
            last = min(first + rows, count)
            yield first, last
            self.meter.advance((last - first) * each, share)

    def _count(self, group: Group) -> int:
        return math.prod(int(n) for n in self.nodes[group].counts)

    def _nodes(self, group: Group) -> Nodes:
        counts = [self.numbers.count[stop] for _, stop in group.spans]
        return Nodes(
            bases=np.array([self.numbers.base[stop] for _, stop in group.spans], dtype=np.int64),
            counts=np.array(counts, dtype=np.int64),
            strides=np.array([math.prod(counts[k + 1 :]) for k in range(len(counts))], dtype=np.int64),
        )

    def _problem(self, spans: tuple[tuple[int, int], ...]) -> Problem:
        if spans not in self._problems:
            chain = Chain(self.graph, (), spans)
            made = build_problem(self.scenario, chain, LastOnly(self.task.costs, spans[-1]))
            self._problems[spans] = made._replace(exit_to=made.exit_to.reshape(-1, 2))  # also where nothing leaves
        return self._problems[spans]

    def _step(self, group: Group, stop: int) -> tuple[Group, Step]:
        following, keep = group.after(self.graph, stop)
        step = Step(
            problem=self._problem((*group.spans, (group.location, stop))),
            before=self.nodes[group],
            after=self.nodes[following],
            left=self.left[following],
            keep=np.array(keep, dtype=np.int64),
            slack_ms=self.margins_ms[0],
            margin_ms=self.margins_ms[stop],
            settled=self.settled[stop],
            image=stop < self.end and IMAGE in self.graph.crossing(stop),
            head=max(self.head, 0),
            only=self.head,
        )
        return following, step

    @cached_property
    def margins_ms(self) -> dict[int, float]:
        """By location: by how much the frame may come later although the state there is earlier (see above)."""
        return margins_ms(self.graph, self.scenario, self._problem(((0, self.points[0]),)))


def feasible_groups(task: Task, passes: int) -> list[Group]:
    """All groups; gives up at once where there are too many, or where the bounds alone would be too much work."""
    graph, inner = task.graph, len(task.scenario.providers) - 1
    groups = all_groups(graph, MOST_GROUPS)
    if len(groups) > MOST_GROUPS:
        give_up(task, f"its tensors cross in more than {MOST_GROUPS:,} ways")
    ways = {p: math.comb(graph.layers[p - 1].height + inner, inner) for p in stops(graph)}
    nodes = {group: math.prod(ways[stop] for _, stop in group.spans) for group in groups}
    if sum(nodes.values()) > MOST_NODES:
        give_up(task, f"it can be cut in {sum(nodes.values()):.1e} ways, {MOST_NODES:.0e} are feasible")
    pairs = sum(nodes[group] * sum(n for p, n in ways.items() if p > group.location) for group in groups)
    if task.budget_s is None and 3 * passes * pairs > MOST_WORK:
        give_up(task, f"there are {passes * pairs:.1e} pairs of successive cuts, {MOST_WORK / 3:.0e} are feasible")
    return groups


def give_up(task: Task, why: str, incumbent: Incumbent | None = None) -> NoReturn:
    """Say that the optimum is out of reach, how far, and what to do."""
    count = len(task.scenario.providers)
    found = f" (best so far {incumbent.latency_ms:.2f} ms, not proven)" if incumbent else ""
    raise InputError(
        f"'exact' cannot prove an optimum for '{task.graph.name}' on {count} provider{'s' * (count > 1)}:"
        f" {why}{found}; use --method search"
    )
