"""A node's end of a session with providers: its sockets, its threads, and what they wait for."""

from __future__ import annotations

import logging
import queue
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from threading import Event, RLock, Thread
from types import TracebackType
from typing import TypeVar

import zmq

from distredge.errors import InputError
from distredge.runtime.keys import Keys
from distredge.runtime.message import Buffer, Message, MessageError, Stop
from distredge.runtime.outbox import Pace
from distredge.runtime.sender import SocketOutbox
from distredge.runtime.tracing import Recorder
from distredge.runtime.transport import Inbox, address_book, is_loopback, own_host, parse_address

_POLL_S = 0.1

_TICK_S = 0.05
"""Whoever is waited for is looked after so often."""

_OVERDUE_S = 0.2
"""So long may what arrives without a pause keep it waiting."""

log = logging.getLogger(__name__)

Own = TypeVar("Own", bound="Client")


class Client(ABC):
    """A session with providers; a context manager: entering sets them up, leaving frees them.

    `addresses` gives HOST:PORT of each provider that may have a part in it. `listen` is where answers come to, by
    default a free port of the host that the providers can reach. `check` is called while waiting and may raise.

    Raises `InputError` for addresses and keys that cannot be used, `ProviderLostError` if a provider is not there at
    the beginning, `RunError` if one cannot do its part. Nothing waits for ever.

    One lock is held by whoever acts on the session: the receiving thread, the sending one when a peer takes nothing,
    and this one.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        keys: Keys | None = None,
        listen: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._addresses, self._check = dict(addresses), check
        address_book(self._addresses, keys)
        self._keys, self._listen = keys, listen or f"{own_host(next(iter(self._addresses.values())))}:0"
        host, _ = parse_address(self._listen)
        if host == "0.0.0.0":
            raise InputError("the requester needs an address that providers can reach, not 0.0.0.0")
        if keys is None and not all(is_loopback(parse_address(a)[0]) for a in self._addresses.values()):
            raise InputError("providers on other machines are reached with keys only: add --keys")
        self._session = secrets.token_hex(8)
        self._finished = False
        self._events: queue.Queue[object] = queue.Queue()  # for a SimpleQueue's timeout see `sender`
        self._stop = Event()
        self._recorder = Recorder()
        self._lock = RLock()

    def __enter__(self: Own) -> Own:
        """Set all providers up and wait until they are ready."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = self._keys.start_gate(self._context) if self._keys else None
        try:
            self._inbox = Inbox(self._context, self._listen, self._keys)
        except InputError:
            self._close_context()
            raise
        self._outbox = SocketOutbox(self._context, self._keys, self._lost, self._recorder)
        self._outbox.open(self._addresses, self._pace())
        self._receiver = Thread(target=self._receive, name="receive", daemon=True)
        try:
            with self._lock:
                self._begin()
            self._receiver.start()
            self._wait_until_ready()
        except BaseException:
            self._close(patience_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session and free everything."""
        self._close(patience_s=0.0 if error else 1.0)

    @abstractmethod
    def _pace(self) -> Pace:
        """How fast this node sends."""

    @abstractmethod
    def _begin(self) -> None:
        """Ask the providers to make ready."""

    @abstractmethod
    def _wait_until_ready(self) -> None:
        """Wait, with `_event`, until they are."""

    @abstractmethod
    def _handle(self, message: Message, payload: Buffer) -> None:
        """Act on a message of this session, in the receiving thread; raises `MessageError` if it does not fit."""

    @abstractmethod
    def _tick(self) -> None:
        """Do what is due, in the receiving thread."""

    @abstractmethod
    def _unreachable(self, name: str) -> None:
        """A provider takes no messages; called by the sending thread."""

    def _event(self, timeout_s: float = _POLL_S) -> object:
        """What the receiving thread has to say; None if nothing for a moment. Raises what it reports."""
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            self._check()
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def _lost(self, name: str) -> None:
        with self._lock:
            self._unreachable(name)

    def _receive(self) -> None:
        """The receiving thread's loop: all that has come is handled before anybody is missed."""
        due = 0.0
        while not self._stop.is_set():
            arrived = self._inbox.receive(max(0.0, min(_TICK_S, due - time.monotonic())))
            if arrived is not None:
                self._take(*arrived)
            if time.monotonic() >= due + (0.0 if arrived is None else _OVERDUE_S):
                due = time.monotonic() + _TICK_S
                self._guarded(self._tick)
        self._inbox.close()

    def _take(self, message: Message, payload: Buffer) -> None:
        if message.session != self._session:
            return
        try:
            self._guarded(lambda: self._handle(message, payload))
        except MessageError as exc:
            self._inbox.reject(exc)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Act on the session; what goes wrong in it is for the thread that waits."""
        try:
            with self._lock:
                work()
        except MessageError:
            raise
        except Exception as exc:
            self._events.put(exc)

    def _close(self, patience_s: float) -> None:
        if not self._finished:
            for name in self._addresses:
                self._outbox.put(name, Stop(self._session, report=False))
        self._outbox.close(patience_s)
        self._stop.set()
        if self._receiver.ident is None:
            self._inbox.close()
        else:
            self._receiver.join()
        self._close_context()

    def _close_context(self) -> None:
        if self._gate:
            self._gate.stop()
        self._context.term()
