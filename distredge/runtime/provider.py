"""A service provider: three threads around queues, to receive, to compute and to send (DistrEdge, section V-A)."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import zmq

from distredge.errors import InputError
from distredge.profiles.network import QUANTUM_BYTES
from distredge.runtime.keys import Keys
from distredge.runtime.message import (
    PROTOCOL,
    UNCHANGED,
    Busy,
    Failed,
    Heartbeat,
    Message,
    MessageError,
    ModelChunk,
    Probe,
    Report,
    RowsChunk,
    Setup,
    Stop,
)
from distredge.runtime.store import ModelDownload, ModelStore
from distredge.runtime.transport import CHUNK_BYTES, Connections, Inbox, Peer, Sender, address_book
from distredge.runtime.worker import Session, Worker
from distredge.scenario import REQUESTER

BEAT_S = 0.5
"""A heartbeat is sent this often."""

LOST_S = 3.0
"""A node that has not been heard of for so long is lost."""

MAX_ELEMENTS = 2**29
"""A stage's input is refused beyond this: 2 GiB."""

_POLL_S = 0.1

_SWITCH_S = 0.0005
"""A thread that has something to pass on waits no longer than this for another one to let it."""

log = logging.getLogger(__name__)


class Provider:
    """Serves one requester after the other, receiving in the thread that calls `serve`.

    `listen` is HOST:PORT, port 0 any free one; without keys only this machine can connect. Raises `InputError` if
    it cannot listen there. `address` is where it does.
    """

    def __init__(self, name: str, listen: str, keys: Keys | None = None, store: ModelStore | None = None) -> None:
        if name == REQUESTER:
            raise InputError(f"no provider may be named '{REQUESTER}': choose another name")
        self.name = name
        self._keys = keys
        self._store = store or ModelStore()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = keys.start_gate(self._context) if keys else None
        try:
            self._inbox = Inbox(self._context, listen, keys)
        except InputError:
            self._close_context()
            raise
        self.address = self._inbox.address
        self._beats = Connections(self._context, keys)
        self._sender = Sender(self._context, keys, self._peer_lost)
        self._worker = Worker()
        self._session: Session | None = None
        self._download: ModelDownload | None = None
        self._heard = self._beat_due = 0.0

    def serve(self, stop: Event) -> None:
        """Receive, and keep the other two threads busy, until `stop` is set; then free everything."""
        self._worker.start()
        self._sender.start()
        try:
            while not stop.is_set():
                arrived = self._inbox.receive(_POLL_S)
                if arrived:
                    self._handle(*arrived)
                self._beat()
        finally:
            self._end_session()
            self._worker.put(None)
            self._sender.patience_s = 0.0
            self._sender.stop()
            self._beats.close()
            self._inbox.close()
            self._close_context()

    def _handle(self, message: Message, payload: bytes) -> None:
        """Act on a message; one of a session that is over is ignored, one that does not fit is dropped."""
        try:
            if isinstance(message, Setup):
                self._set_up(message)
            elif self._session and message.session == self._session.id:
                self._handle_in_session(self._session, message, payload)
        except MessageError as exc:
            self._inbox.reject(exc)

    def _handle_in_session(self, session: Session, message: Message, payload: bytes) -> None:
        self._heard = time.monotonic()  # rows of others count: what the requester says may be queued behind them
        if isinstance(message, RowsChunk):
            if message.sender in session.setup.addresses:
                session.arrivals.took(message, len(payload), self._inbox.received_s)
            session.assembly.add_chunk(message, payload)
        elif isinstance(message, Probe):
            session.add_probe(message, payload)
        elif isinstance(message, ModelChunk):
            self._add_model(session, message, payload)
        elif isinstance(message, Stop):
            if message.report:
                totals = session.compute_ms, self._inbox.bytes_in, self._sender.bytes_out, session.rows
                self._sender.put(REQUESTER, Report(session.id, self.name, *totals, session.arrivals.observed()))
            self._end_session()
        elif not isinstance(message, Heartbeat):
            raise MessageError(f"{type(message).__name__} is for requesters")

    def _set_up(self, setup: Setup) -> None:
        """Begin a session, unless it has begun already or another one is under way."""
        if self._session and self._session.id == setup.session:
            return
        try:
            peers = address_book(setup.addresses, self._keys)
            requester = peers[REQUESTER]
        except (InputError, KeyError) as exc:
            raise MessageError(f"a setup that cannot be answered: {exc}") from exc
        problem = _problem(setup)
        if self._session or problem:
            self._refuse(setup, requester, problem)
            return
        emulation = setup.emulation or UNCHANGED
        rate = emulation.rate_mbps or math.inf
        chunk_bytes = QUANTUM_BYTES if setup.emulation else CHUNK_BYTES
        self._inbox.shape(rate)
        self._sender.reset(peers, rate, chunk_bytes, (emulation.read_ms, emulation.read_byte_ms))
        self._beats.connect({REQUESTER: requester})
        self._heard = time.monotonic()
        self._session = Session(self.name, setup, self._worker, self._sender, self._store)
        self._session.begin()
        log.info("session %s begins", setup.session)

    def _refuse(self, setup: Setup, requester: Peer, problem: str) -> None:
        """Tell a requester that it cannot be served, or not now."""
        answer = Connections(self._context, self._keys)
        answer.connect({REQUESTER: requester})
        message = Failed(setup.session, self.name, problem) if problem else Busy(setup.session, self.name)
        answer.send(REQUESTER, message, patience_s=1.0)
        answer.close()

    def _add_model(self, session: Session, chunk: ModelChunk, payload: bytes) -> None:
        if self._download is None:
            self._download = ModelDownload(self._store, session.setup.model_sha256)
        try:
            if self._download.add(chunk, payload):
                session.begin()
        except (MessageError, OSError) as exc:
            session.fail(f"cannot store the model: {exc}")
            self._end_session()

    def _beat(self) -> None:
        """Tell the requester that this provider is there, and notice when the requester is not."""
        now = time.monotonic()
        if self._session is None or now < self._beat_due:
            return
        self._beat_due = now + BEAT_S
        self._beats.send(REQUESTER, Heartbeat(self._session.id, self.name, self._session.arrivals.observed()))
        if now - self._heard > LOST_S:
            log.warning("the requester of session %s is gone", self._session.id)
            self._end_session()

    def _peer_lost(self, peer: str) -> None:
        """Called by the sending thread."""
        session = self._session
        if session and peer != REQUESTER:
            session.fail(f"cannot reach provider '{peer}' at {session.setup.addresses.get(peer)}")

    def _end_session(self) -> None:
        """Free all that the session holds."""
        if self._session:
            self._session.over = True
            self._session = None
        if self._download:
            self._download.discard()
            self._download = None

    def _close_context(self) -> None:
        if self._gate:
            self._gate.stop()
        self._context.term()


