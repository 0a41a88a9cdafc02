"""One plan, explained: the reference simulator, plain and slow, that says when everything happens.

It follows the same model as `kernel.py` (see there) by objects and names instead of arrays; a property test holds
the two equal. The runtime is measured against what it says.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from distredge.errors import PlanError
from distredge.geometry.interval import Interval
from distredge.plans.plan import BoundPlan, Prediction
from distredge.profiles.network import MESSAGE_MS, QUANTUM_BYTES, TIE_MS, ms_per_byte
from distredge.scenario import REQUESTER, Scenario
from distredge.simulate.costs import VolumeCosts


@dataclass(frozen=True)
class Transfer:
    """Rows on their way to the provider that needs them for `volume`.

    `volume` is the number of volumes for the head, one more for the result.

    The sender's uplink is busy from `start_ms` to `sent_ms`.
    """

    volume: int
    sender: str
    receiver: str
    rows: Interval
    payload_bytes: float
    start_ms: float
    sent_ms: float


@dataclass(frozen=True)
class Work:
    """A provider's part in a volume (or, for volume = number of volumes, the head).

    Its first row left a sender at `called_ms`, all rows were there at `arrived_ms` (both equal to `start_ms` if
    nothing came over the network), it was computed from `start_ms` to `stop_ms` after idling for `wait_ms`.
    `redundant_rows` are rows of inner layers that another provider computes as well.
    """

    volume: int
    provider: str
    rows: Interval
    called_ms: float
    arrived_ms: float
    start_ms: float
    stop_ms: float
    wait_ms: float
    bytes_in: float
    redundant_rows: int

    @property
    def receive_ms(self) -> float:
        """From the moment the first row set out until the last was there."""
        return self.arrived_ms - self.called_ms

    @property
    def compute_ms(self) -> float:
        """Time to compute the part."""
        return self.stop_ms - self.start_ms


@dataclass(frozen=True)
class Timeline:
    """All that happens to one frame; times in ms from the moment the requester begins to send."""

    latency_ms: float
    work: tuple[Work, ...]
    transfers: tuple[Transfer, ...]

    def prediction(self) -> Prediction:
        """The summary that a plan carries."""
        compute: dict[str, float] = defaultdict(float)
        transfer: dict[str, float] = defaultdict(float)
        for item in self.work:
            compute[item.provider] += item.compute_ms
            transfer[item.provider] += item.receive_ms
        return Prediction(
            latency_ms=self.latency_ms,
            ips=1000.0 / self.latency_ms,
            compute_ms=dict(compute),
            transfer_ms=dict(transfer),
        )


@dataclass
class _Node:
    """A device while a frame passes: when it is done with its last part, and when its links are free."""

    name: str
    per_byte: float
    done: float = 0.0
    uplink_free: float = 0.0
    downlink_free: float = 0.0


@dataclass
class _Run:
    """One pass of a frame."""

    nodes: dict[str, _Node]
    transfers: list[Transfer] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def send(self, volume: int, sender: str, receiver: str, rows: Interval, payload_bytes: float) -> Transfer:
        """Queue a message on the sender's uplink."""
        node = self.nodes[sender]
        start = max(node.done, node.uplink_free)
        node.uplink_free = start + payload_bytes * node.per_byte
        message = Transfer(volume, sender, receiver, rows, payload_bytes, start, node.uplink_free)
        self.transfers.append(message)
        return message

    def receive(self, receiver: str, messages: list[Transfer]) -> float:
        """When the receiver holds all the messages: the exit of a first-come-first-served queue (see `kernel.py`)."""
        node = self.nodes[receiver]
        down = node.per_byte
        total = sum(m.payload_bytes for m in messages)
        exits = [node.downlink_free + total * down]
        for k, m in enumerate(messages):
            quantum = min(QUANTUM_BYTES, m.payload_bytes)
            came = m.start_ms + quantum * self.nodes[m.sender].per_byte
            exits.append(m.sent_ms + quantum * down)
            if came > node.downlink_free:
                before = sum(
                    _arrived_by(came + math.copysign(TIE_MS, k - i), other, self.nodes[other.sender].per_byte)
                    for i, other in enumerate(messages)
                    if i != k
                )
                exits.append(came + (total - before) * down)
        node.downlink_free = max(exits)
        return node.downlink_free + MESSAGE_MS

    def compute(
        self,
        volume: int,
        provider: str,
        rows: Interval,
        messages: list[Transfer],
        compute_ms: float,
        redundant_rows: int,
    ) -> None:
        """Wait for the messages and for the provider's last part, then compute."""
        node = self.nodes[provider]
        arrived = self.receive(provider, messages) if messages else node.done
        start = max(arrived, node.done)
        called = min((m.start_ms for m in messages), default=start)
        self.work.append(
            Work(
                volume=volume,
                provider=provider,
                rows=rows,
                called_ms=called,
                arrived_ms=arrived if messages else start,
                start_ms=start,
                stop_ms=start + compute_ms,
                wait_ms=start - node.done,
                bytes_in=sum(m.payload_bytes for m in messages),
                redundant_rows=redundant_rows,
            )
        )
        node.done = start + compute_ms


