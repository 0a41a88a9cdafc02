"""The thread that sends a node's messages: paced, in chunks, and never waiting for one that takes none."""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Thread
from typing import TypeAlias

import msgspec

from distredge.errors import InputError
from distredge.profiles.network import PACED_BYTES, occupancy_ms
from distredge.runtime.keys import Keys
from distredge.runtime.message import MAX_PAYLOAD_BYTES, Message, ModelChunk, ResultChunk, RowsChunk
from distredge.runtime.outbox import NOTHING, Outbox, Pace, Parcel
from distredge.runtime.tracing import RESULT, Recorder
from distredge.runtime.transport import Connections, Context, Peer, address_book

CHUNK_BYTES = 128 * 1024
"""Rows go in chunks of this size at most, so that encryption, transfer and unpacking overlap."""

MIN_CHUNKS = 1
"""A block goes in so many chunks if they have a quantum each: its receiver can then tell how fast they came."""

CONNECT_S = 4.0
"""How long a receiver that has not taken a message in this epoch may take to do so."""

_RETRY_S = 0.005

log = logging.getLogger(__name__)

_WHOLE_BYTES = 64
"""Chunks are cut at multiples of it: an element never lies in two."""


@dataclass
class _Parcel:
    """A message with payload on its way out: how much of it has left, and when it could."""

    peer: str
    message: Message
    payload: memoryview
    chunk_bytes: int
    ready_s: float
    offset: int = 0

    @property
    def next_bytes(self) -> int:
        return min(self.chunk_bytes, len(self.payload) - self.offset)


@dataclass
class _Lane:
    """Parcels that leave one after the other, and the rate at which they do."""

    rate_mbps: float
    free_s: float = 0.0
    turn: int = 0
    parcels: deque[_Parcel] = field(default_factory=deque)

    def due_s(self, emulated: bool) -> float:
        """When the next chunk may be handed over: when the link is free or, emulated, has passed it on."""
        parcel = self.parcels[0]
        start = max(parcel.ready_s, self.free_s)
        return start + occupancy_ms(parcel.next_bytes, self.rate_mbps) / 1000.0 if emulated else start


@dataclass(frozen=True)
class _Open:
    peers: Mapping[str, Peer]
    pace: Pace


@dataclass(frozen=True)
class _KeepPace:
    pace: Pace


@dataclass(frozen=True)
class _Put:
    parcels: tuple[Parcel, ...]
    ready_s: float = field(default_factory=time.monotonic)


_Order: TypeAlias = "_Open | _KeepPace | _Put | int"


