"""The service requester: sets providers up for a plan, sends images and takes the results, whatever happens to them."""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from distredge.control.schema import FrameSpans, Orders, Telemetry
from distredge.engine.base import FloatRows
from distredge.engine.emulated import sleep_until
from distredge.errors import InputError
from distredge.plans.plan import BoundPlan, Plan
from distredge.runtime.account import frame_spans
from distredge.runtime.assembly import MAX_IN_FLIGHT
from distredge.runtime.assignment import assignments
from distredge.runtime.client import Client
from distredge.runtime.conductor import Conductor, EpochBegun, FrameDone, workers
from distredge.runtime.helm import Helm
from distredge.runtime.keys import Keys
from distredge.runtime.link_estimate import Arrivals
from distredge.runtime.link_rates import LinkRates
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
    Probe,
    Report,
    ResultChunk,
    RowsChunk,
    Setup,
    Stop,
    Wire,
)
from distredge.runtime.outbox import Pace
from distredge.runtime.policy import Policy
from distredge.runtime.replan import Better, Improver, redistributed
from distredge.runtime.sounding import Sounding
from distredge.runtime.store import ModelStore, described
from distredge.runtime.trace_file import Trace
from distredge.runtime.trace_gathering import Gathering
from distredge.runtime.tracing import RESULT
from distredge.runtime.watch import Watch
from distredge.scenario import REQUESTER, Scenario
from distredge.simulate.memory import memory_mb

SHOW_S = 2.0
"""A controller is shown a frame so often."""

