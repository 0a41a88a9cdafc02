"""Made-up traces for tests: a predicted frame, played again with delays in known places, on clocks that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distredge.plans.plan import BoundPlan
from distredge.runtime.conductor import EpochBegun
from distredge.runtime.frame_view import FrameView, Part, predicted_view
from distredge.runtime.message import Stamps
from distredge.runtime.trace_file import Trace
from distredge.runtime.trace_gathering import Gathering
from distredge.runtime.tracing import Recorder
from distredge.scenario import REQUESTER, Scenario

Place = tuple[str, str, str, int]
"""A cause (`compute`, `link`, `wait`), the node, the peer of a link, the volume."""


def places(view: FrameView) -> list[Place]:
    """Where a frame can be held up."""
    parts = [(cause, p.node, "", p.volume) for p in view.parts for cause in ("compute", "wait")]
    return parts + sorted({("link", d.sender, d.receiver, d.volume) for d in view.deliveries})


@dataclass
class OddClock:
    """A clock that is ahead by `ahead_s` when this node's shows 0, and `drift` faster."""

    ahead_s: float = 0.0
    drift: float = 0.0

    def shows(self, at_s: float) -> float:
        """What it shows when this node's clock shows `at_s`."""
        return float(at_s * (1.0 + self.drift) + self.ahead_s)


@dataclass
class Replay:
    """Frames one after the other as predicted, but for `delays_ms` by frame and place."""

    bound: BoundPlan
    scenario: Scenario
    clocks: Mapping[str, OddClock] = field(default_factory=dict)
    zero_s: float = 1000.0

    def __post_init__(self) -> None:
        self.view = predicted_view(self.bound, self.scenario)
        self.nodes = (REQUESTER, *self.bound.plan.providers)
        self.recorders = {name: Recorder() for name in self.nodes}
        for recorder in self.recorders.values():
            recorder.start()

    def trace(self, frames: Sequence[Mapping[Place, float]], rng: np.random.Generator, rtt_s: float = 2e-4) -> Trace:
        """The trace of these frames, the first of which warms up; pulses take from `rtt_s` on, one way or the other."""
        at_s = self.zero_s
        for frame, delays_ms in enumerate(frames):
            at_s += self.play(frame, at_s, delays_ms) / 1000.0 + 0.001
        gathering = Gathering()
        for name in self.nodes[1:]:
            self._pulses(gathering, name, at_s, rng, rtt_s)
            recorder = self.recorders[name]
            while batch := recorder.take():
                gathering.took(name, batch, recorder.dropped)
        begun = EpochBegun(1, self.bound, "the first plan", self.zero_s, 0)
        own = self.recorders[REQUESTER]
        return gathering.trace(own, [begun], self.scenario, "float16", self.scenario.element_bytes, 1)

    def _pulses(self, gathering: Gathering, name: str, end_s: float, rng: np.random.Generator, rtt_s: float) -> None:
        clock = self.clocks.get(name, OddClock())
        for sent_s in np.arange(self.zero_s - 0.5, end_s + 0.5, 0.1):
            there_s, back_s = rtt_s / 2.0 + rng.exponential(rtt_s, 2) * (rng.random(2) < 0.5)
            answered_s = sent_s + there_s + rng.uniform(0.0, 0.1)
            stamps = Stamps(float(sent_s), clock.shows(sent_s + there_s), clock.shows(answered_s))
            gathering.answered(name, stamps, float(answered_s + back_s))

    def play(self, frame: int, at_s: float, delays_ms: Mapping[Place, float]) -> float:
        """Note what happens to a frame that begins at `at_s`; gives its latency in ms."""
        view, head = self.view, len(self.bound.volumes)
        stopped: dict[Part | None, float] = {None: 0.0}
        arrived: dict[tuple[str, int, str], list[float]] = {}
        self._deliver(frame, at_s, None, 0.0, arrived, delays_ms)
        for part in sorted(view.parts, key=lambda p: p.volume):
            before = view.before(part)
            came = max((max(t) for (n, v, _), t in arrived.items() if (n, v) == (part.node, part.volume)), default=0.0)
            planned = view.by_receiver.get((part.node, part.volume), ())
            here_ms = max(came, stopped[before])
            idle_ms = part.start_ms - max(planned[-1].arrived_ms if planned else 0.0, before.stop_ms if before else 0.0)
            start_ms = here_ms + idle_ms + delays_ms.get(("wait", part.node, "", part.volume), 0.0)
            stop_ms = start_ms + part.compute_ms + delays_ms.get(("compute", part.node, "", part.volume), 0.0)
            self._receive(frame, at_s, part.node, part.volume, arrived)
            self._note(part.node, "wait", frame, part.volume, at_s, here_ms, start_ms)
            kind = "head" if part.volume == head else "compute"
            self._note(part.node, kind, frame, part.volume, at_s, start_ms, stop_ms)
            stopped[part] = stop_ms
            self._deliver(frame, at_s, part, stop_ms, arrived, delays_ms)
        last_ms = max(max(t) for (n, _, _), t in arrived.items() if n == REQUESTER)
        self._receive(frame, at_s, REQUESTER, head + 1, arrived)
        latency_ms = last_ms + view.latency_ms - view.by_receiver[REQUESTER, head + 1][-1].arrived_ms
        self.recorders[REQUESTER].result(1, frame, at_s, at_s + latency_ms / 1000.0)
        return latency_ms

    def _deliver(
        self,
        frame: int,
        at_s: float,
        source: Part | None,
        ready_ms: float,
        arrived: dict[tuple[str, int, str], list[float]],
        delays_ms: Mapping[Place, float],
    ) -> None:
        """Send what a part made, each message as long on its way as predicted."""
        begun_ms = source.stop_ms if source else 0.0
        for d in self.view.deliveries:
            if self.view.source(d) != source or (source is None and d.sender != REQUESTER):
                continue
            is_last = d == self.view.delivery(d.sender, d.receiver, d.volume)
            late_ms = delays_ms.get(("link", d.sender, d.receiver, d.volume), 0.0) if is_last else 0.0
            sent_ms = ready_ms + d.sent_ms - begun_ms
            here = arrived.setdefault((d.receiver, d.volume, d.sender), [])
            here.append(ready_ms + d.arrived_ms - begun_ms + late_ms)
            self._note(d.sender, "send", frame, d.volume, at_s, ready_ms, sent_ms, d.receiver, int(d.payload_bytes))

    def _receive(
        self, frame: int, at_s: float, node: str, volume: int, arrived: Mapping[tuple[str, int, str], list[float]]
    ) -> None:
        for (receiver, v, sender), times in arrived.items():
            if (receiver, v) == (node, volume):
                for ms in sorted([min(times) - 1e-3, *times]):
                    here_s = self._clock(node).shows(at_s + ms / 1000.0)
                    self.recorders[node].received(1, frame, volume, sender, here_s, 100)
        if node != REQUESTER:
            self.recorders[node].all_received(1, frame, volume)

    def _clock(self, node: str) -> OddClock:
        return self.clocks.get(node, OddClock())

    def _note(
        self, node: str, kind: str, frame: int, volume: int, at_s: float, start_ms: float, stop_ms: float,
        peer: str = "", payload_bytes: int = 0,
    ) -> None:  # fmt: skip
        show = self._clock(node).shows
        start_s, stop_s = show(at_s + start_ms / 1000.0), show(at_s + stop_ms / 1000.0)
        self.recorders[node].add(kind, 1, frame, volume, start_s, stop_s, peer, payload_bytes)  # type: ignore[arg-type]
