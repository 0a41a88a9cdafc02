"""The requester's end of a session with providers: sets them up, watches over them, hears them, frees them."""

from __future__ import annotations

import logging
import math
import queue
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import TracebackType
from typing import TypeVar

import zmq

from distredge.errors import InputError, ProviderLostError, RunError
from distredge.profiles.network import QUANTUM_BYTES
from distredge.runtime.keys import Keys
from distredge.runtime.message import (
    UNCHANGED,
    Busy,
    Emulation,
    Failed,
    Heartbeat,
    Message,
    MessageError,
    NeedModel,
    Observed,
    Ready,
    Report,
    Setup,
    Stop,
)
from distredge.runtime.provider import BEAT_S, LOST_S
from distredge.runtime.transport import (
    CHUNK_BYTES,
    Connections,
    Inbox,
    Sender,
    address_book,
    is_loopback,
    own_host,
    parse_address,
)
from distredge.scenario import REQUESTER

SETUP_S = 10.0
"""How long a provider may take to answer a setup at all; building its engines may take longer."""

_POLL_S = 0.1

log = logging.getLogger(__name__)


Own = TypeVar("Own", bound="Client")


class Client(ABC):
    """A session with providers; a context manager: entering sets them up, leaving frees them.

    `addresses` gives HOST:PORT of each provider that has a part in it. `listen` is where answers come to, by default a
    free port of the host that the providers can reach. `emulations` makes the named nodes stand in for boards, this one
    too. `check` is called while waiting and may raise.

    Raises `InputError` for addresses and keys that cannot be used, `ProviderLostError` if a provider is not there
    or stops answering, `RunError` if one cannot do its part. Nothing waits for ever.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        keys: Keys | None = None,
        listen: str | None = None,
        emulations: Mapping[str, Emulation] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._addresses = dict(addresses)
        self._emulations, self._check = emulations or {}, check
        self._own = self._emulations.get(REQUESTER, UNCHANGED)
        self._peers = address_book(self._addresses, keys)
        self._keys, self._listen = keys, listen or f"{own_host(next(iter(self._addresses.values())))}:0"
        host, _ = parse_address(self._listen)
        if host == "0.0.0.0":
            raise InputError("the requester needs an address that providers can reach, not 0.0.0.0")
        if keys is None and not all(is_loopback(parse_address(a)[0]) for a in self._addresses.values()):
            raise InputError("providers on other machines are reached with keys only: add --keys")
        self._session = secrets.token_hex(8)
        self._finished = False
        self._heard: dict[str, float] = {}
        self._links: dict[str, tuple[Observed, ...]] = {}
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._stop = Event()

    def __enter__(self: Own) -> Own:
        """Set all providers up and wait until they are ready."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = self._keys.start_gate(self._context) if self._keys else None
        try:
            self._inbox = Inbox(self._context, self._listen, self._keys)
        except InputError:
            self._close_context()
            raise
        rate_mbps = self._own.rate_mbps or math.inf
        self._inbox.shape(rate_mbps)
        self._sender = Sender(self._context, self._keys, self._unreachable)
        self._sender.start()
        chunk_bytes = QUANTUM_BYTES if self._emulations else CHUNK_BYTES
        reading_ms = self._own.read_ms, self._own.read_byte_ms
        self._sender.reset(self._peers, rate_mbps, chunk_bytes, reading_ms)
        self._receiver = Thread(target=self._receive, name="receive", daemon=True)
        self._receiver.start()
        try:
            self._set_up()
        except BaseException:
            self._close(patience_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session and free everything."""
        self._close(patience_s=0.0 if error else 1.0)

    def observed_links(self) -> dict[str, tuple[Observed, ...]]:
        """What each node has seen of the links by which rows come to it, as it last said; changes while a run lasts."""
        return dict(self._links)

    @abstractmethod
    def _setup(self, name: str) -> Setup:
        """What a provider is told at the beginning."""

    @abstractmethod
    def _take_payload(self, message: Message, payload: bytes) -> None:
        """Take what came with a payload, in the receiving thread; raises `MessageError` if it does not fit."""

    def _send_model(self, name: str) -> None:
        """Send the model to a provider that has not got it."""
        raise RunError(f"{self._title(name)} asks for a model that it should not need")

    # Setting up.

    def _set_up(self) -> None:
        setups = {name: self._setup(name) for name in self._addresses}
        begun = time.monotonic()
        for name, setup in setups.items():
            self._sender.put(name, setup)
        waiting = set(setups)
        while waiting:
            event = self._event()
            if isinstance(event, Ready):
                waiting.discard(event.sender)
            elif isinstance(event, NeedModel):
                self._send_model(event.sender)
            elif isinstance(event, Busy):
                self._retry(event.sender, setups[event.sender], begun)
            self._check_alive()
            if time.monotonic() - begun > SETUP_S and (silent := sorted(waiting - self._heard.keys())):
                raise ProviderLostError(
                    f"{self._title(silent[0])} does not answer: is it a DistrEdge provider of that name, with the same"
                    f" keys, and can it reach this machine at {self._inbox.address}?"
                )

    def _retry(self, name: str, setup: Setup, begun: float) -> None:
        """Ask a provider again that serves another requester, which may be gone without a word."""
        if time.monotonic() - begun > SETUP_S:
            raise RunError(f"{self._title(name)} serves another requester: try again when that is done")
        time.sleep(BEAT_S)
        self._sender.put(name, setup)

    # While it lasts.

    def _event(self) -> object:
        """What the receiving thread has to say; None if nothing for a moment. Raises what it reports."""
        try:
            event = self._events.get(timeout=_POLL_S)
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def _check_alive(self) -> None:
        self._check()
        now = time.monotonic()
        oldest = min(self._heard, key=lambda name: self._heard[name], default=None)
        if oldest is not None and now - self._heard[oldest] > LOST_S:
            raise ProviderLostError(f"{self._title(oldest)} has stopped answering")

    def _title(self, name: str) -> str:
        return f"provider '{name}' at {self._addresses[name]}"

    def _unreachable(self, name: str) -> None:
        """Called by the sending thread."""
        self._events.put(
            ProviderLostError(
                f"{self._title(name)} is not there: start it with"
                f" `distredge provider --name {name} --listen {self._addresses[name]}`, with the same keys"
            )
        )

    # The receiving thread.

    def _receive(self) -> None:
        beats = Connections(self._context, self._keys)
        beats.connect(self._peers)
        due = 0.0
        while not self._stop.is_set():
            arrived = self._inbox.receive(_POLL_S)
            if arrived and arrived[0].session == self._session:
                try:
                    self._take(*arrived)
                except MessageError as exc:
                    self._inbox.reject(exc)
            if time.monotonic() >= due:
                due = time.monotonic() + BEAT_S
                for name in self._peers:
                    beats.send(name, Heartbeat(self._session, REQUESTER))
        beats.close()
        self._inbox.close()

    def _take(self, message: Message, payload: bytes) -> None:
        """Note that a provider is there, and hand on what the other thread waits for."""
        if payload:  # what the others say may be queued behind it
            self._heard.update(dict.fromkeys(self._heard, time.monotonic()))
            self._take_payload(message, payload)
            return
        if not isinstance(message, Heartbeat | Ready | NeedModel | Busy | Failed | Report):
            raise MessageError(f"{type(message).__name__} is for providers")
        if message.sender not in self._peers:
            raise MessageError(f"'{message.sender}' has no part in this session")
        self._heard[message.sender] = time.monotonic()
        if isinstance(message, Heartbeat | Report):
            self._links[message.sender] = message.links
        if isinstance(message, Failed):
            self._events.put(RunError(f"{self._title(message.sender)} {message.reason}"))
        elif not isinstance(message, Heartbeat):
            self._events.put(message)

    # Ending.

    def _close(self, patience_s: float) -> None:
        self._sender.patience_s = patience_s
        if not self._finished:
            for name in self._addresses:
                self._sender.put(name, Stop(self._session, report=False))
        self._sender.stop()
        self._stop.set()
        self._receiver.join()
        self._close_context()

    def _close_context(self) -> None:
        if self._gate:
            self._gate.stop()
        self._context.term()