SETTLED_S = 0.5
"""All that providers noted of a frame has come by then."""

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
    `rates_mbps` are real links' rates by node, beyond which nobody sends; with `headroom` they are followed as they
    change, and each node may send so many times as fast as its link is taken to be, so that one that has become faster
    is noticed. Unless they `follow` what changes a plan stays until a provider is lost. `traced` has everything that
    happens recorded, and with `keep_trace` kept. Frames that take longer than `deadline_ms` are counted.
    """

    wire: Wire = "float32"
    threads: int = 1
    emulate: Callable[[BoundPlan | None], Mapping[str, Emulation]] | None = None
    rates_mbps: Mapping[str, float] = field(default_factory=dict)
    traced: bool = False
    keep_trace: bool = True
    headroom: float | None = None
    follow: bool = True
    deadline_ms: float | None = None


class Requester(Client):
    """A session with the providers of a plan; a context manager: entering sets them up, leaving frees them.

    `addresses` gives HOST:PORT of each provider that has something to do, and of others that may step in. For the rest,
    and for what is raised, see `Client`. `improver` finds better plans when the crew has changed; without one the rows
    of those that are lost go to the others. A `policy` decides plans for links that change.
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
        policy: Policy | None = None,
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
        self._watch = Watch(time.monotonic, *self._links())
        self.helm = Helm(bound, self._watch, improver, policy, self._better, terms.deadline_ms)
        self.helm.steering.pinned = not terms.follow
        self.history: list[EpochBegun] = []
        self.gathering = Gathering()
        self._shown_s = 0.0
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

    @property
    def bound(self) -> BoundPlan:
        """The first plan."""
        return self._bound

    @property
    def plan(self) -> Plan:
        """The one in force."""
        with self._lock:
            return (self._conductor.bound or self._bound).plan

    def telemetry(self) -> Telemetry:
        """All since the last time this was asked, for a controller; for any thread."""
        with self._lock:
            if self._terms.traced and time.monotonic() > self._shown_s + SHOW_S:
                self._shown_s = time.monotonic()
                self.helm.account.timeline = self._last_frame()
            return self.helm.telemetry()

    def _last_frame(self) -> FrameSpans | None:
        """What happened to a frame that was finished lately; what was noted of those before is forgotten."""
        found = self.gathering.frame(self._recorder, time.monotonic() - SETTLED_S)
        if found is None:
            return None
        result, view = found
        if not self._terms.keep_trace:
            self.gathering.forget(result.frame)
        return frame_spans(result.frame, result.epoch, view)

    def obey(self, orders: Orders, plan: Plan | None, policy: Policy | None) -> None:
        """Carry out what a controller orders; for any thread. Raises `PlanError` for a plan of another model."""
        with self._lock:
            self.helm.obey(orders, plan, policy)

    # Setting up.

    def _links(self) -> tuple[LinkRates | None, float]:
        """What follows the links, and the headroom for it."""
        if self._terms.headroom is None or not self._terms.rates_mbps:
            return None, 1.0
        return LinkRates(self._terms.rates_mbps), self._terms.headroom

    def _pace(self) -> Pace:
        if self._own.rate_mbps or self._terms.emulate:
            rate = self._own.rate_mbps or float("inf")
            return Pace(rate, {}, emulated=True, read_ms=self._own.read_ms, read_byte_ms=self._own.read_byte_ms)
        rates = {name: self._watch.pace_mbps(name) or mbps for name, mbps in self._terms.rates_mbps.items()}
        return Pace(rates.pop(REQUESTER, float("inf")), rates)

    def _begin(self) -> None:
        ModelStore().offer(self._bound.graph)
        self._paced = self._pace()
        self._inbox.shape(self._own.rate_mbps or float("inf"), self._own.uplinks_mbps)
        self._conductor = Conductor(
            self._session,
            self._addresses,
            self._inbox.address,
            self._outbox,
            self._terms.wire,
            self._brief,
            lambda situation: redistributed(self._bound, situation),
            self._watch,
            self._tell,
            time.monotonic,
            self.helm.situation_changed,
        )
        self._sounding = Sounding(self._session, self._outbox, self._terms.wire, self._watch.sounded)
        self._conductor.begin(self._bound)
        self.helm.begin(self._conductor)

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
                pace_mbps=self._watch.pace_mbps(name) or self._terms.rates_mbps.get(name),
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
        self.helm.told(told)
        self._events.put(told)

    def _better(self, found: Better) -> None:
        """Called by the thread that looks for better plans."""
        with self._lock:
            self.helm.better(found)

    def _handle(self, message: Message, payload: Buffer) -> None:
        if self._terms.traced and isinstance(message, Noted | Heartbeat) and message.sender in self._addresses:
            self._gather(message)
        if isinstance(message, Noted):
            return
        if isinstance(message, Probe):
            self._sounding.came(message, len(payload), self._inbox.received_s)
            return
        if isinstance(message, ResultChunk | RowsChunk) and message.sender in self._addresses:
            self._arrivals.took(message, len(payload), self._inbox.received_s)
            boundary = message.boundary if isinstance(message, RowsChunk) else RESULT
            place = message.epoch, message.frame, boundary
            self._recorder.received(*place, message.sender, self._inbox.received_s, len(payload))
        self._conductor.handle(message, payload)
        if isinstance(message, NeedModel):
            self._events.put(message)
        elif isinstance(message, Heartbeat):
            self.helm.account.worked(message.work)
            self.helm.account.came(message.transfers)

    def _gather(self, message: Noted | Heartbeat) -> None:
        """Keep what a provider has noted, and what tells its clock."""
        if isinstance(message, Noted):
            self.gathering.took(message.sender, message.spans, message.dropped)
        elif message.stamps:
            self.gathering.answered(message.sender, message.stamps, self._inbox.received_s)

    def _tick(self) -> None:
        came = self._arrivals.take_transfers()
        self._watch.took(REQUESTER, came)
        self.helm.account.came(came)
        self._conductor.tick()
        self.helm.tick()
        self._sound()
        self._keep_pace()

    def _sound(self) -> None:
        """Ask after the links of those that stand by."""
        bound = self._conductor.bound
        if bound is None or self._watch.pace_mbps(bound.plan.head_provider) is None:
            return  # links are not followed
        self._watch.idle = frozenset(self._conductor.crew.present()) - workers(bound)
        self._sounding.tick(time.monotonic(), self._watch.idle)

    def _keep_pace(self) -> None:
        """Send as fast as links are now taken to be; providers are told with the next pulse."""
        pace = self._pace()
        if pace != self._paced:
            self._paced = pace
            self._outbox.keep_pace(pace)

    def _unreachable(self, name: str) -> None:
        self._conductor.unreachable(name)

    def _close(self, patience_s: float) -> None:
        self.helm.close()
        super()._close(patience_s)
