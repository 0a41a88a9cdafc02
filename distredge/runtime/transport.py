"""Sockets: every node binds one inbox (PULL); whoever talks to it connects to it (PUSH). One direction a connection.

With keys every socket is a CURVE socket, and a message counts only if it came with the key of the node that it says
it is from. Links can be emulated in user space: the sender holds back what its uplink would, the receiver what its
downlink would, by the transfer model of `profiles.network`.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import socket as sockets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from distredge.errors import InputError
from distredge.plans.nodes import REQUESTER
from distredge.profiles.network import QUANTUM_BYTES, occupancy_ms
from distredge.runtime.keys import Keys
from distredge.runtime.message import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    Buffer,
    Message,
    MessageError,
    Probe,
    decode,
    encode,
)

_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

QUEUE_MESSAGES = 1000
"""High-water mark of a sending socket; what is really under way is bounded by the frames in flight."""

INBOX_MESSAGES = 64
"""Of a receiving socket, for each sender: what is not read must not fill the memory."""

COPIED_BYTES = 256 * 1024
"""What is not longer is copied when it is sent: that costs less than being told by another thread that it has left."""

REPORT_S = 1.0
"""Rejected messages are reported no more often."""

SILENCE_MS = 1500
"""A connection whose bytes nobody acknowledges for so long is given up and made anew."""

CONNECT_MS = 1000
"""So long may a connection take to be made before it is tried again."""

RECONNECT_MS = 100

HANDSHAKE_MS = 5000
"""Who connects and has not said who it is by then is cut off."""

KEEPALIVE_S = 5
"""A connection on which nothing came for so long is asked whether it is still there; after four times that it ends."""

LOW_DELAY = 0x10
"""Type of service of heartbeats, and of what receivers acknowledge: it passes bulk data where a queue knows classes."""

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
        self._keys = keys
        if keys is None and not is_loopback(host):
            raise InputError(f"listening at {address} needs keys, so that not everybody may connect: add --keys")
        self._socket = context.socket(zmq.PULL)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, INBOX_MESSAGES)
        self._socket.set(zmq.MAXMSGSIZE, max(MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES))
        self._socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._socket.set(zmq.TCP_KEEPALIVE, 1)  # a peer that is cut off does not close its connection
        self._socket.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
        self._socket.set(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
        self._socket.set(zmq.TCP_KEEPALIVE_CNT, 3)
        self._socket.set(zmq.TOS, LOW_DELAY)
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
        self._report_s = 0.0
        self._rate_mbps, self._free = math.inf, 0.0
        self._uplinks_mbps: dict[str, float] = {}
        self.received_s = 0.0
        self._under_way: deque[tuple[float, Message, Buffer]] = deque()

    def shape(self, rate_mbps: float, uplinks_mbps: Mapping[str, float] | None = None) -> None:
        """From now on deliver payload no faster than a link of this rate; infinite: as it comes.

        `uplinks_mbps` are the rates of the senders' emulated links, where they limit.
        """
        self._rate_mbps, self._free, self.bytes_in = rate_mbps, 0.0, 0
        self._uplinks_mbps = dict(uplinks_mbps or {})

    def receive(self, timeout_s: float) -> tuple[Message, Buffer] | None:
        """The next message, or None if none comes in time; `received_s` is then the monotonic time at which it came."""
        deadline = time.monotonic() + timeout_s
        while True:
            if math.isfinite(self._rate_mbps):
                self._take_all_in()
            now = time.monotonic()
            if self._under_way and self._under_way[0][0] <= now:
                self.received_s, message, payload = self._under_way.popleft()
                return message, payload
            due = min(deadline, self._under_way[0][0]) if self._under_way else deadline
            arrived = self._next(max(0.0, due - now))
            if arrived is not None and not self._is_held_back(*arrived):
                self.received_s = time.monotonic()
                return arrived
            if arrived is None and deadline <= now:
                return None

    def reject(self, reason: MessageError) -> None:
        """Count a message that cannot be used."""
        self.rejected += 1
        if time.monotonic() >= self._report_s:
            self._report_s = time.monotonic() + REPORT_S
            log.warning("dropped a message, the %d.: %.300r", self.rejected, str(reason))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take_all_in(self) -> None:
        """On an emulated link: move what has arrived behind what is under way, first come, first served.

        The socket would serve its connections in turn, whatever came first.
        """
        while (arrived := self._next(0.0)) is not None:
            if not self._is_held_back(*arrived):
                self._under_way.appendleft((0.0, *arrived))

    def _is_held_back(self, message: Message, payload: Buffer) -> bool:
        """Queue a message behind what the emulated link has to carry; one without payload overtakes that."""
        self.bytes_in += len(payload)
        if not (len(payload) and math.isfinite(self._rate_mbps)):
            return False
        self._free = self._passed_on(len(payload), self._uplinks_mbps.get(getattr(message, "sender", ""), math.inf))
        self._under_way.append((self._free, message, payload))
        return True

    def _passed_on(self, size: int, uplink_mbps: float) -> float:
        """When the emulated downlink has passed on what has just come from its sender's.

        It came quantum by quantum: the downlink, if free, had them all but the last before.
        """
        now, last = time.monotonic(), min(size, QUANTUM_BYTES)
        begun = now - occupancy_ms(size - last, uplink_mbps) / 1000.0
        passed = max(begun, self._free) + occupancy_ms(size, self._rate_mbps) / 1000.0
        return max(passed, now + occupancy_ms(last, self._rate_mbps) / 1000.0)

    def _next(self, timeout_s: float) -> tuple[Message, Buffer] | None:
        """The next message of the socket, whose own clock knows whole milliseconds only; what is none is dropped."""
        if 0.0 < timeout_s < 0.001:
            time.sleep(timeout_s)
            timeout_s = 0.0
        if timeout_s and not self._socket.poll(int(timeout_s * 1000.0)):
            return None
        try:
            return self._read()
        except MessageError as exc:
            self.reject(exc)
        except zmq.Again:
            pass
        return None

    def _read(self) -> tuple[Message, Buffer]:
        """The next message of the socket; the payload stays where the socket has put it."""
        frames = self._socket.recv_multipart(_NOBLOCK, copy=False)
        message, payload = decode([frames[0].bytes, *(frame.buffer for frame in frames[1:])])
        if self._keys and not isinstance(message, Probe):  # a probe is passed on, and does not say who sent it
            self._check_sender(self._keys, getattr(message, "sender", REQUESTER), str(frames[0].get("User-Id")))
        return message, payload

    def _check_sender(self, keys: Keys, name: str, key: str) -> None:
        """Raise `MessageError` unless the key with which a message came is that of the node that it is from."""
        if keys.allowed.name_of(key) != name:
            raise MessageError(f"a message from {name[:100]!r} that did not come with its key")


@dataclass(frozen=True)
class Peer:
    """Where a node listens, and its public key if connections are secured."""

    address: str
    key: bytes | None = None


def address_book(addresses: Mapping[str, str], keys: Keys | None) -> dict[str, Peer]:
    """The nodes by name; raises `InputError` for a malformed address, a missing key, another machine without keys."""
    for name, address in addresses.items():
        host, _ = parse_address(address)
        if keys is None and not is_loopback(host):
            raise InputError(f"without keys nothing is sent to another machine, '{name}' at {address!r}: add --keys")
    return {name: Peer(address, keys.of(name) if keys else None) for name, address in addresses.items()}


class Connections:
    """The sockets through which a node talks to others, by name. Used by one thread."""

    def __init__(self, context: Context, keys: Keys | None, urgent: bool = False) -> None:
        self._context, self._keys, self._urgent = context, keys, urgent
        self._sockets: dict[str, zmq.Socket[bytes]] = {}

    def connect(self, peers: Mapping[str, Peer]) -> None:
        """Talk to these from now on, and to nobody else."""
        self.close()
        for name, peer in peers.items():
            try:
                self._connect(name, peer)
            except (zmq.ZMQError, ValueError) as exc:  # no address, or no more files may be open
                self.close()
                raise InputError(f"cannot connect to '{name}' at {peer.address!r}: {exc}") from exc

    def _connect(self, name: str, peer: Peer) -> None:
        socket = self._sockets[name] = self._context.socket(zmq.PUSH)
        socket.set(zmq.IMMEDIATE, 1)
        socket.set(zmq.SNDHWM, QUEUE_MESSAGES)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.TCP_MAXRT, SILENCE_MS)
        socket.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        if self._urgent:
            socket.set(zmq.TOS, LOW_DELAY)
        if self._keys and peer.key:
            self._keys.secure_caller(socket, peer.key)
        socket.connect(f"tcp://{peer.address}")

    def send(self, peer: str, message: Message, payload: Buffer = b"", patience_s: float = 0.0) -> bool:
        """Hand a message to the socket; False if the peer takes none within `patience_s`.

        A long payload (`COPIED_BYTES`) is not copied: it must not change until it has left.
        """
        socket = self._sockets.get(peer)
        if socket is None:
            return False
        if patience_s and not socket.poll(round(patience_s * 1000), zmq.POLLOUT):
            return False
        try:
            if len(payload):
                socket.send(encode(message), _NOBLOCK_MORE)
                socket.send(payload, _NOBLOCK, copy=len(payload) <= COPIED_BYTES)
            else:
                socket.send(encode(message), _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close all; what has been handed over has a moment to leave."""
        for socket in self._sockets.values():
            socket.close(linger=300)
        self._sockets.clear()
