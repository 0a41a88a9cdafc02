"""`Simulator`: the latency of split decisions under one partition scheme, in batches."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from distredge.errors import PlanError
from distredge.model.graph import IMAGE, LayerGraph
from distredge.plans.scheme import PartitionScheme
from distredge.profiles.network import QUANTUM_BYTES, ms_per_byte
from distredge.scenario import MB, Scenario
from distredge.simulate import kernel
from distredge.simulate.aim import Aim, score
from distredge.simulate.costs import BARRED_MS, VolumeCosts
from distredge.simulate.kernel import FloatArray, IntArray, Problem


class Simulator:
    """Predicts end-to-end latency (ms) of one frame at a time, the next sent when the last one's result is back.

    Deterministic; compiled on first use. `costs` may be shared between simulators of the same graph and scenario
    under other schemes or other orders of the providers, so that tables are made once. `aim` says what split decisions
    are scored by, if not by latency.
    """

    def __init__(
        self,
        graph: LayerGraph,
        scenario: Scenario,
        scheme: PartitionScheme,
        costs: VolumeCosts | None = None,
        aim: Aim | None = None,
    ) -> None:
        self.graph = graph
        self.scenario = scenario
        self.scheme = scheme
        self.costs = costs or VolumeCosts(graph, scenario.profiles)
        self.aim = aim
        self.problem = build_problem(scenario, scheme, self.costs)
        whole = self.problem.compute_ms[self.problem.compute_at + self.heights[:, None]]
        self.barred: npt.NDArray[np.bool_] | None = whole >= BARRED_MS if whole.max() >= BARRED_MS else None
        """(volumes, providers) who must not compute what; None if everybody may compute everything."""

    @property
    def heights(self) -> IntArray:
        """(volumes,) rows of each volume's last layer."""
        return self.problem.heights

    @property
    def providers(self) -> int:
        """Number of providers."""
        return len(self.scenario.providers)

    def check(self, cuts: npt.ArrayLike) -> IntArray:
        """`cuts` as int64 (batch, volumes, providers + 1); raises `PlanError` if they break a plan's rule."""
        try:
            array = np.asarray(cuts)
        except ValueError as exc:
            raise PlanError("cuts must have the same number of volumes and of providers everywhere") from exc
        shape = (len(self.heights), self.providers + 1)
        if array.ndim != 3 or array.shape[1:] != shape or not np.issubdtype(array.dtype, np.integer):
            raise PlanError(f"cuts must be integers (batch, {shape[0]}, {shape[1]}), got {array.dtype} {array.shape}")
        array = np.ascontiguousarray(array, dtype=np.int64)
        wrong = kernel.first_invalid(self.heights, array)
        if wrong >= 0:
            raise PlanError(
                f"cuts {array[wrong].tolist()} must, in each volume, begin with 0, not decrease and end with the"
                f" volume's height {self.heights.tolist()}"
            )
        return array

    def evaluate(self, cuts: npt.ArrayLike) -> FloatArray:
        """Latency in ms of each of `cuts`, integers (batch, volumes, providers + 1) in the scenario's order.

        Returns float64 (batch,). The head runs on the provider with most rows of the last volume, the first of
        equals. Raises `PlanError` if cuts are out of range, decreasing or of another shape.
        """
        array = self.check(cuts)
        out = np.empty(len(array))
        kernel.evaluate(self.problem, array, out)
        return out

    def score(self, cuts: npt.ArrayLike) -> FloatArray:
        """What each of `cuts` is worth, the less the better: its latency or, with an aim, the weighted sum of goals.

        A plan that breaks a limit scores worse than any that keeps all. `cuts` and what is raised as for `evaluate`.
        """
        latency_ms = self.evaluate(cuts)
        if self.aim is None:
            return latency_ms
        out = np.empty_like(latency_ms)
        score(self.problem, self.aim, self.check(cuts), latency_ms, out)
        return out

    def permitted(self, cuts: IntArray) -> IntArray:
        """`cuts` (..., volumes, providers + 1) with the rows of barred providers shared out among the others."""
        if self.barred is None:
            return cuts
        shares = np.diff(cuts, axis=-1) * ~self.barred
        nobody = np.broadcast_to(shares.sum(axis=-1, keepdims=True) == 0, shares.shape)
        shares = np.where(nobody, np.broadcast_to(~self.barred, shares.shape), shares)
        shares[..., 0] += shares.sum(axis=-1) == 0  # a volume that all are barred from
        found = np.zeros_like(cuts)
        found[..., 1:] = np.rint(
            np.cumsum(shares, axis=-1) / shares.sum(axis=-1, keepdims=True) * self.heights[:, None]
        )
        return found

    def unbarred(self) -> Simulator:
        """The same where everybody may compute everything."""
        if self.barred is None:
            return self
        other = self.with_problem(self.problem._replace(compute_ms=np.fmod(self.problem.compute_ms, BARRED_MS)))
        other.barred = None
        return other

    def with_problem(self, problem: Problem) -> Simulator:
        """A copy that evaluates another problem of the same volumes and providers."""
        other = copy.copy(self)
        other.problem = problem
        return other

    def single_device_cuts(self) -> IntArray:
        """(providers, volumes, providers + 1): everything on one provider, for each of them."""
        cuts = np.zeros((self.providers, len(self.heights), self.providers + 1), dtype=np.int64)
        for i in range(self.providers):
            cuts[i, :, i + 1 :] = self.heights[:, None]
        return cuts

    def equal_cuts(self) -> IntArray:
        """(volumes, providers + 1): every volume in parts of equal rows, as nearly as integers allow."""
        return np.rint(np.linspace(0.0, 1.0, self.providers + 1) * self.heights[:, None]).astype(np.int64)

    def lower_bound_ms(self) -> float:
        """A latency that no split decisions under this scheme can beat.

        Compute: the least T such that rows can be shared out with no provider busy for longer than T, each at its
        cheapest time a row, no row waiting for another (a linear program). Links: the rows of the image that are
        read at all must pass the providers' links, all used at once. The head and the fixed I/O of the first and the
        last message come on top; where the head does without the last layer, it adds to the work of one provider only.
        """
        parts = self.scheme.parts
        kinds = [self.costs.kind_of[id(p)] for p in self.scenario.profiles]
        row_ms = np.array([[_cheapest_row(table[k]) for k in kinds] for table in map(self.costs.table, parts)])
        per_row = self.graph.row_elements(IMAGE) * self.scenario.element_bytes
        input_ms = self._rows_read() * per_row / float(np.sum(1.0 / self.problem.node_ms[kernel.DOWN_BYTE, :-1]))
        head_ms = self.problem.head_ms
        read_ms, write_ms = self.problem.node_ms[[kernel.READ, kernel.WRITE]]
        messages_ms = float(read_ms[-1] + write_ms[:-1].min() + read_ms[:-1].min() + write_ms[-1])
        if self.graph.head.nodes and len(self.graph.layers) - 1 not in self.graph.to_head:
            busy_ms = min(_least_makespan(row_ms, self.heights, head) for head in np.diag(head_ms))
            return max(busy_ms, input_ms) + messages_ms
        busy_ms = _least_makespan(row_ms, self.heights, np.zeros(self.providers))
        return max(busy_ms, input_ms) + float(head_ms.min()) + messages_ms

    def _rows_read(self) -> int:
        """Rows of the image that providers must get between them for the first volume.

        Some are read by no part: the last ones where windows do not come out even, and, with a stride over the
        kernel, those between two parts.
        """
        first = self.scheme.parts[0]
        k = first.entering.index(IMAGE)
        start, stop = (table[k] for table in first.tables)
        between = int(np.max(start[1:-1] - stop[1:-1], initial=0))
        return max(0, int(stop[-1] - start[0]) - (self.providers - 1) * between)


