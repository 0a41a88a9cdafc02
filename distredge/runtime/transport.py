"""Sockets: every node binds one inbox (PULL); whoever talks to it connects to it (PUSH). One direction a connection.

With keys every socket is a CURVE socket. Links can be shaped in user space: the sender paces its uplink, the
receiver its downlink, in quanta, by the transfer model of `profiles.network`.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import queue
import socket as sockets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Thread
from typing import TypeAlias

import msgspec
import zmq

from distredge.engine.emulated import sleep_until
from distredge.errors import InputError
from distredge.profiles.network import QUANTUM_BYTES, occupancy_ms
from distredge.runtime.keys import Keys
from distredge.runtime.message import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    Message,
    MessageError,
    ModelChunk,
    decode,
    encode,
)

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

CHUNK_BYTES = 128 * 1024
"""Rows go in chunks of this size at most, so that encryption, transfer and unpacking overlap."""

MIN_CHUNKS = 4
"""A block goes in so many chunks if they have a quantum each: its receiver can then tell how fast they came."""

QUEUE_MESSAGES = 1000
"""High-water mark of a socket; what is really under way is bounded by the frames in flight."""

CONNECT_S = 4.0
"""How long a sender waits for a peer that does not take its messages."""

log = logging.getLogger(__name__)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; raises `InputError` if it is none."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise InputError(f"'{address}' is no address: give HOST:PORT, for example 127.0.0.1:5701")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_host(peer: str) -> str:
    """The host under which `peer` (HOST:PORT) can reach this machine; nothing is sent to find out."""
    host, port = parse_address(peer)
    if is_loopback(host):
        return "127.0.0.1"
    try:
        with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
            probe.connect((host, port or 1))
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise InputError(f"no way to '{peer}' from this machine: {exc.strerror or exc}") from exc


class Inbox:
    """The socket at which a node listens. Used by one thread.

    Raises `InputError` if the address is malformed, taken or not this machine's, or if others than this machine
    could connect although there are no keys.
    """

    def __init__(self, context: Context, address: str, keys: Keys | None) -> None:
        host, port = parse_address(address)
        if keys is None and not is_loopback(host):
            raise InputError(f"listening at {address} needs keys, so that not everybody may connect: add --keys")
        self._socket = context.socket(zmq.PULL)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, QUEUE_MESSAGES)
        self._socket.set(zmq.MAXMSGSIZE, max(MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES))
        if keys:
            keys.secure_listener(self._socket)
        try:
            self._socket.bind(f"tcp://{'127.0.0.1' if host == 'localhost' else host}:{port or '*'}")
        except zmq.ZMQError as exc:
            self._socket.close()
            raise InputError(f"cannot listen at {address}: {exc.strerror}; choose another port or address") from exc
        self.address = self._socket.get_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
        self.bytes_in = 0
        self.rejected = 0
        self._rate_mbps, self._free = math.inf, 0.0
        self.received_s = 0.0
        self._arrived: deque[tuple[float, Message, bytes]] = deque()
        self._under_way: deque[tuple[float, Message, bytes]] = deque()

    def shape(self, rate_mbps: float) -> None:
        """From now on deliver payload no faster than a link of this rate; infinite: as it comes."""
        self._rate_mbps, self._free, self.bytes_in = rate_mbps, 0.0, 0

    def receive(self, timeout_s: float) -> tuple[Message, bytes] | None:
        """The next message, or None if none comes in time; `received_s` is then the monotonic time at which it came."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._take_in()
            now = time.monotonic()
            due = self._under_way[0][0] if self._under_way else math.inf
            if self._arrived or due <= now:
                self.received_s, message, payload = (self._arrived or self._under_way).popleft()
                return message, payload
            if deadline <= now:
                return None
            self._wait(min(due, deadline) - now)

    def reject(self, reason: MessageError) -> None:
        """Count a message that cannot be used."""
        self.rejected += 1
        log.warning("dropped a message: %s", reason)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take_in(self) -> None:
        """Move what has arrived behind what is under way, first come, first served.

        On a shaped link all of it: the socket would serve its connections in turn, whatever came first. A message
        without payload takes no time and overtakes the others.
        """
        shaped = math.isfinite(self._rate_mbps)
        while (shaped or not self._arrived) and self._socket.poll(0):
            try:
                message, payload = decode(self._socket.recv_multipart())
            except MessageError as exc:
                self.reject(exc)
                continue
            self.bytes_in += len(payload)
            if payload and shaped:
                self._free = max(time.monotonic(), self._free) + occupancy_ms(len(payload), self._rate_mbps) / 1000.0
                self._under_way.append((self._free, message, payload))
            else:
                self._arrived.append((time.monotonic(), message, payload))

    def _wait(self, seconds: float) -> None:
        """Wait so long or until something arrives; the socket's own clock knows whole milliseconds only."""
        if seconds >= 0.001:
            self._socket.poll(int(seconds * 1000.0))
        else:
            time.sleep(seconds)


@dataclass(frozen=True)
class Peer:
    """Where a node listens, and its public key if connections are secured."""

    address: str
    key: bytes | None = None


def address_book(addresses: Mapping[str, str], keys: Keys | None) -> dict[str, Peer]:
    """The nodes by name; raises `InputError` for a malformed address or a missing key."""
    for address in addresses.values():
        parse_address(address)
    return {name: Peer(address, keys.of(name) if keys else None) for name, address in addresses.items()}


