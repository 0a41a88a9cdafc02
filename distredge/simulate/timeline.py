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
from distredge.model.graph import IMAGE
from distredge.plans.plan import BoundPlan, Prediction
from distredge.profiles.network import QUANTUM_BYTES, TIE_MS, ms_per_byte
from distredge.scenario import REQUESTER, Io, Scenario
from distredge.simulate.costs import VolumeCosts


@dataclass(frozen=True)
class Transfer:
    """Rows on their way to the provider that needs them for `volume`.

    `volume` is the number of volumes for the head, one more for the requester. `rows` are those of the last of the
    tensors that travel together.

    The sender's uplink is busy from `start_ms` to `sent_ms`; before that the rows were read out of its memory.
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

    Its first row left a sender at `called_ms`, all rows were in its memory at `arrived_ms` (both equal to `start_ms` if
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
    """A device while a frame passes: when it is done with its last part, has read a message, and its links are free."""

    name: str
    per_byte: float
    io: Io
    done: float = 0.0
    read: float = 0.0
    uplink_free: float = 0.0
    downlink_free: float = 0.0


@dataclass
class _Run:
    """One pass of a frame."""

    nodes: dict[str, _Node]
    transfers: list[Transfer] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def send(self, volume: int, sender: str, receiver: str, rows: Interval, payload_bytes: float) -> Transfer:
        """Read a message, after the one before it, and queue it on the sender's uplink."""
        node = self.nodes[sender]
        node.read += node.io.reading_ms(payload_bytes)
        start = max(node.read, node.uplink_free)
        node.uplink_free = start + payload_bytes * node.per_byte
        message = Transfer(volume, sender, receiver, rows, payload_bytes, start, node.uplink_free)
        self.transfers.append(message)
        return message

    def receive(self, receiver: str, messages: list[Transfer]) -> float:
        """When all the messages are in the receiver's memory.

        They leave a first-come-first-served queue (see `kernel.py`), and are written.
        """
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
        return node.downlink_free + node.io.writing_ms(total)

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
        arrived = self.receive(provider, messages) if messages else self.nodes[provider].done
        self.work.append(self._work(volume, provider, rows, messages, arrived, compute_ms, redundant_rows))
        self.nodes[provider].done = self.work[-1].stop_ms

    def head_work(
        self, volume: int, provider: str, rows: Interval, messages: list[Transfer], arrived: float, head_ms: float
    ) -> Work:
        """The head's work, whose messages are received already."""
        return self._work(volume, provider, rows, messages, arrived, head_ms, 0)

    def _work(
        self,
        volume: int,
        provider: str,
        rows: Interval,
        messages: list[Transfer],
        arrived: float,
        compute_ms: float,
        redundant_rows: int,
    ) -> Work:
        done = self.nodes[provider].done
        start = max(arrived, done)
        return Work(
            volume=volume,
            provider=provider,
            rows=rows,
            called_ms=min((m.start_ms for m in messages), default=start),
            arrived_ms=arrived if messages else start,
            start_ms=start,
            stop_ms=start + compute_ms,
            wait_ms=start - done,
            bytes_in=sum(m.payload_bytes for m in messages),
            redundant_rows=redundant_rows,
        )


def _arrived_by(time: float, message: Transfer, per_byte: float) -> float:
    """Bytes of a message that have passed its sender's uplink by `time`, in whole quanta."""
    if time >= message.sent_ms:
        return message.payload_bytes
    if time <= message.start_ms:
        return 0.0
    return QUANTUM_BYTES * math.floor((time - message.start_ms) * (1.0 / (QUANTUM_BYTES * per_byte)))


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
    run = _Run({n: _Node(n, ms_per_byte(by_name[n].bandwidth_mbps), by_name[n].io) for n in plan.providers})
    run.nodes[REQUESTER] = _Node(REQUESTER, ms_per_byte(scenario.requester_mbps), scenario.requester.io)
    head_ms = float(costs.head_ms[costs.kind_of[id(profiles[plan.head_provider])]])
    exits: dict[str, float] = {}
    for v, volume in enumerate(bound.volumes):
        inbox = _exchange(run, bound, v, unit)
        redundant = _redundant_rows(bound, v)
        for i, name in enumerate(plan.providers):
            rows = bound.owned(v, i)
            if rows.size:
                spent = float(costs.table(volume)[costs.kind_of[id(profiles[name])], rows.start, rows.stop])
                run.compute(v, name, rows, inbox[name], spent, redundant[i])
        _receive_exits(run, inbox, exits)
    return Timeline(_end(run, bound, exits, head_ms, unit), tuple(run.work), tuple(run.transfers))