def _problem(setup: Setup) -> str:
    """Why a setup cannot be carried out; empty if it can."""
    if setup.protocol != PROTOCOL:
        return f"speaks protocol {PROTOCOL}, the requester {setup.protocol}: install one version on both"
    if setup.emulation and len(setup.emulation.hold_ms) != len(setup.stages):
        return f"was given {len(setup.emulation.hold_ms)} times for {len(setup.stages)} stages"
    if any(math.prod(p.shape) > MAX_ELEMENTS for stage in setup.stages for p in (*stage.inputs, *stage.outputs)):
        return f"was given a stage with more than {MAX_ELEMENTS} elements"
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
) -> None:
    """Run a provider in this process until it is interrupted or terminated, or its standard input closes if asked.

    `announce` is called with the address once it listens. Raises `InputError` if it cannot.
    """
    provider = Provider(name, listen, Keys.load(keys_folder, name) if keys_folder else None)
    sys.setswitchinterval(_SWITCH_S)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:
        Thread(target=_await_end_of_input, args=(stop,), name="parent", daemon=True).start()
    announce(provider.address)
    provider.serve(stop)


def _await_end_of_input(stop: Event) -> None:
    """Set `stop` when whoever started this process has closed its end of the pipe, or is gone.

    Reads past `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
    """
    while os.read(0, 4096):
        pass
    stop.set()
