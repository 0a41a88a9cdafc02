"""The service requester: sets providers up for a plan, sends images and takes the results, whatever happens to them."""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.engine.emulated import sleep_until
from distredge.errors import InputError
from distredge.plans.plan import BoundPlan
from distredge.runtime.assembly import MAX_IN_FLIGHT
from distredge.runtime.assignment import assignments
from distredge.runtime.client import Client
from distredge.runtime.conductor import Conductor, EpochBegun, FrameDone, Situation
from distredge.runtime.keys import Keys
from distredge.runtime.link_estimate import Arrivals
from distredge.runtime.message import (
    ELEMENT_BYTES,
    PROTOCOL,
    UNCHANGED,
    Buffer,
    Emulation,
    Heartbeat,
    Message,
    ModelChunk,
    NeedModel,
    Noted,
    Observed,
    Report,
    ResultChunk,
    RowsChunk,
    Setup,
    Stop,
    Wire,
)
from distredge.runtime.outbox import Pace
from distredge.runtime.replan import Better, Improvement, Improver, redistributed
from distredge.runtime.store import ModelStore, described
from distredge.runtime.trace_file import Trace
from distredge.runtime.trace_gathering import Gathering
from distredge.runtime.tracing import RESULT
from distredge.scenario import REQUESTER, Scenario
from distredge.simulate.memory import memory_mb

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameResult:
    """The model's outputs for an image, and the time from its rows' being queued until the last byte was back.

    `epoch` is the plan under which they were computed, `done_s` when by the requester's monotonic clock.
    """

    index: int
    outputs: Mapping[str, npt.NDArray[np.generic]]
    latency_ms: float
    epoch: int = 1
    done_s: float = 0.0


@dataclass(frozen=True)
class Terms:
    """On what terms providers work: precision `wire`, engine `threads`, and links.

    `emulate` says how each node stands in for a board under a plan (None: as when it has no part), if any does;
    `rates_mbps` are real links' rates by node, beyond which nobody sends; `traced` has everything that happens
    recorded.
    """

    wire: Wire = "float32"
    threads: int = 1
    emulate: Callable[[BoundPlan | None], Mapping[str, Emulation]] | None = None
    rates_mbps: Mapping[str, float] = field(default_factory=dict)
    traced: bool = False


