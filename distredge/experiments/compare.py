"""Methods side by side: every method plans every case, all costed by the same simulator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distredge.api import make_task
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.planners import METHODS, planner
from distredge.planners.base import Planner, make_plan
from distredge.plans.plan import Plan
from distredge.scenario import Scenario
from distredge.simulate.timeline import Timeline, trace

OURS = frozenset({"osds", "osds-paper", "search", "exact"})
"""Methods of DistrEdge, and the yardsticks of this project; the others, but for `equal`, are baselines."""

BASELINES = frozenset(METHODS) - OURS - {"equal"}

Progress = Callable[[str, float], None]
"""Called with (model, scenario and method at work, share of all the work done)."""


@dataclass(frozen=True)
class Row:
    """What one method says to one case.

    `plan` is None if the method cannot serve the case, which `refusal` then explains; figures are None as well.
    """

    model: str
    scenario: str
    method: str
    latency_ms: float | None
    seconds: float
    plan: Plan | None = None
    refusal: str = ""

    @property
    def ips(self) -> float | None:
        """Images a second, the next sent when the last one's result is back."""
        return 1000.0 / self.latency_ms if self.latency_ms else None


def compare(
    graphs: Sequence[LayerGraph],
    scenarios: Sequence[Scenario],
    methods: Sequence[str],
    *,
    seed: int = 0,
    budget_s: float | None = None,
    progress: Progress = lambda what, share: None,
    planner_of: Callable[[str], Planner] = planner,
) -> Iterator[Row]:
    """A row for each model, scenario and method, in this order, as soon as it is known.

    `budget_s` bounds the seconds of each method that can use them; without it each does its own fixed amount of work.
    `planner_of` gives a method's planner.
    """
    cases = [(g, s, m) for g in graphs for s in scenarios for m in methods]
    for done, (graph, scenario, method) in enumerate(cases):
        progress(f"{graph.name} on {scenario.name}: {method}", done / len(cases))
        yield _row(graph, scenario, method, planner_of(method), seed, budget_s)
    progress("done", 1.0)


def _row(graph: LayerGraph, scenario: Scenario, method: str, chosen: Planner, seed: int, budget_s: float | None) -> Row:
    began = time.perf_counter()
    try:
        task = make_task(graph, scenario, seed, budget_s, None)
        plan = make_plan(task, chosen.plan(task), method, seed)
    except InputError as exc:
        return Row(graph.name, scenario.name, method, None, time.perf_counter() - began, refusal=str(exc))
    assert plan.predicted is not None
    return Row(graph.name, scenario.name, method, plan.predicted.latency_ms, time.perf_counter() - began, plan)


def best_baseline(rows: Sequence[Row]) -> Row | None:
    """The fastest baseline among the rows of one case."""
    return min((r for r in rows if r.method in BASELINES and r.latency_ms), key=_latency, default=None)


def speed_up(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times as fast as the best baseline of its case; None without one."""
    baseline = best_baseline(rows)
    if baseline is None or baseline.latency_ms is None or not row.latency_ms:
        return None
    return baseline.latency_ms / row.latency_ms


def verdict(rows: Sequence[Row], graph: LayerGraph, scenario: Scenario) -> str:
    """Whether sharing pays in a case, and what speaks against it if not; one sentence or two."""
    best = min((r for r in rows if r.plan), key=_latency, default=None)
    if best is None or best.plan is None:
        return "no method can serve this case"
    busy = workers(best.plan)
    if len(busy) > 1:
        return f"sharing pays: {best.method} takes {best.latency_ms:.1f} ms on {len(busy)} providers{_over_alone(rows)}"
    said = f"{busy[0]} alone is fastest: {best.latency_ms:.1f} ms"
    shared = min((r for r in rows if r.plan and len(workers(r.plan)) > 1), key=_latency, default=None)
    if shared is None or shared.plan is None:
        return said
    return (
        f"{said}. The best shared plan, by {shared.method}, takes {shared.latency_ms:.1f} ms:"
        f" {_obstacle(trace(shared.plan.bind(graph), scenario), shared.plan)}"
    )


def _over_alone(rows: Sequence[Row]) -> str:
    alone = next((r for r in rows if r.method == "offload" and r.latency_ms), None)
    return f", the best single device {alone.latency_ms:.1f} ms" if alone else ""


def workers(plan: Plan) -> list[str]:
    """Providers that compute rows."""
    return [
        name
        for i, name in enumerate(plan.providers)
        if any(volume.cuts[i + 1] > volume.cuts[i] for volume in plan.volumes)
    ]


def _obstacle(timeline: Timeline, plan: Plan) -> str:
    """Where a shared plan loses its time: the longest wait, and the link that is busy for longest."""
    waiting = max(timeline.work, key=lambda work: work.wait_ms)
    busy: dict[str, float] = {}
    for sent in timeline.transfers:
        busy[sent.sender] = busy.get(sent.sender, 0.0) + sent.sent_ms - sent.start_ms
    sender = max(busy, key=lambda name: busy[name])
    where = "the head" if waiting.volume >= len(plan.volumes) else _span(plan, waiting.volume)
    return (
        f"{waiting.provider} waits {waiting.wait_ms:.1f} ms for rows at {where}, and the uplink of {sender} is busy for"
        f" {busy[sender]:.1f} ms"
    )


def _span(plan: Plan, volume: int) -> str:
    layers = plan.volumes[volume].layers
    return layers[0] if len(layers) == 1 else f"{layers[0]} .. {layers[-1]}"


def _latency(row: Row) -> float:
    return row.latency_ms if row.latency_ms is not None else float("inf")
