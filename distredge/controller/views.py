"""What the page and `GET` show, made of what is known. Pure: all that is needed is given."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from distredge.control.schema import (
    MAX_ITEMS,
    DeviceView,
    Event,
    FrameSpans,
    Health,
    MethodView,
    NodeView,
    PartView,
    Point,
    Span,
    StreamSummary,
    StreamView,
    TrainingPoint,
    VolumeView,
)
from distredge.controller.decide import DOWN_S, LATE_S, heard_of_device, heard_of_stream
from distredge.controller.measured import Measured
from distredge.controller.state import DeviceState, InForce, Seen, State, StreamState
from distredge.model.graph import LayerGraph
from distredge.plans.nodes import REQUESTER
from distredge.plans.plan import BoundPlan, Plan
from distredge.simulate.timeline import Timeline


@dataclass(frozen=True)
class Predicted:
    """A plan in force with its model's geometry, and what a frame takes under it as things are now."""

    bound: BoundPlan
    timeline: Timeline


def device_view(device: DeviceState, seen: Seen, now_s: float) -> DeviceView:
    """A provider; after the controller's restart it is late until it has been heard of."""
    heard = seen.devices.get(device.name)
    beat = heard.beat if heard else None
    return DeviceView(
        name=device.name,
        registration=device.registration,
        health=_health(device, seen, now_s),
        heard_s=heard_of_device(device, seen),
        serving=beat is not None and beat.serving,
        memory_free_mb=beat.memory_free_mb if beat else None,
    )


def _health(device: DeviceState, seen: Seen, now_s: float) -> Health:
    if device.lost_s is not None:
        return "down"
    return "late" if now_s - heard_of_device(device, seen) > LATE_S else "up"


def summary(stream: StreamState, plan: Plan | None, seen: Seen, now_s: float) -> StreamSummary:
    """A stream in a list; `plan` is the one in force, None if it is not known here."""
    latest, heard_s = seen.streams.get(stream.stream), heard_of_stream(stream, seen)
    return StreamSummary(
        stream=stream.stream,
        requester=stream.requester,
        model=stream.model,
        scenario=stream.scenario.name,
        live=stream.open and stream.silent_s is None and now_s - heard_s <= DOWN_S,
        opened_s=stream.opened_s,
        heard_s=heard_s,
        epoch=stream.current.epoch,
        orders=stream.orders,
        plan_sha256=stream.current.plan_sha256,
        method=plan.method if plan else "unknown",
        latency=latest.telemetry.latency if latest else None,
        expected_ms=latest.telemetry.expected_ms if latest else None,
    )


def back(stream: StreamState) -> InForce | None:
    """The plan to roll back to: the newest before the one in force that was not rolled back itself."""
    avoided = {stream.current.plan_sha256, *(r.plan_sha256 for r in stream.refused)}
    return next((old for old in reversed(stream.history) if old.plan_sha256 not in avoided), None)


def measured_now(stream: StreamState, seen: Seen) -> Measured:
    """Conditions of a stream as they were told last; as the scenario says if they never were."""
    latest = seen.streams.get(stream.stream)
    return latest.measured if latest else Measured.of(stream.scenario)


def stream_view(
    stream: StreamState,
    state: State,
    seen: Seen,
    now_s: float,
    plan: Plan | None,
    predicted: Predicted | None,
    history: tuple[Point, ...],
    events: tuple[Event, ...],
) -> StreamView:
    """All of a stream."""
    latest, found = seen.streams.get(stream.stream), stream.last_replan
    spans = predicted_spans(predicted, stream.current.epoch) if predicted else None
    return StreamView(
        summary=summary(stream, plan, seen, now_s),
        nodes=nodes(stream, state, seen, now_s, plan, predicted),
        volumes=volumes(plan, predicted) if plan else (),
        predicted=spans,
        measured=latest.timeline if latest else None,
        history=history,
        events=events,
        methods=tuple(
            MethodView(method=m, latency_ms=ms) for m, ms in sorted(found.methods.items(), key=lambda x: x[1])
        )
        if found
        else (),
        methods_at_s=found.at_s if found else None,
        training=tuple(TrainingPoint(seconds=s, latency_ms=ms) for s, ms in found.training) if found else (),
        can_roll_back=stream.open and back(stream) is not None,
    )