_HEAD = "head"
"""Stands for the head provider's second box, of what is for the head; no provider needs the name in a box."""


def _exchange(run: _Run, bound: BoundPlan, v: int, unit: int) -> dict[str, list[Transfer]]:
    """Send what each provider needs for volume `v` and another node has, and what volume `v - 1` is left by for good.

    Messages by receiver; those for the head and for the requester stand apart.
    """
    names, volumes = bound.plan.providers, len(bound.volumes)
    inbox: dict[str, list[Transfer]] = {name: [] for name in (*names, _HEAD, REQUESTER)}
    for i, sender in enumerate((*names, REQUESTER)):
        run.nodes[sender].read = run.nodes[sender].done
        for j, receiver in enumerate(names if v < volumes else ()):
            pieces = [(k, _held(bound, k, i).overlap(rows)) for k, rows in bound.needs(v, j).items()]
            _send(run, bound, inbox[receiver], v, sender, receiver, pieces, unit)
        if v > 0 and sender != REQUESTER:
            leaving = bound.volumes[v - 1].leaving
            for box, receiver, wanted in (
                (_HEAD, bound.plan.head_provider, bound.graph.to_head),
                (REQUESTER, REQUESTER, bound.graph.to_requester),
            ):
                pieces = [(k, bound.held(k, i)) for k in leaving if k in wanted]
                _send(run, bound, inbox[box], volumes if box == _HEAD else volumes + 1, sender, receiver, pieces, unit)
    return inbox


def _held(bound: BoundPlan, layer: int, node: int) -> Interval:
    """Rows that a node owns of a tensor; the requester, which is the last node, has the image."""
    if layer == IMAGE or node == len(bound.plan.providers):
        mine = layer == IMAGE and node == len(bound.plan.providers)
        return Interval(0, bound.graph.image[1] if mine else 0)
    return bound.held(layer, node)


def _send(
    run: _Run,
    bound: BoundPlan,
    box: list[Transfer],
    volume: int,
    sender: str,
    receiver: str,
    pieces: list[tuple[int, Interval]],
    unit: int,
) -> None:
    """Send rows of some tensors as one message, if there are any and they are for another node."""
    pieces = [(k, rows) for k, rows in pieces if rows.size]
    if pieces and sender != receiver:
        size = sum(rows.size * bound.graph.row_elements(k) for k, rows in pieces) * unit
        box.append(run.send(volume, sender, receiver, pieces[-1][1], size))


def _receive_exits(run: _Run, inbox: dict[str, list[Transfer]], exits: dict[str, float]) -> None:
    """Note when what left for good is all there."""
    for box in (_HEAD, REQUESTER):
        if inbox[box]:
            exits[box] = max(exits.get(box, 0.0), run.receive(inbox[box][0].receiver, inbox[box]))


def _end(run: _Run, bound: BoundPlan, exits: dict[str, float], head_ms: float, unit: int) -> float:
    """Send what the last volume is left by, run the head, return its result; gives the frame's latency."""
    plan, graph, volumes = bound.plan, bound.graph, len(bound.volumes)
    before = [t for t in run.transfers if t.volume == volumes]
    inbox = _exchange(run, bound, volumes, unit)
    _receive_exits(run, inbox, exits)
    if not graph.head.nodes:
        return exits[REQUESTER]
    node = run.nodes[plan.head_provider]
    arrived = exits.get(_HEAD, node.done)
    rows = Interval(0, bound.volumes[-1].height)
    run.work.append(run.head_work(volumes, plan.head_provider, rows, [*before, *inbox[_HEAD]], arrived, head_ms))
    node.done = node.read = max(arrived, node.done) + head_ms
    result = run.send(volumes + 1, plan.head_provider, REQUESTER, Interval(0, 1), graph.head.result_elements * unit)
    return max(exits.get(REQUESTER, 0.0), run.receive(REQUESTER, [result]))


def _redundant_rows(bound: BoundPlan, v: int) -> list[int]:
    """Per provider, rows of a volume's inner layers that it computes although an earlier part computes them too."""
    reached = [0] * len(bound.volumes[v].layers)
    counts: list[int] = []
    for i in range(len(bound.plan.providers)):
        part, count = bound.part(v, i), 0
        if part:
            for k, rows in enumerate(part.rows):
                count += max(0, min(reached[k], rows.stop) - rows.start)
                reached[k] = max(reached[k], rows.stop)
        counts.append(count)
    return counts
