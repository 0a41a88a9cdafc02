"""A service provider: three threads around queues, to receive, to compute and to send (DistrEdge, section V-A)."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread

import zmq

from distredge.control.client import Api
from distredge.errors import InputError
from distredge.plans.nodes import REQUESTER
from distredge.runtime.compute import Compute, Worker
from distredge.runtime.engines import Shelf
from distredge.runtime.keys import Keys
from distredge.runtime.memory import FreeMemory, free_mb
from distredge.runtime.message import (
    PROTOCOL,
    UNCHANGED,
    Buffer,
    Busy,
    Failed,
    Heartbeat,
    Message,
    MessageError,
    ModelChunk,
    Probe,
    Pulse,
    Report,
    RowsChunk,
    Setup,
    Stamps,
    Stop,
    Unreachable,
)
from distredge.runtime.outbox import Outbox, Pace
from distredge.runtime.registration import Registration
from distredge.runtime.sender import SocketOutbox
from distredge.runtime.session import Session
from distredge.runtime.store import ModelDownload, ModelStore
from distredge.runtime.tracing import Recorder
from distredge.runtime.transport import Inbox

BEAT_S = 0.1
"""A heartbeat is sent this often."""

REQUESTER_LOST_S = 3.0
"""A requester that has not been heard of for so long is gone; its providers free what they hold for it."""

MAX_ELEMENTS = 2**29
"""A stage's input is refused beyond this: 2 GiB."""

_SWITCH_S = 0.0005
"""A thread that has something to pass on waits no longer than this for another one to let it."""

log = logging.getLogger(__name__)