class Connections:
    """The sockets through which a node talks to others, by name. Used by one thread."""

    def __init__(self, context: Context, keys: Keys | None) -> None:
        self._context, self._keys = context, keys
        self._sockets: dict[str, zmq.Socket[bytes]] = {}

    def connect(self, peers: Mapping[str, Peer]) -> None:
        """Talk to these from now on, and to nobody else."""
        self.close()
        for name, peer in peers.items():
            socket = self._sockets[name] = self._context.socket(zmq.PUSH)
            socket.set(zmq.IMMEDIATE, 1)
            socket.set(zmq.SNDHWM, QUEUE_MESSAGES)
            if self._keys and peer.key:
                self._keys.secure_caller(socket, peer.key)
            socket.connect(f"tcp://{peer.address}")

    def send(self, peer: str, message: Message, payload: memoryview | bytes = b"", patience_s: float = 0.0) -> bool:
        """Hand a message to the socket; False if the peer takes none within `patience_s`."""
        socket = self._sockets[peer]
        socket.set(zmq.SNDTIMEO, round(patience_s * 1000))
        try:
            socket.send_multipart([encode(message), payload] if payload else [encode(message)])
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close all; what has been handed over has a moment to leave."""
        for socket in self._sockets.values():
            socket.close(linger=300)
        self._sockets.clear()


@dataclass(frozen=True)
class _Outgoing:
    peer: str
    message: Message
    payload: memoryview
    ready: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Reset:
    peers: Mapping[str, Peer]
    rate_mbps: float
    chunk_bytes: int
    reading_ms: tuple[float, float]


class Sender(Thread):
    """The thread that sends a node's messages, first come, first served, cut into chunks.

    `on_lost` is called by this thread with the name of a peer that takes no messages; what else is meant for that
    peer is thrown away.
    """

    def __init__(self, context: Context, keys: Keys | None, on_lost: Callable[[str], None]) -> None:
        super().__init__(name="send", daemon=True)
        self.bytes_out = 0
        self.patience_s = CONNECT_S
        self._connections = Connections(context, keys)
        self._on_lost = on_lost
        self._queue: queue.SimpleQueue[tuple[_Outgoing, ...] | _Reset | None] = queue.SimpleQueue()
        self._rate_mbps, self._chunk_bytes, self._free = math.inf, CHUNK_BYTES, 0.0
        self._reading_ms, self._read = (0.0, 0.0), 0.0
        self._lost: set[str] = set()

    def put(self, peer: str, message: Message, payload: memoryview | None = None) -> None:
        """Queue a message; a message with payload is sent as one or more chunks, each with its offset."""
        self.put_together([(peer, message, payload or memoryview(b""))])

    def put_together(self, messages: Iterable[tuple[str, Message, memoryview]]) -> None:
        """Queue (peer, message, payload) that are sent chunk by chunk in turn: no peer waits for another's bytes.

        On a link of finite rate they go one after the other, as a queue of messages does.
        """
        self._queue.put(tuple(_Outgoing(*item) for item in messages))

    def reset(
        self,
        peers: Mapping[str, Peer],
        rate_mbps: float = math.inf,
        chunk_bytes: int = CHUNK_BYTES,
        reading_ms: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Talk to these nodes from now on, no faster than `rate_mbps`.

        A message with payload is held as if it were read out of a board's memory before, one after the other: for
        `reading_ms`, of a message and of a byte.
        """
        self._queue.put(_Reset(peers, rate_mbps, chunk_bytes, reading_ms))

    def stop(self) -> None:
        """Send what is queued, then end the thread and close its sockets."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """The thread's loop."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, _Reset):
                self._connections.connect(item.peers)
                self._rate_mbps, self._chunk_bytes = item.rate_mbps, item.chunk_bytes
                self._reading_ms = item.reading_ms
                self._free, self._read, self.bytes_out = 0.0, 0.0, 0
                self._lost.clear()
            else:
                self._send_together(item)
        self._connections.close()

    def _send_together(self, group: tuple[_Outgoing, ...]) -> None:
        under_way = [self._chunks(item) for item in group]
        while under_way:
            turn = under_way[:1] if math.isfinite(self._rate_mbps) else list(under_way)
            for chunks in turn:
                if not next(chunks, False):
                    under_way.remove(chunks)

    def _chunks(self, item: _Outgoing) -> Iterator[bool]:
        """Send a message's next chunk at each step; ends early if the peer does not take one."""
        size = min(self._chunk_bytes, max(QUANTUM_BYTES, math.ceil(len(item.payload) / MIN_CHUNKS)))
        if isinstance(item.message, ModelChunk):
            size = MAX_PAYLOAD_BYTES
        ready = self._when_read(item) if item.payload else item.ready
        for offset in range(0, len(item.payload) or 1, size):
            chunk, message = item.payload[offset : offset + size], item.message
            if chunk:
                self._pace(ready, len(chunk))
                message = msgspec.structs.replace(message, offset=offset)
                self.bytes_out += len(chunk)  # before it leaves: whoever has got it may ask for the sum
            if item.peer in self._lost:
                return
            if not self._connections.send(item.peer, message, chunk, self.patience_s):
                self._lost.add(item.peer)
                self._on_lost(item.peer)
                return
            yield True

    def _when_read(self, item: _Outgoing) -> float:
        """When a board would have read the message out of its memory, after the one before it."""
        message_ms, byte_ms = self._reading_ms
        self._read = max(item.ready, self._read) + (message_ms + len(item.payload) * byte_ms) / 1000.0
        return self._read

    def _pace(self, ready: float, payload_bytes: int) -> None:
        """Wait until the payload is read and a link of the set rate would have taken it."""
        self._free = max(ready, self._free) + occupancy_ms(payload_bytes, self._rate_mbps) / 1000.0
        sleep_until(self._free)