def _least_makespan(row_ms: FloatArray, heights: IntArray, more_ms: FloatArray) -> float:
    """Least T for which the rows can be shared out.

    That is, shares r (volumes, providers) >= 0 exist with sum_i r[v, i] = heights[v] and
    sum_v r[v, i] * row_ms[v, i] + more_ms[i] <= T for every provider i.
    """
    from scipy.optimize import linprog

    volumes, providers = row_ms.shape
    busy = np.hstack([np.diag(row_ms[v]) for v in range(volumes)] + [-np.ones((providers, 1))])
    covered = np.hstack([np.kron(np.eye(volumes), np.ones(providers)), np.zeros((volumes, 1))])
    cost = np.zeros(volumes * providers + 1)
    cost[-1] = 1.0
    found = linprog(cost, A_ub=busy, b_ub=-more_ms, A_eq=covered, b_eq=heights)
    return float(found.fun)


def _cheapest_row(table: FloatArray) -> float:
    """Least latency a row of any part of a volume, in ms."""
    size = len(table)
    a, b = np.triu_indices(size, 1)
    return max(float(np.min(table[a, b] / (b - a))), 1e-12)


def build_problem(scenario: Scenario, scheme: PartitionScheme, costs: VolumeCosts) -> Problem:
    """The flat arrays that the kernel reads."""
    graph, parts = scheme.graph, scheme.parts
    kinds = np.array([costs.kind_of[id(p)] for p in scenario.profiles])
    heights = np.array([part.height for part in parts], dtype=np.int64)
    tables, compute_at, offset = [], np.zeros((len(parts), len(kinds)), dtype=np.int64), 0
    for v, part in enumerate(parts):
        table = costs.table(part)
        compute_at[v] = offset + kinds * table[0].size
        tables.append(table.ravel())
        offset += table.size
    volume_of = {i: v for v, part in enumerate(parts) for i in range(part.start, part.stop)}
    enter = [(v, k, i, volume_of.get(i, -1)) for v, part in enumerate(parts) for k, i in enumerate(part.entering)]
    leave = [(v, i) for v, p in enumerate(parts) for i in p.leaving if i in graph.to_head or i in graph.to_requester]
    starts, stops = ([parts[v].tables[side][k] for v, k, _, _ in enter] for side in (0, 1))
    size = int(heights.max()) + 1
    unit = float(scenario.element_bytes)
    return Problem(
        heights=heights,
        enter_at=np.searchsorted([v for v, *_ in enter], np.arange(len(parts) + 1)),
        enter_from=np.array([u for *_, u in enter]),
        enter_bytes=np.array([graph.row_elements(i) * unit for _, _, i, _ in enter]),
        enter_cuts=_stack([parts[u].cut_rows(i) if u >= 0 else np.zeros(1, np.int64) for _, _, i, u in enter], size),
        need_start=_stack(starts, size),
        need_stop=_stack(stops, size),
        exit_at=np.searchsorted([v for v, _ in leave], np.arange(len(parts) + 1)),
        exit_to=np.array([(i in graph.to_head, i in graph.to_requester) for _, i in leave], dtype=np.int64),
        exit_bytes=np.array([graph.row_elements(i) * unit for _, i in leave]),
        exit_cuts=_stack([parts[v].cut_rows(i) for v, i in leave], size),
        compute_ms=np.concatenate(tables),
        compute_at=compute_at,
        head_ms=costs.head_ms[kinds],
        slowdown=np.ones(len(kinds)),
        result_bytes=graph.head.result_elements * unit if graph.head.nodes else -1.0,
        quantum_bytes=float(QUANTUM_BYTES),
        node_ms=node_ms(scenario),
    )


def node_ms(scenario: Scenario) -> FloatArray:
    """(6, providers + 1) a node's times, the requester's last; both directions of a link are alike."""
    rows = np.empty((6, len(scenario.providers) + 1))
    rates = [p.bandwidth_mbps for p in scenario.providers] + [scenario.requester_mbps]
    rows[kernel.UP_BYTE] = rows[kernel.DOWN_BYTE] = [ms_per_byte(rate) for rate in rates]
    io = [*(p.io for p in scenario.providers), scenario.requester.io]
    rows[kernel.READ], rows[kernel.WRITE] = [n.read_ms for n in io], [n.write_ms for n in io]
    rows[kernel.READ_BYTE] = [n.read_ms_per_mb / MB for n in io]
    rows[kernel.WRITE_BYTE] = [n.write_ms_per_mb / MB for n in io]
    return rows


def _stack(rows: list[IntArray], size: int) -> IntArray:
    """Rows of different lengths as one array, filled up with zeros."""
    stacked = np.zeros((len(rows), size), dtype=np.int64)
    for row, values in zip(stacked, rows, strict=True):
        row[: len(values)] = values
    return stacked