class Service:
    """What a provider does, without sockets and threads: told of messages and of the time, it answers into an outbox.

    `link_of` is told of a session's emulated downlink rate in Mbit/s (infinite: a real link), and of the others' uplink
    rates by name, when it begins. Its methods are for one thread; work goes to `compute`.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        compute: Compute,
        store: ModelStore,
        *,
        clock: Callable[[], float] = time.monotonic,
        shelf: Callable[[], Shelf] = Shelf,
        free_mb: FreeMemory = free_mb,
        recorder: Recorder | None = None,
        link_of: Callable[[float, Mapping[str, float]], None] = lambda mbps, uplinks: None,
        bytes_in: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name = name
        self.session: Session | None = None
        self._outbox, self._compute, self._store = outbox, compute, store
        self._clock, self._shelf, self._free_mb = clock, shelf, free_mb
        self._recorder = Recorder() if recorder is None else recorder
        self._link_of, self._bytes_in = link_of, bytes_in
        self._download: ModelDownload | None = None
        self._heard_s = self._beat_due_s = 0.0
        self._pulse: tuple[float, float] | None = None

    def handle(self, message: Message, payload: Buffer, received_s: float) -> None:
        """Act on a message, or ignore one of an older session; raises `MessageError` for one that does not fit."""
        if isinstance(message, Setup):
            self._set_up(message)
        elif self.session and message.session == self.session.id:
            self._heard_s = self._clock()  # rows of others count: what the requester says may be queued behind them
            self._handle_in_session(self.session, message, payload, received_s)

    def tick(self) -> None:
        """Tell the requester that this provider is there, and notice when the requester is not."""
        session, now = self.session, self._clock()
        if session is None or now < self._beat_due_s:
            return
        self._beat_due_s = now + BEAT_S
        stamps = Stamps(*self._pulse, now) if self._pulse else None
        self._outbox.beat(
            REQUESTER,
            Heartbeat(
                session.id,
                self.name,
                session.was_active() or self._outbox.is_sending,
                session.arrivals.observed(),
                session.take_stints(),
                stamps,
                session.arrivals.take_transfers(),
            ),
        )
        self._pulse = None
        session.send_notes()
        if now - self._heard_s > REQUESTER_LOST_S:
            log.warning("the requester is gone", extra={"session": session.id})
            self.end_session()

    @property
    def next_tick_s(self) -> float:
        """When `tick` has something to do; infinite without a session."""
        return self._beat_due_s if self.session else math.inf

    def peer_lost(self, peer: str) -> None:
        """Another node does not take messages; may be called by the sending thread."""
        session = self.session
        if session and peer != REQUESTER:
            self._outbox.put(REQUESTER, Unreachable(session.id, self.name, peer))

    def end_session(self) -> None:
        """Free all that the session holds."""
        if self.session:
            self.session.end()
            self.session = None
        if self._download:
            self._download.discard()
            self._download = None

    def _handle_in_session(self, session: Session, message: Message, payload: Buffer, received_s: float) -> None:
        if isinstance(message, RowsChunk):
            session.add_rows(message, payload, received_s)
        elif isinstance(message, Pulse):
            self._pulse = message.sent_s, received_s
            session.keep_pace(message.pace_mbps)
            session.retire(message.oldest)
        elif isinstance(message, Probe):
            session.add_probe(message, payload)
        elif isinstance(message, ModelChunk):
            self._add_model(session, message, payload)
        elif isinstance(message, Stop):
            if message.report:
                self._beat_due_s = 0.0  # a last answer to the last pulse: without one a short run's clock is not known
                self.tick()
                totals = session.compute_ms, self._bytes_in(), self._outbox.bytes_out, session.rows
                self._outbox.put(REQUESTER, Report(session.id, self.name, *totals, session.arrivals.observed()))
            self.end_session()
        else:
            raise MessageError(f"{type(message).__name__} is for requesters")

    def _set_up(self, setup: Setup) -> None:
        """Begin a session, or another epoch of the one that is under way; refuse if it is another requester's."""
        if REQUESTER not in setup.addresses:
            raise MessageError("a setup that cannot be answered: it does not say where the requester is")
        problem = _problem(setup, self.name)
        other = self.session and self.session.id != setup.session
        if other or problem:
            failed = Failed(setup.session, self.name, setup.epoch, problem)
            answer = failed if problem else Busy(setup.session, self.name)
            self._outbox.answer(setup.addresses[REQUESTER], REQUESTER, answer)
            return
        self._heard_s = self._clock()
        if self.session is None:
            self.session = self._begin(setup)
        self.session.add_epoch(setup)

    def _begin(self, setup: Setup) -> Session:
        emulation = setup.emulation or UNCHANGED
        emulated_mbps = emulation.rate_mbps or math.inf
        rate_mbps = min(emulated_mbps, setup.pace_mbps or math.inf)
        pace = Pace(rate_mbps, {}, math.isfinite(emulated_mbps), emulation.read_ms, emulation.read_byte_ms)
        try:
            self._outbox.open(setup.addresses, pace)
        except InputError as exc:
            raise MessageError(f"a setup that cannot be answered: {exc}") from exc
        self._link_of(emulated_mbps, emulation.uplinks_mbps)
        self._pulse, self._beat_due_s = None, 0.0
        log.info("a session begins", extra={"session": setup.session})
        if setup.traced:
            self._recorder.start()
        else:
            self._recorder.stop()
        return Session(
            self.name,
            setup,
            self._outbox,
            self._compute,
            self._store,
            self._clock,
            self._shelf(),
            self._free_mb,
            self._recorder,
        )

    def _add_model(self, session: Session, chunk: ModelChunk, payload: Buffer) -> None:
        if self._download is None:
            self._download = ModelDownload(self._store, session.model_sha256)
        try:
            if self._download.add(chunk, bytes(payload)):
                self._download.discard()  # of what another provider of this machine had put there first
                self._download = None
                session.model_is_here()
        except (MessageError, OSError) as exc:
            session.fail(f"cannot store the model: {exc}")
            self.end_session()


