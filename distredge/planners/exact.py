"""Exact: the proven optimum over partition scheme, split decisions and order of the providers, where that is feasible.

Label-setting over partial strategies, from the image to the result. A label knows where the next volume begins, the cuts
of the volumes that still matter (that hold a tensor which later layers read), and the simulator's state. Three things
keep labels few:

- *Dominance*: of two labels with the same cuts, one whose state is nowhere later makes the other superfluous.
- *Bounds*: for each location, provider and cuts, the least time from when the provider's part is done to the end,
  found backwards; a label that cannot beat the best strategy known is dropped.
- A first pass, which follows only the most promising labels, finds that strategy.

"Proven" means: under the simulator, no strategy of any scheme of cut points, any order of the providers and any cuts is
better by more than `SAME_MS`. That rests on the simulator being monotone: what is ready earlier never makes the frame
later. It is where each queue gets one message at a boundary (two providers) or messages of one quantum. Elsewhere the
compiled simulator looks at a queue only when messages begin: with `n` senders a receiver's time is monotone but for
`(n - 1) * quantum` bytes of its link, and all is shift-invariant. There a label dominates another only if it is earlier
by what can add up from that until the end, and bounds are lowered by as much: the result is as exact, found more slowly.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn, TypeVar

import numpy as np

from distredge.errors import InputError
from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE, LayerGraph
from distredge.planners import exact_labels
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.exact_labels import Left, Nodes, Pool, Step
from distredge.planners.offload import Offload
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Provider, Scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.kernel import DOWN_BYTE, FloatArray, IntArray, Problem
from distredge.simulate.simulator import build_problem

MOST_WORK = 2_000_000_000
"""Extensions of labels, at most, where no budget is given: some minutes."""

MOST_LABELS = 12_000_000
"""Labels kept at most: some GB."""

MOST_NODES = 2_000_000
"""Ways to cut the volumes that matter at one location, at most."""

BEAM = 64
"""Labels of a group that the first pass follows."""

VECTORS = 24
"""Of a bound, at most."""

CHUNK = 400_000
"""Extensions in one compiled call: Ctrl-C and the budget wait for its end."""


Array = TypeVar("Array", FloatArray, IntArray)


@dataclass(frozen=True)
class Chain(PartitionScheme):
    """Some volumes, one after the other, that need not be the whole model: what a step of a label has to know."""

    spans: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Nothing to check: the spans come from cut points."""

    @property
    def parts(self) -> tuple[Volume, ...]:
        """The volumes with their geometry."""
        return tuple(Volume(self.graph, a, b) for a, b in self.spans)


class LastOnly(VolumeCosts):
    """The costs of a chain's last volume only: the others are computed already."""

    def __init__(self, costs: VolumeCosts, last: tuple[int, int]) -> None:
        self.costs, self.last = costs, last
        self.kinds, self.kind_of, self.head_ms = costs.kinds, costs.kind_of, costs.head_ms

    def table(self, volume: Volume) -> FloatArray:
        """As of all costs for the last volume; nothing for another."""
        if (volume.start, volume.stop) == self.last:
            return self.costs.table(volume)
        return np.zeros((len(self.kinds), 0, 0))


@dataclass(frozen=True)
class Group:
    """Labels at one location with the same volumes that still matter, each from its first layer that does."""

    location: int
    spans: tuple[tuple[int, int], ...]

    def after(self, graph: LayerGraph, stop: int) -> tuple[Group, list[int]]:
        """The group behind the volume up to `stop`, and which of this group's volumes (and the new one) it keeps."""
        cross, out = set(graph.crossing(stop)), graph.to_head | graph.to_requester
        spans, keep = [], []
        for k, (a, b) in enumerate(self.spans):
            if read := [i for i in range(a, b) if i in cross]:
                spans.append((read[0], b))
                keep.append(k)
        own = next(i for i in range(self.location, stop) if i in cross or i in out or i == stop - 1)
        return Group(stop, (*spans, (own, stop))), [*keep, len(self.spans)]


class CutNumbers:
    """Every way to cut each location's last volume, numbered."""

    def __init__(self, graph: LayerGraph, points: tuple[int, ...], providers: int) -> None:
        self.base, self.count, rows, at = {}, {}, [], 0
        for stop in points:
            rows.append(all_cuts(graph.layers[stop - 1].height, providers))
            self.base[stop], self.count[stop] = at, len(rows[-1])
            at += len(rows[-1])
        self.table = np.concatenate(rows)


@dataclass
class Incumbent:
    """The best strategy so far."""

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
            give_up(self.task, f"not with {MOST_WORK:.1e} extended labels", self.incumbent)