class Requester(Client):
    """A session with the providers of a plan; a context manager: entering sets them up, leaving frees them.

    `addresses` gives HOST:PORT of each provider that has something to do, and of others that may step in. For the rest,
    and for what is raised, see `Client`. `improver` finds better plans when the crew has changed; without one the rows
    of those that are lost go to the others.
    """

    def __init__(
        self,
        bound: BoundPlan,
        addresses: Mapping[str, str],
        *,
        keys: Keys | None = None,
        listen: str | None = None,
        terms: Terms = Terms(),
        improver: Improver | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        missing = [name for name in assignments(bound) if name not in addresses]
        if missing:
            raise InputError(
                f"where does provider '{missing[0]}' listen? Say --at {missing[0]}=HOST:PORT,"
                " or give its address in the scenario"
            )
        super().__init__(addresses, keys=keys, listen=listen, check=check)
        self._bound, self._terms = bound, terms
        self._own = self._emulations(bound).get(REQUESTER, UNCHANGED)
        self._arrivals = Arrivals(shaped=terms.emulate is not None)
        self._improvement = Improvement(improver, self._better) if improver else None
        if improver:
            self._expected = improver.expected(bound)
        self.history: list[EpochBegun] = []
        self.gathering = Gathering()
        if terms.traced:
            self._recorder.start()

    def stream(self, images: Iterable[FloatRows], inflight: int = 1) -> Iterator[FrameResult]:
        """The results of float32 images (1, C, H, W), in their order, each exactly once.

        At most `inflight` images are under way; an image is made while the ones before it are.
        """
        if not 1 <= inflight <= MAX_IN_FLIGHT:
            raise InputError(f"inflight must lie between 1 and {MAX_IN_FLIGHT}, not {inflight}")
        first, under_way, shape = None, 0, self._bound.graph.input_shape
        for image in images:
            if image.shape != shape:
                raise InputError(f"an image of the shape {image.shape}: the model takes {shape}")
            if under_way == inflight:
                assert first is not None
                yield self._next_result(first)
                under_way -= 1
            with self._lock:
                frame = self._conductor.submit(image)
            first = frame if first is None else first
            under_way += 1
        for _ in range(under_way):
            assert first is not None
            yield self._next_result(first)

    def finish(self, timeout_s: float = 3.0) -> dict[str, Report]:
        """End the session; the totals of the providers that tell them in time."""
        with self._lock:
            asked = self._conductor.crew.present()
        for name in self._addresses:
            self._outbox.put(name, Stop(self._session, report=name in asked))
        self._finished = True
        reports: dict[str, Report] = {}
        deadline = time.monotonic() + timeout_s
        while len(reports) < len(asked) and time.monotonic() < deadline:
            event = self._event()
            if isinstance(event, Report):
                reports[event.sender] = event
        return reports

    def observed_links(self) -> dict[str, tuple[Observed, ...]]:
        """What each node has seen of the links by which rows come to it, as it last said; changes while a run lasts."""
        seen = {name: member.links for name, member in self._conductor.crew.members.items()}
        return {name: links for name, links in {**seen, REQUESTER: self._arrivals.observed()}.items() if links}

    def trace(self, scenario: Scenario, first_frame: int) -> Trace:
        """All that was noted of the session's frames, `first_frame` the first one that counts; see `Terms.traced`."""
        wire = self._terms.wire
        return self.gathering.trace(self._recorder, self.history, scenario, wire, ELEMENT_BYTES[wire], first_frame)

    # Setting up.

    def _pace(self) -> Pace:
        if self._own.rate_mbps or self._terms.emulate:
            rate = self._own.rate_mbps or float("inf")
            return Pace(rate, {}, emulated=True, read_ms=self._own.read_ms, read_byte_ms=self._own.read_byte_ms)
        rates = dict(self._terms.rates_mbps)
        return Pace(rates.pop(REQUESTER, float("inf")), rates)

    def _begin(self) -> None:
        ModelStore().offer(self._bound.graph)
        self._inbox.shape(self._own.rate_mbps or float("inf"), self._own.uplinks_mbps)
        self._conductor = Conductor(
            self._session,
            self._addresses,
            self._inbox.address,
            self._outbox,
            self._terms.wire,
            self._brief,
            lambda situation: redistributed(self._bound, situation),
            self._tell,
            time.monotonic,
            self._situation_changed,
        )
        self._conductor.begin(self._bound)
        if self._improvement:
            self._conductor.pacemaker.expect(1, self._expected)

    def _wait_until_ready(self) -> None:
        while not self.history:
            event = self._event()
            if isinstance(event, NeedModel):
                self._send_model(event.sender)

    def _brief(self, bound: BoundPlan | None, epoch: int, oldest: int) -> dict[str, Setup]:
        """What each provider is told of a plan."""
        stages = assignments(bound) if bound else {}
        emulations = self._emulations(bound)
        return {
            name: Setup(
                session=self._session,
                epoch=epoch,
                oldest=oldest,
                protocol=PROTOCOL,
                addresses={REQUESTER: self._inbox.address, **self._addresses},
                model_sha256=self._bound.graph.sha256,
                input_shape=self._bound.graph.input_shape,
                outputs=tuple((o.name, o.shape) for o in self._bound.graph.head.outputs if o.layer is None),
                stages=stages.get(name, ()),
                wire=self._terms.wire,
                emulation=emulations.get(name),
                threads=self._terms.threads,
                pace_mbps=self._terms.rates_mbps.get(name),
                memory_mb=memory_mb(bound, name) if bound and name in stages else 0.0,
                traced=self._terms.traced,
            )
            for name in self._addresses
        }

    def _emulations(self, bound: BoundPlan | None) -> Mapping[str, Emulation]:
        return self._terms.emulate(bound) if self._terms.emulate else {}

    def _send_model(self, name: str) -> None:
        """Send the model's files; they are mapped, not read, until their chunks leave."""
        path, files = self._bound.graph.path, described(self._bound.graph.path)
        log.info("sending the model", extra={"peer": name})
        for index, (file, _) in enumerate(files):
            with (path.parent / file).open("rb") as opened:
                content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            chunk = ModelChunk(self._session, self._bound.graph.sha256, files, index, 0)
            self._outbox.put(name, chunk, content)

    # While it lasts.

    def _next_result(self, first: int) -> FrameResult:
        """The next result, its index counted from the frame `first`."""
        while True:
            event = self._event()
            if isinstance(event, FrameDone):
                done_s = event.done_s + sum(self._own.write_ms) / 1000.0
                sleep_until(done_s)
                latency_ms = (done_s - event.started_s) * 1000.0
                return FrameResult(event.frame - first, event.outputs, latency_ms, event.epoch, done_s)
            if isinstance(event, NeedModel):
                self._send_model(event.sender)

    def _tell(self, told: object) -> None:
        if isinstance(told, EpochBegun):
            self.history.append(told)
            log.info("a plan is in force: %s", told.reason, extra={"epoch": told.epoch, "frame": told.first_frame})
        elif isinstance(told, FrameDone):
            done_s = told.done_s + sum(self._own.write_ms) / 1000.0
            self._recorder.result(told.epoch, told.frame, told.started_s, done_s)
        self._events.put(told)

    def _situation_changed(self, situation: Situation) -> None:
        if self._improvement:
            self._improvement.look(situation, self._conductor.bound)

    def _better(self, found: Better) -> None:
        """Called by the thread that looks for better plans."""
        with self._lock:
            self._conductor.offer(found.situation, found.bound, found.expected_ms)

    def _handle(self, message: Message, payload: Buffer) -> None:
        if self._terms.traced and isinstance(message, Noted | Heartbeat) and message.sender in self._addresses:
            self._gather(message)
        if isinstance(message, Noted):
            return
        if isinstance(message, ResultChunk | RowsChunk) and message.sender in self._addresses:
            self._arrivals.took(message, len(payload), self._inbox.received_s)
            boundary = message.boundary if isinstance(message, RowsChunk) else RESULT
            place = message.epoch, message.frame, boundary
            self._recorder.received(*place, message.sender, self._inbox.received_s, len(payload))
        self._conductor.handle(message, payload)
        if isinstance(message, NeedModel):
            self._events.put(message)

    def _gather(self, message: Noted | Heartbeat) -> None:
        """Keep what a provider has noted, and what tells its clock."""
        if isinstance(message, Noted):
            self.gathering.took(message.sender, message.spans, message.dropped)
        elif message.stamps:
            self.gathering.answered(message.sender, message.stamps, self._inbox.received_s)

    def _tick(self) -> None:
        self._conductor.tick()

    def _unreachable(self, name: str) -> None:
        self._conductor.unreachable(name)

    def _close(self, patience_s: float) -> None:
        if self._improvement:
            self._improvement.stop()
        super()._close(patience_s)