def _arrived_by(time: float, message: Transfer, per_byte: float) -> float:
    """Bytes of a message that have passed its sender's uplink by `time`, in whole quanta."""
    if time >= message.sent_ms:
        return message.payload_bytes
    if time <= message.start_ms:
        return 0.0
    return QUANTUM_BYTES * math.floor((time - message.start_ms) / (QUANTUM_BYTES * per_byte))


def trace(
    bound: BoundPlan, scenario: Scenario, costs: VolumeCosts | None = None, element_bytes: int | None = None
) -> Timeline:
    """Timeline of one frame under a plan; `element_bytes` replaces the scenario's for another precision on the wire.

    Raises `PlanError` if the plan names a provider that the scenario has not.
    """
    plan, graph = bound.plan, bound.graph
    missing = [name for name in plan.providers if name not in scenario.provider_names]
    if missing:
        raise PlanError(f"the plan's provider '{missing[0]}' is not in scenario '{scenario.name}'")
    by_name = {p.name: p for p in scenario.providers}
    profiles = dict(zip(scenario.provider_names, scenario.profiles, strict=True))
    costs = costs or VolumeCosts(graph, scenario.profiles)
    unit = element_bytes or scenario.element_bytes
    run = _Run({name: _Node(name, ms_per_byte(by_name[name].bandwidth_mbps)) for name in plan.providers})
    run.nodes[REQUESTER] = _Node(REQUESTER, ms_per_byte(scenario.requester_mbps))
    for v, volume in enumerate(bound.volumes):
        row_bytes = graph.input_rows(volume.start)[1] * unit
        inbox = _exchange(run, bound, v, row_bytes)
        redundant = _redundant_rows(bound, v)
        for i, name in enumerate(plan.providers):
            rows = bound.owned(v, i)
            if rows.size:
                spent = float(costs.table(volume)[costs.kind_of[id(profiles[name])], rows.start, rows.stop])
                run.compute(v, name, rows, inbox[name], spent, redundant[i])
    latency = _head(run, bound, float(costs.head_ms[costs.kind_of[id(profiles[plan.head_provider])]]), unit)
    return Timeline(latency, tuple(run.work), tuple(run.transfers))


def _exchange(run: _Run, bound: BoundPlan, v: int, row_bytes: float) -> dict[str, list[Transfer]]:
    """Send what each provider needs for volume `v` and another node has; messages by receiver."""
    names = bound.plan.providers
    inbox: dict[str, list[Transfer]] = {name: [] for name in names}
    needs = [bound.needs(v, j) for j in range(len(names))]
    everything = Interval(0, bound.volumes[0].input_height)
    holders = [(REQUESTER, everything)] if v == 0 else [(n, bound.owned(v - 1, i)) for i, n in enumerate(names)]
    for sender, holds in holders:
        for receiver, wants in zip(names, needs, strict=True):
            rows = holds.overlap(wants)
            if rows.size and sender != receiver:
                inbox[receiver].append(run.send(v, sender, receiver, rows, rows.size * row_bytes))
    return inbox


def _head(run: _Run, bound: BoundPlan, head_ms: float, unit: int) -> float:
    """Gather the last volume at the head provider, run the head, return the result; gives the frame's latency."""
    plan, graph, last = bound.plan, bound.graph, len(bound.volumes)
    row_bytes = graph.layers[-1].row_elements * unit
    gathered = [
        run.send(last, name, plan.head_provider, rows, rows.size * row_bytes)
        for i, name in enumerate(plan.providers)
        if (rows := bound.owned(last - 1, i)).size and name != plan.head_provider
    ]
    run.compute(last, plan.head_provider, Interval(0, bound.volumes[-1].height), gathered, head_ms, 0)
    result = run.send(last + 1, plan.head_provider, REQUESTER, Interval(0, 1), graph.head.out_elements * unit)
    return run.receive(REQUESTER, [result])


def _redundant_rows(bound: BoundPlan, v: int) -> list[int]:
    """Per provider, rows of a volume's inner layers that it computes although an earlier part computes them too."""
    volume = bound.volumes[v]
    reached = [0] * len(volume.layers)
    counts: list[int] = []
    for i in range(len(bound.plan.providers)):
        out, count = bound.owned(v, i), 0
        if out.size:
            for k, rows in enumerate(volume.part(out).rows):
                count += max(0, min(reached[k], rows.stop) - rows.start)
                reached[k] = max(reached[k], rows.stop)
        counts.append(count)
    return counts