class Sender(Thread):
    """Sends messages over sockets of its own. `on_lost` is called by this thread with the name of one that takes none.

    What else is meant for such a peer is thrown away until `renew`. A message without payload leaves at once, one with
    payload in its turn: in one lane for all receivers where the node's uplink limits, else in one lane a receiver.
    """

    def __init__(self, context: Context, keys: Keys | None, on_lost: Callable[[str], None], recorder: Recorder) -> None:
        super().__init__(name="send", daemon=True)
        self._recorder = recorder
        self.bytes_out = 0
        self.patience_s = CONNECT_S
        self.oldest = 0
        self._connections = Connections(context, keys)
        self._on_lost = on_lost
        # No SimpleQueue: CPython's (3.11) may wait for ever if it is woken for nothing just when the time is up.
        self._orders: queue.Queue[_Order | None] = queue.Queue()
        self._pace = Pace()
        self._lanes: dict[str, _Lane] = {}
        self._read_s = 0.0
        self._lost: set[str] = set()
        self._taking: set[str] = set()
        self._waited: dict[str, float] = {}
        self._turn = 0
        self._stopping = False

    @property
    def is_sending(self) -> bool:
        """Whether anything waits to be sent."""
        return any(lane.parcels for lane in [*self._lanes.values()])

    def order(self, order: _Order) -> None:
        """Queue what is to be done."""
        self._orders.put(order)

    def stop(self) -> None:
        """Send what is queued, as far as it is taken, then end the thread and close its sockets."""
        self._orders.put(None)
        self.join()

    def run(self) -> None:
        """The thread's loop."""
        while not (self._stopping and self._orders.empty() and not any(lane.parcels for lane in self._lanes.values())):
            lane = self._next_lane()
            wait_s = math.inf if lane is None else lane.due_s(self._pace.emulated) - time.monotonic()
            if wait_s > 0.0 or not self._orders.empty():
                self._obey(wait_s)
            elif lane is not None:
                self._send_chunk(lane)
        self._connections.close()

    def _next_lane(self) -> _Lane | None:
        """The lane whose next chunk is due first; of those that are due together, the one that has waited longest."""
        full = [lane for lane in self._lanes.values() if lane.parcels]
        emulated = self._pace.emulated
        return min(full, key=lambda lane: (lane.due_s(emulated), lane.turn), default=None)

    def _obey(self, wait_s: float) -> None:
        """Carry out the next order, if one comes within `wait_s`."""
        try:
            order = self._orders.get(timeout=None if math.isinf(wait_s) else max(0.0, wait_s))
        except queue.Empty:
            return
        if order is None:
            self._stopping = True
        elif isinstance(order, _Open):
            self._open(order)
        elif isinstance(order, _KeepPace):
            self._keep_pace(order.pace)
        elif isinstance(order, int):
            self._renew(order)
        else:
            for peer, message, payload in order.parcels:
                self._accept(peer, message, payload, order.ready_s)

    def _open(self, order: _Open) -> None:
        try:
            self._connections.connect(order.peers)
        except InputError as exc:  # the other sockets had no such trouble a moment ago
            log.error("%s", exc)
        self._pace, self._read_s, self.bytes_out = order.pace, 0.0, 0
        self._lanes.clear()
        self._renew(0)

    def _keep_pace(self, pace: Pace) -> None:
        """Lanes go on at the rates that the new pace gives them."""
        self._pace = pace
        for name, lane in self._lanes.items():
            if not name.endswith(" "):
                lane.rate_mbps = pace.downlinks_mbps.get(name, math.inf) if name else pace.uplink_mbps

    def _renew(self, oldest: int) -> None:
        self.oldest = oldest
        self._lost.clear()
        self._taking.clear()
        self._waited.clear()

    def _accept(self, peer: str, message: Message, payload: memoryview, ready_s: float) -> None:
        if len(payload):
            ready_s = self._when_read(len(payload), ready_s)
            parcel = _Parcel(peer, message, payload, self._chunk_bytes(message, len(payload)), ready_s)
        else:
            parcel = _Parcel(peer, message, payload, 1, ready_s)
            waiting = self._lane(peer, with_payload=False).parcels
            if not waiting and self._hand_over(parcel, message, payload):
                return
        self._lane(peer, bool(len(payload))).parcels.append(parcel)

    def _lane(self, peer: str, with_payload: bool) -> _Lane:
        """Where a message waits; one without payload, which could not leave at once, waits for nobody else."""
        uplink = self._pace.uplink_mbps
        if not with_payload:
            return self._lanes.setdefault(f"{peer} ", _Lane(math.inf))
        if math.isfinite(uplink):
            return self._lanes.setdefault("", _Lane(uplink))
        return self._lanes.setdefault(peer, _Lane(self._pace.downlinks_mbps.get(peer, math.inf)))

    def _chunk_bytes(self, message: Message, payload_bytes: int) -> int:
        if isinstance(message, ModelChunk):
            return PACED_BYTES if self._pace.is_limited else MAX_PAYLOAD_BYTES
        largest = PACED_BYTES if self._pace.is_limited else CHUNK_BYTES
        share = math.ceil(payload_bytes / MIN_CHUNKS / _WHOLE_BYTES) * _WHOLE_BYTES
        return min(largest, max(PACED_BYTES, share))

    def _when_read(self, payload_bytes: int, ready_s: float) -> float:
        """When a board would have read the message out of its memory, after the one before it."""
        if not self._pace.emulated:
            return ready_s
        spent_ms = self._pace.read_ms + payload_bytes * self._pace.read_byte_ms
        self._read_s = max(ready_s, self._read_s) + spent_ms / 1000.0
        return self._read_s

    def _send_chunk(self, lane: _Lane) -> None:
        """Hand the next chunk of a lane over, or put the lane off if its receiver takes none yet."""
        parcel = lane.parcels[0]
        if parcel.peer in self._lost or getattr(parcel.message, "epoch", self.oldest) < self.oldest:
            lane.parcels.popleft()
            return
        size = parcel.next_bytes
        chunk, message = parcel.payload[parcel.offset : parcel.offset + size], parcel.message
        if size:
            message = msgspec.structs.replace(message, offset=parcel.offset)
        if not self._hand_over(parcel, message, chunk):
            lane.free_s = max(lane.free_s, time.monotonic() + _RETRY_S)
            return
        self._turn += 1
        lane.turn = self._turn
        lane.free_s = max(parcel.ready_s, lane.free_s) + occupancy_ms(size, lane.rate_mbps) / 1000.0
        parcel.offset += size
        if parcel.offset >= len(parcel.payload):
            lane.parcels.popleft()
            self._note(parcel)

    def _note(self, parcel: _Parcel) -> None:
        """Note that a message is out, if it belongs to a frame."""
        message = parcel.message
        if isinstance(message, RowsChunk | ResultChunk):
            boundary = message.boundary if isinstance(message, RowsChunk) else RESULT
            self._recorder.add(
                "send", message.epoch, message.frame, boundary, parcel.ready_s, time.monotonic(), parcel.peer,
                len(parcel.payload),
            )  # fmt: skip

    def _hand_over(self, parcel: _Parcel, message: Message, chunk: memoryview) -> bool:
        """Give a message to its socket; False if it takes none now. A receiver that has not for too long is lost."""
        peer = parcel.peer
        if peer in self._lost:
            return True
        self.bytes_out += len(chunk)  # before it leaves: whoever has got it may ask for the sum
        if self._connections.send(peer, message, chunk):
            self._taking.add(peer)
            self._waited.pop(peer, None)
            return True
        self.bytes_out -= len(chunk)
        now = time.monotonic()
        patience_s = min(self.patience_s, 0.0 if peer in self._taking else CONNECT_S)
        if now - self._waited.setdefault(peer, now) >= patience_s:
            self._lost.add(peer)
            self._on_lost(peer)
            return True
        return False