class Provider:
    """Serves one requester after the other, receiving in the thread that calls `serve`.

    `listen` is HOST:PORT, port 0 any free one; without keys only this machine can connect. Raises `InputError` if
    it cannot listen there. `address` is where it does. A part that needs more than `memory_mb`, with what the process
    takes anyway, is refused, as is one for which the machine has not enough left.
    """

    def __init__(
        self,
        name: str,
        listen: str,
        keys: Keys | None = None,
        store: ModelStore | None = None,
        memory_mb: float | None = None,
    ) -> None:
        if name == REQUESTER:
            raise InputError(f"no provider may be named '{REQUESTER}': choose another name")
        self.name = name
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = keys.start_gate(self._context) if keys else None
        try:
            self._inbox = Inbox(self._context, listen, keys)
        except InputError:
            self._close_context()
            raise
        self.address = self._inbox.address
        recorder = Recorder()
        self._outbox = SocketOutbox(self._context, keys, lambda peer: self._service.peer_lost(peer), recorder)
        self._worker = Worker()
        self._service = Service(
            name,
            self._outbox,
            self._worker,
            store or ModelStore(),
            free_mb=lambda: free_mb(memory_mb),
            recorder=recorder,
            link_of=self._inbox.shape,
            bytes_in=lambda: self._inbox.bytes_in,
        )

    @property
    def is_serving(self) -> bool:
        """Whether a requester's session is under way."""
        return self._service.session is not None

    def serve(self, stop: Event) -> None:
        """Receive, and keep the other two threads busy, until `stop` is set; then free everything."""
        self._worker.start()
        try:
            while not stop.is_set():
                arrived = self._inbox.receive(BEAT_S)
                if arrived:
                    self._handle(*arrived)
                self._service.tick()
        finally:
            self._service.end_session()
            self._worker.put(None)
            self._outbox.close(patience_s=0.0)
            self._inbox.close()
            self._close_context()

    def _handle(self, message: Message, payload: Buffer) -> None:
        try:
            self._service.handle(message, payload, self._inbox.received_s)
        except MessageError as exc:
            self._inbox.reject(exc)
        except Exception:  # whatever it is, the next requester is to be served
            log.exception("a message could not be handled; its session ends")
            self._service.end_session()

    def _close_context(self) -> None:
        if self._gate:
            self._gate.stop()
        self._context.term()


def _problem(setup: Setup, name: str) -> str:
    """Why a setup cannot be carried out; empty if it can."""
    if setup.protocol != PROTOCOL:
        return f"speaks protocol {PROTOCOL}, the requester {setup.protocol}: install one version on both"
    if setup.emulation and len(setup.emulation.hold_ms) != len(setup.stages):
        return f"was given {len(setup.emulation.hold_ms)} times for {len(setup.stages)} stages"
    if any(math.prod(p.shape) > MAX_ELEMENTS for stage in setup.stages for p in (*stage.inputs, *stage.outputs)):
        return f"was given a stage with more than {MAX_ELEMENTS} elements"
    if any(p.rows[1] - p.rows[0] != p.shape[1] for stage in setup.stages for p in (*stage.inputs, *stage.outputs)):
        return "was given a stage with other rows than its tensors have"
    peers = {send.peer for stage in setup.stages for send in stage.sends if send.peer}
    if unknown := peers - setup.addresses.keys():
        return f"was not told where '{min(unknown)}' is"
    return ""


def serve_provider(
    name: str,
    listen: str,
    keys_folder: Path | None,
    announce: Callable[[str], None],
    until_stdin_closes: bool = False,
    memory_mb: float | None = None,
    controller: Api | None = None,
) -> None:
    """Run a provider in this process until it is interrupted or terminated, or its standard input closes if asked.

    `memory_mb` is as for `Provider`. `announce` is called with the address once it listens; a `controller` is told that
    it does. Raises `InputError` if it cannot.
    """
    provider = Provider(name, listen, Keys.load(keys_folder, name) if keys_folder else None, memory_mb=memory_mb)
    sys.setswitchinterval(_SWITCH_S)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:
        Thread(target=_await_end_of_input, args=(stop,), name="parent", daemon=True).start()
    announce(provider.address)
    registration = controller and Registration(
        controller, name, provider.address, memory_mb, lambda: provider.is_serving, lambda: free_mb(memory_mb)
    )
    if registration:
        registration.start()
    provider.serve(stop)
    if registration:
        registration.stop()


def _await_end_of_input(stop: Event) -> None:
    """Set `stop` when whoever started this process has closed its end of the pipe, or is gone.

    Reads past `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
    """
    while os.read(0, 4096):
        pass
    stop.set()