class Exact(Planner):
    """The proven optimum, or an error that says how far it is out of reach."""

    name = "exact"

    def plan(self, task: Task) -> Strategy:
        """Deterministic, also with a budget.

        Raises `InputError` if the optimum is not proven within the budget, or without one within a fixed amount of work.
        """
        quiet = replace(task, progress=lambda share, latency_ms: None)
        incumbent = Incumbent(Offload().plan(quiet))
        orders = distinct_orders(task.scenario.providers)
        early = task.graph.to_head - {len(task.graph.layers) - 1}
        heads = range(len(orders[0])) if early else (-1,)
        check_size(task, len(orders) * len(heads), incumbent)
        meter = Meter(task, incumbent, 2 * len(orders) * len(heads))
        searches = [Labelling(task, order, head, meter) for order in orders for head in heads]
        for vectors, width in ((1, BEAM), (VECTORS, None)):
            for search in searches:
                search.bound(vectors)
                search.run(width)
                meter.passed += 1.0
        task.progress(1.0, incumbent.latency_ms)
        return incumbent.strategy


class Labelling:
    """The labels of one order of the providers, and of one provider for the head where that matters early (else -1)."""

    def __init__(self, task: Task, order: tuple[int, ...], head: int, meter: Meter) -> None:
        self.task, self.graph, self.head, self.meter = task, task.graph, head, meter
        self.scenario = task.scenario.reordered(order)
        self.end = len(self.graph.layers)
        self.points = (*self.graph.cut_points[1:], self.end)
        self.numbers = CutNumbers(self.graph, self.points, len(order))
        self.groups = all_groups(self.graph, self.points)
        self.nodes = {group: self._nodes(group) for group in self.groups}
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
            meter.advance(done, number / len(self.groups))
            if sum(len(p.states) for p in pools) > MOST_LABELS:
                give_up(self.task, f"not with {MOST_LABELS:.1e} labels", meter.incumbent)

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
        for group in self.groups[:0:-1]:
            count = self._count(group)
            vectors = np.full((count, width if group.location < self.end else 1, providers), np.inf)
            left = self.left[group] = Left(vectors, np.zeros(count, dtype=np.int64), since[group])
            if group.location == self.end:
                base = int(self.nodes[group].bases[-1])
                exact_labels.bound_end(self._problem(group.spans), self.head, self.numbers.table, base, left)
            for stop in (p for p in self.points if p > group.location):
                _, step = self._step(group, stop)
                for first, last in self._chunks(group, step):
                    exact_labels.bound(step, self.numbers.table, left, first, last, best)

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
                for first, last in self._chunks(group, step):
                    exact_labels.earliest(step, self.numbers.table, found[group], first, last, best)
        return found

    def _chunks(self, group: Group, step: Step) -> Iterator[tuple[int, int]]:
        """Ranges of a group's nodes, so small that a compiled call on them returns soon; counts the work."""
        each, count = int(step.after.counts[-1]), self._count(group)
        rows = max(1, CHUNK // 4 // each)
        for first in range(0, count, rows):
            last = min(first + rows, count)
            yield first, last
            self.meter.advance((last - first) * each)

    def _count(self, group: Group) -> int:
        return math.prod(int(n) for n in self.nodes[group].counts)

    def _nodes(self, group: Group) -> Nodes:
        counts = [self.numbers.count[stop] for _, stop in group.spans]
        if math.prod(counts) > MOST_NODES:
            give_up(self.task, f"{math.prod(counts):.1e} ways to cut what crosses before layer {group.location}", None)
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
    def settled(self) -> dict[int, bool]:
        """By location: whether from there on every row of a volume needs some that earlier volumes made."""
        found, so_far = {self.end: True}, True
        for start in self.points[-2::-1]:
            for stop in (p for p in self.points if p > start):
                so_far = so_far and _needs_rows(Volume(self.graph, start, stop))
            found[start] = so_far
        return found

    @cached_property
    def margins_ms(self) -> dict[int, float]:
        """By location: by how much the frame may come later although the state there is earlier (see above)."""
        return margins_ms(self.graph, self.scenario, self.points, self._problem(((0, self.points[0]),)))


def margins_ms(
    graph: LayerGraph, scenario: Scenario, points: tuple[int, ...], problem: Problem
) -> dict[int, float]:
    """By location: what the errors of monotony of all queues from there on add up to."""
    unit, quantum, senders = float(scenario.element_bytes), problem.quantum_bytes, len(scenario.providers) - 1
    slowest, requester = float(problem.node_ms[DOWN_BYTE, :-1].max()), float(problem.node_ms[DOWN_BYTE, -1])

    def error(others: int, layers: Iterable[int], down_ms: float) -> float:
        size = sum(graph.row_elements(i) * graph.shape(i)[1] for i in layers) * unit
        return others * quantum * down_ms if size > quantum else 0.0

    leaving = graph.to_head | graph.to_requester
    out = error(senders - 1, graph.to_head, slowest) + error(senders, graph.to_requester, requester)
    found = {points[-1]: out}
    total = out
    for point in (*points[-2::-1], 0):
        cross = graph.crossing(point)
        total += error(senders - 1 + (IMAGE in cross), cross, slowest) if point else 0.0
        total += out if any(i < point for i in leaving) else 0.0
        found[point] = total
    return found


def all_groups(graph: LayerGraph, points: tuple[int, ...]) -> list[Group]:
    """Every group that labels may come to, by location; the first is that before the first volume."""
    found = {Group(0, ()): None}
    for location in (0, *points):
        for group in [g for g in found if g.location == location]:
            found.update((group.after(graph, stop)[0], None) for stop in points if stop > location)
    return sorted(found, key=lambda group: (group.location, group.spans))


def _needs_rows(volume: Volume) -> bool:
    """Whether every row of a volume needs some that earlier volumes made."""
    starts, stops = (table[: len(volume.entering)] for table in volume.tables)
    made = np.array(volume.entering) != IMAGE
    return bool(np.all(np.any(stops[made, 1:] > starts[made, :-1], axis=0)))


def distinct_orders(providers: tuple[Provider, ...]) -> list[tuple[int, ...]]:
    """Orders of the providers along the height, equal devices on equal links exchanged but once."""
    kinds = [p.model_copy(update={"name": "", "address": None}) for p in providers]
    alike = [kinds.index(kind) for kind in kinds]
    found = {}
    for order in itertools.permutations(range(len(providers))):
        found.setdefault(tuple(alike[i] for i in order), order)
    return list(found.values())


def all_cuts(height: int, providers: int) -> IntArray:
    """(ways, providers + 1) every way to cut a height."""
    inner = list(itertools.combinations_with_replacement(range(height + 1), providers - 1))
    cuts = np.zeros((len(inner), providers + 1), dtype=np.int64)
    cuts[:, -1] = height
    cuts[:, 1:-1] = np.array(inner, dtype=np.int64).reshape(len(inner), providers - 1)
    return cuts


def check_size(task: Task, passes: int, incumbent: Incumbent) -> None:
    """Give up at once where the bounds alone would be too much work."""
    graph, providers = task.graph, len(task.scenario.providers)
    stops = (*graph.cut_points[1:], len(graph.layers))
    counts = [math.comb(graph.layers[p - 1].height + providers - 1, providers - 1) for p in stops]
    pairs = sum(a * b for a, b in itertools.combinations(counts, 2)) * passes
    if pairs > MOST_WORK:
        give_up(task, f"{pairs:.1e} pairs of cuts, {MOST_WORK:.0e} are feasible", None)


def give_up(task: Task, why: str, incumbent: Incumbent | None) -> NoReturn:
    """Say that the optimum is out of reach, how far, and what to do."""
    found = f"; best so far {incumbent.latency_ms:.2f} ms, not proven" if incumbent else ""
    raise InputError(
        f"'exact' cannot prove an optimum of '{task.graph.name}' on {len(task.scenario.providers)} providers: {why}"
        f"{found}: use --method search, or fewer providers"
    )


def empty_pool(providers: int, nodes: int) -> Pool:
    """A pool without labels."""
    return Pool(
        states=np.zeros((0, 4, providers + 1)),
        nodes=np.zeros(0, dtype=np.int64),
        parents=np.zeros((0, 2), dtype=np.int64),
        least_ms=np.zeros(0),
        link=np.zeros(0, dtype=np.int64),
        first=np.full(nodes, -1, dtype=np.int64),
        counts=np.array([0, -1], dtype=np.int64),
    )


def root_pool(empty: Pool) -> Pool:
    """The one label before the first volume: everything at 0."""
    pool = roomy(empty, 1)
    pool.counts[0] = 1
    return pool


def roomy(pool: Pool, more: int) -> Pool:
    """The pool, with room for at least so many labels more."""
    size = int(pool.counts[0]) + more
    if size <= len(pool.link):
        return pool
    size = max(size, 2 * len(pool.link), 1024)

    def grown(old: Array) -> Array:
        new = np.zeros((size, *old.shape[1:]), dtype=old.dtype)
        new[: len(old)] = old
        return new

    return Pool(
        grown(pool.states), grown(pool.nodes), grown(pool.parents), grown(pool.least_ms), grown(pool.link),
        pool.first, pool.counts,
    )  # fmt: skip


def without_states(pool: Pool) -> Pool:
    """What is left of labels that have been extended: whence they came."""
    return pool._replace(states=pool.states[:0].copy(), first=pool.first[:0].copy())


def most_promising(pool: Pool, width: int | None) -> IntArray:
    """Labels that are not dominated, the most promising first, at most `width`."""
    least = pool.least_ms[: pool.counts[0]]
    return np.argsort(least, kind="stable")[: int(np.sum(least < np.inf))][:width]