class SocketOutbox(Outbox):
    """Messages through a `Sender`, heartbeats through sockets of their own, which pass what is queued there.

    All but `put` and `put_together` are for one thread.
    """

    def __init__(
        self, context: Context, keys: Keys | None, on_lost: Callable[[str], None], recorder: Recorder | None = None
    ) -> None:
        self._context, self._keys = context, keys
        self._beats = Connections(context, keys, urgent=True)
        self._sender = Sender(context, keys, on_lost, Recorder() if recorder is None else recorder)
        self._sender.start()

    def open(self, addresses: Mapping[str, str], pace: Pace) -> None:
        """See `Outbox`."""
        peers = address_book(addresses, self._keys)
        self._beats.connect(peers)
        self._sender.order(_Open(peers, pace))

    def keep_pace(self, pace: Pace) -> None:
        """See `Outbox`."""
        self._sender.order(_KeepPace(pace))

    def renew(self, oldest: int) -> None:
        """See `Outbox`."""
        self._sender.oldest = max(self._sender.oldest, oldest)  # at once: what is queued before this order is meant
        self._sender.order(oldest)

    def put(self, peer: str, message: Message, payload: memoryview = NOTHING) -> None:
        """See `Outbox`."""
        self._sender.order(_Put(((peer, message, payload),)))

    def put_together(self, parcels: Iterable[Parcel]) -> None:
        """See `Outbox`."""
        self._sender.order(_Put(tuple(parcels)))

    def beat(self, peer: str, message: Message) -> bool:
        """See `Outbox`."""
        return self._beats.send(peer, message)

    def answer(self, address: str, name: str, message: Message) -> None:
        """See `Outbox`."""
        connection = Connections(self._context, self._keys)
        try:
            connection.connect(address_book({name: address}, self._keys))
            connection.send(name, message, patience_s=1.0)
        except InputError:
            return  # nobody that could be answered
        finally:
            connection.close()

    @property
    def bytes_out(self) -> int:
        """See `Outbox`."""
        return self._sender.bytes_out

    @property
    def is_sending(self) -> bool:
        """See `Outbox`."""
        return self._sender.is_sending

    def close(self, patience_s: float) -> None:
        """Send what is queued, as far as it is taken within `patience_s`; then close all."""
        self._sender.patience_s = patience_s
        self._sender.stop()
        self._beats.close()