def nodes(
    stream: StreamState, state: State, seen: Seen, now_s: float, plan: Plan | None, predicted: Predicted | None
) -> tuple[NodeView, ...]:
    """The requester, then the providers in the scenario's order."""
    now, scenario = measured_now(stream, seen), stream.scenario
    shares = rows_shares(plan, predicted.bound.graph if predicted else None) if plan else {}
    compute: dict[str, float] = defaultdict(float)
    for work in predicted.timeline.work if predicted else ():
        compute[work.provider] += work.compute_ms
    usual = scenario.requester.bandwidth_mbps
    alive = stream.open and stream.silent_s is None
    requester = NodeView(
        node=REQUESTER,
        profile=None,
        present=alive,
        health=None,
        scenario_mbps=usual,
        mbps=now.mbps.get(REQUESTER, usual),
        slowdown=1.0,
        rows_share=0.0,
        predicted_compute_ms=0.0,
    )
    return (
        requester,
        *(
            NodeView(
                node=p.name,
                profile=p.profile,
                present=p.name in now.present,
                health=_health(state.devices[p.name], seen, now_s) if p.name in state.devices else None,
                scenario_mbps=p.bandwidth_mbps,
                mbps=now.mbps.get(p.name, p.bandwidth_mbps),
                slowdown=now.slowdown.get(p.name, 1.0),
                rows_share=shares.get(p.name, 0.0),
                predicted_compute_ms=compute[p.name],
            )
            for p in scenario.providers
        ),
    )


def rows_shares(plan: Plan, graph: LayerGraph | None) -> Mapping[str, float]:
    """Each provider's share of the rows of all volumes, weighed by their operations (all alike without the model)."""
    macs = {layer.name: float(layer.macs) for layer in graph.layers} if graph else {}
    weights = [sum(macs.get(name, 0.0) for name in v.layers) if graph else 1.0 for v in plan.volumes]
    whole = math.fsum(weights) or 1.0
    return {
        name: math.fsum(
            w * (v.cuts[i + 1] - v.cuts[i]) / v.cuts[-1] for v, w in zip(plan.volumes, weights, strict=True)
        )
        / whole
        for i, name in enumerate(plan.providers)
    }


def volumes(plan: Plan, predicted: Predicted | None) -> tuple[VolumeView, ...]:
    """How each volume is split; halo rows are known with the model only."""
    halo = {(w.volume, w.provider): w.redundant_rows for w in predicted.timeline.work} if predicted else {}
    return tuple(
        VolumeView(
            layers=(volume.layers[0], volume.layers[-1]),
            height=volume.cuts[-1],
            parts=tuple(
                PartView(
                    provider=name,
                    rows=(volume.cuts[i], volume.cuts[i + 1]),
                    halo_rows=halo.get((v, name), 0),
                )
                for i, name in enumerate(plan.providers)
            ),
        )
        for v, volume in enumerate(plan.volumes)
    )


def predicted_spans(predicted: Predicted, epoch: int) -> FrameSpans:
    """The simulator's timeline in the form of a measured one."""
    spans = [
        Span(node=t.sender, kind="send", volume=t.volume, start_ms=t.start_ms, stop_ms=t.sent_ms)
        for t in predicted.timeline.transfers
    ]
    for work in predicted.timeline.work:
        if work.bytes_in:
            spans.append(_span(work.provider, "receive", work.volume, work.called_ms, work.arrived_ms))
        spans.append(_span(work.provider, "compute", work.volume, work.start_ms, work.stop_ms))
    spans.sort(key=lambda span: span.start_ms)
    return FrameSpans(
        frame=0, epoch=epoch, latency_ms=predicted.timeline.latency_ms, spans=tuple(spans[: 4 * MAX_ITEMS])
    )


def _span(node: str, kind: str, volume: int, start_ms: float, stop_ms: float) -> Span:
    return Span.model_validate({"node": node, "kind": kind, "volume": volume, "start_ms": start_ms, "stop_ms": stop_ms})
