"""The story that the stand-in for the controller tells: a stream on `homogeneous-200` whose links and devices change.

Its figures are the simulator's: what a plan in force takes under the conditions of the moment. Only the noise on them
(some per cent, seeded) and the times are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distredge import api
from distredge.control.schema import (
    DeviceView,
    Event,
    FrameSpans,
    Latencies,
    MethodView,
    NodeView,
    Orders,
    Overview,
    PartView,
    Point,
    Registration,
    Span,
    StreamSummary,
    StreamView,
    TrainingPoint,
    VolumeView,
    plan_sha256,
)
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan, Plan
from distredge.scenario import REQUESTER, Scenario, load_scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.timeline import Timeline, trace

BEGIN_S = 1_800_000_000.0
"""When the story begins, in Unix seconds."""

VERSION = "0.0.0+stand.in"
STREAM = "camera-0-1"
METHODS = ("coedge", "aofl", "deepthings", "deeperthings", "modnn", "mednn", "offload")
SEARCH_S = 1.5


@dataclass(frozen=True)
class Chapter:
    """A span of the story: under which conditions which plan is in force, from a second on."""

    from_s: int
    plan: Plan
    scenario: Scenario
    """As it is then."""
    epoch: int
    method: str
    known: bool = True
    """Whether the requester has noticed these conditions, so that it expects what the simulator says of them."""


def conditions(scenario: Scenario, mbps: dict[str, float], slowdown: dict[str, float]) -> Scenario:
    """A scenario where some links and devices are otherwise."""
    usual = Conditions.of(scenario)
    names = scenario.provider_names
    rates = np.array([mbps.get(n, float(r)) for n, r in zip(names, usual.mbps, strict=True)])
    return Conditions(rates, np.array([slowdown.get(n, 1.0) for n in names]), usual.io_ms).applied(scenario)


def spans(timeline: Timeline, volumes: int) -> tuple[Span, ...]:
    """What each node does for a frame, as the page shows it."""
    found = [
        Span(node=t.sender, kind="send", volume=t.volume, start_ms=t.start_ms, stop_ms=t.sent_ms)
        for t in timeline.transfers
    ]
    for work in timeline.work:
        times = [("receive", work.called_ms, work.arrived_ms), ("compute", work.start_ms, work.stop_ms)]
        times.append(("wait", work.start_ms - work.wait_ms, work.start_ms))
        for kind, start, stop in times:
            if stop > start:
                data = {"node": work.provider, "kind": kind, "volume": work.volume}
                found.append(Span.model_validate({**data, "start_ms": start, "stop_ms": stop}))
    result = [t for t in timeline.transfers if t.volume == volumes + 1]
    start = min((t.start_ms for t in result), default=timeline.latency_ms)
    found.append(Span(node=REQUESTER, kind="receive", volume=volumes + 1, start_ms=start, stop_ms=timeline.latency_ms))
    return tuple(found)


def frame(bound: BoundPlan, scenario: Scenario, number: int, epoch: int) -> FrameSpans:
    """A frame by the simulator."""
    timeline = trace(bound, scenario)
    return FrameSpans(
        frame=number, epoch=epoch, latency_ms=timeline.latency_ms, spans=spans(timeline, len(bound.volumes))
    )


def volume_views(bound: BoundPlan, timeline: Timeline) -> tuple[VolumeView, ...]:
    """The split."""
    halo = {(w.volume, w.provider): w.redundant_rows for w in timeline.work}
    return tuple(
        VolumeView(
            layers=(item.layers[0], item.layers[-1]),
            height=item.cuts[-1],
            parts=tuple(
                PartView(provider=name, rows=(item.cuts[i], item.cuts[i + 1]), halo_rows=halo.get((v, name), 0))
                for i, name in enumerate(bound.plan.providers)
            ),
        )
        for v, item in enumerate(bound.plan.volumes)
    )


def node_views(plan: Plan, bound: BoundPlan, usual: Scenario, now: Scenario) -> tuple[NodeView, ...]:
    """The star, under the conditions of `now`."""
    compute = trace(bound, now).prediction().compute_ms
    weights = {name: 0.0 for name in usual.provider_names}
    operations = [sum(layer.height for layer in volume.layers) for volume in bound.volumes]
    for item, weight in zip(plan.volumes, operations, strict=True):
        for i, name in enumerate(plan.providers):
            weights[name] += weight * (item.cuts[i + 1] - item.cuts[i]) / item.cuts[-1]
    found = [
        NodeView(
            node=REQUESTER, profile=None, present=True, health=None, scenario_mbps=usual.requester.bandwidth_mbps,
            mbps=None, slowdown=1.0, rows_share=0.0, predicted_compute_ms=0.0,
        )
    ]  # fmt: skip
    for before, after in zip(usual.providers, now.providers, strict=True):
        found.append(
            NodeView(
                node=before.name, profile=before.profile, present=True, health="up",
                scenario_mbps=before.bandwidth_mbps, mbps=after.bandwidth_mbps,
                slowdown=after.slowdown / before.slowdown, rows_share=weights[before.name] / sum(operations),
                predicted_compute_ms=compute.get(before.name, 0.0),
            )
        )  # fmt: skip
    return tuple(found)


def points(chapters: Sequence[Chapter], graph: LayerGraph, length_s: int, rng: np.random.Generator) -> list[Point]:
    """The history, a point a second."""
    found: list[Point] = []
    for second in range(length_s):
        chapter = [c for c in chapters if c.from_s <= second][-1]
        exact = latency(chapter.plan, graph, chapter.scenario)
        p50 = exact * float(1.0 + 0.012 * rng.standard_normal())
        p90 = p50 * float(1.04 + 0.03 * rng.random())
        expected = exact if chapter.known else found[-1].expected_ms
        point = Point(
            at_s=BEGIN_S + second, p50=p50, p90=p90, ips=1000.0 / p50, expected_ms=expected, epoch=chapter.epoch
        )
        found.append(point)
    return found


def latency(plan: Plan, graph: LayerGraph, scenario: Scenario) -> float:
    """What the simulator says of a plan under a scenario, in ms."""
    return trace(plan.bind(graph), scenario).latency_ms


@lru_cache(1)
def _plans() -> tuple[LayerGraph, Scenario, Scenario, Plan, Plan, tuple[MethodView, ...], tuple[TrainingPoint, ...]]:
    """What takes seconds to make: plans for the usual conditions and for those after the drift, the comparison."""
    graph, usual = load_model("vgg16"), load_scenario("homogeneous-200")
    drifted = conditions(usual, {"nano-1": 50.0, "nano-0": 244.0}, {"nano-3": 1.4})
    found: list[tuple[float, float]] = []
    first = api.plan(graph, usual, "search", budget_s=SEARCH_S)
    second = api.plan(
        graph, drifted, "search", budget_s=SEARCH_S, progress=lambda share, ms: found.append((share * SEARCH_S, ms))
    )
    methods = {name: latency(api.plan(graph, drifted, name), graph, drifted) for name in METHODS}
    methods["search"] = latency(second, graph, drifted)
    compared = tuple(MethodView(method=name, latency_ms=ms) for name, ms in methods.items())
    found.insert(0, (0.0, latency(first, graph, drifted)))
    curve = tuple(TrainingPoint(seconds=s, latency_ms=ms) for s, ms in found if np.isfinite(ms))
    return graph, usual, drifted, first, second, compared, curve


def _events(first: Plan, before_ms: float, after_ms: float) -> tuple[Event, ...]:
    told = [
        (0, "stream_opened", None, "camera-0 serves vgg16 on homogeneous-200"),
        (0, "plan_in_force", None, f"the first plan: {first.method}"),
        (42, "pinned", None, "measuring power, please leave the plan as it is"),
        (71, "unpinned", None, "measured"),
        (118, "drift_seen", "nano-3", "compute of nano-3 takes 1.4 times as long as its profile says"),
        (120, "drift_seen", "nano-1", "the link of nano-1 fell from 200 to 50.0 Mbit/s"),
        (121, "large_drift", None, "conditions are far from those that the plan was made for: nano-1 at 25 %"),
        (121, "replan_started", None, "LC-PSS and a search under the measured conditions"),
        (126, "plan_ordered", None, f"{after_ms:.1f} ms instead of {before_ms:.1f} ms, more than its cost"),
        (127, "plan_in_force", None, "ordered by the controller"),
        (178, "operator_rolled_back", None, "trying whether the old plan is really worse"),
        (192, "plan_rolled_back", None, "reality disagrees: the plan before was faster under the same conditions"),
        (205, "replan_started", None, "the link of nano-0 rose to 244 Mbit/s"),
        (209, "plan_kept", None, "the best plan found is 1.2 % faster: not more than its cost"),
    ]
    return tuple(
        Event(id=k + 1, at_s=BEGIN_S + at, kind=kind, stream=STREAM, node=node, reason=reason, data={})
        for k, (at, kind, node, reason) in enumerate(told)
    )


def full_story(seed: int = 0) -> tuple[Overview, tuple[StreamView, ...]]:
    """Four devices and two streams, four minutes after the beginning."""
    rng = np.random.default_rng(seed)
    graph, usual, drifted, first, second, methods, training = _plans()
    chapters = (
        Chapter(0, first, usual, 1, first.method),
        Chapter(117, first, drifted, 1, first.method, known=False),
        Chapter(120, first, drifted, 1, first.method),
        Chapter(127, second, drifted, 2, second.method),
        Chapter(178, first, drifted, 3, first.method),
        Chapter(192, second, drifted, 4, second.method),
    )
    history = tuple(points(chapters, graph, 240, rng))
    bound = second.bind(graph)
    measured = conditions(drifted, {"nano-1": 43.0}, {"nano-0": 1.12, "nano-2": 1.04})
    view = StreamView(
        summary=_summary(second, history, 4),
        nodes=node_views(second, bound, usual, drifted),
        volumes=volume_views(bound, trace(bound, drifted)),
        predicted=frame(bound, drifted, 3411, 4),
        measured=frame(bound, measured, 3411, 4),
        history=history,
        events=_events(first, latency(first, graph, drifted), latency(second, graph, drifted)),
        methods=methods,
        methods_at_s=BEGIN_S + 209,
        training=training,
        can_roll_back=True,
    )
    views = (view, bare_view(first, graph, usual))
    now_s = history[-1].at_s
    return Overview(
        now_s=now_s, version=VERSION, role="operator", devices=_devices(usual, now_s),
        streams=tuple(v.summary for v in views),
    ), views  # fmt: skip


def bare_view(plan: Plan, graph: LayerGraph, scenario: Scenario) -> StreamView:
    """A stream that has just been opened: no frame yet, no policy, nothing compared."""
    bound = plan.bind(graph)
    summary = _summary(plan, (), 1).model_copy(
        update={"stream": "camera-1-2", "requester": "camera-1", "latency": None}
    )
    return StreamView(
        summary=summary, nodes=node_views(plan, bound, scenario, scenario),
        volumes=volume_views(bound, trace(bound, scenario)), predicted=frame(bound, scenario, 0, 1), measured=None,
        history=(), events=(), methods=(), methods_at_s=None, training=(), can_roll_back=False,
    )  # fmt: skip


def _latencies(history: Sequence[Point]) -> Latencies | None:
    last = history[-1] if history else None
    if last is None or last.p50 is None or last.p90 is None:
        return None
    return Latencies(frames=round(last.ips), p50=last.p50, p90=last.p90, p99=last.p90 * 1.03, ips=last.ips)


def _summary(plan: Plan, history: Sequence[Point], epoch: int) -> StreamSummary:
    expected = history[-1].expected_ms if history else plan.predicted.latency_ms if plan.predicted else None
    return StreamSummary(
        stream=STREAM, requester="camera-0", model=plan.model.name, scenario=plan.scenario, live=True,
        opened_s=BEGIN_S, heard_s=BEGIN_S + 239.0, epoch=epoch,
        orders=Orders(version=3) if history else Orders(), plan_sha256=plan_sha256(plan), method=plan.method,
        latency=_latencies(history), expected_ms=expected,
    )  # fmt: skip


def _devices(scenario: Scenario, now_s: float) -> tuple[DeviceView, ...]:
    return tuple(
        DeviceView(
            name=p.name,
            registration=Registration(
                address=f"192.0.2.{k + 10}:5571", profile=p.profile, memory_mb=p.memory_mb, protocol=4,
                version=VERSION, platform="Linux aarch64, JetPack 5.1",
            ),
            health="up", heard_s=now_s - 0.4, serving=True, memory_free_mb=(p.memory_mb or 4000.0) * 0.6,
        )
        for k, p in enumerate(scenario.providers)
    )  # fmt: skip


def tick(view: StreamView, now_s: float) -> StreamView:
    """A second later: a point more, if frames come at all."""
    summary = view.summary.model_copy(update={"heard_s": now_s - 0.2})
    if not view.history:
        return view.model_copy(update={"summary": summary})
    last = view.history[-1]
    exact = last.expected_ms or 100.0
    rng = np.random.default_rng(int(now_s))
    p50 = exact * float(1.0 + 0.012 * rng.standard_normal())
    changes = {"at_s": now_s, "p50": p50, "p90": p50 * float(1.04 + 0.03 * rng.random()), "ips": 1000.0 / p50}
    history = (*view.history[-599:], last.model_copy(update=changes))
    summary = summary.model_copy(update={"latency": _latencies(history)})
    return view.model_copy(update={"summary": summary, "history": history})
