"""Connections that nobody asked for: what arrives at a port in a network where others are.

All are made to loopback, from many of its addresses.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Protocol

import zmq

HELD = 64
"""So many connections are kept open, whether they get an answer or not; then the oldest one is closed."""

READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"


class _Closable(Protocol):
    def close(self) -> None: ...


def greeting(mechanism: bytes, minor: int = 1, as_server: bool = False) -> bytes:
    """With which a connection of ZMTP 3 begins."""
    return (
        b"\xff" + bytes(8) + b"\x7f\x03" + bytes([minor]) + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)
    )


def command(body: bytes, size: int | None = None) -> bytes:
    """A long command of ZMTP, which may lie about its size."""
    return b"\x06" + struct.pack(">Q", len(body) if size is None else size) + body


def frame(body: bytes, size: int | None = None) -> bytes:
    """A long frame of ZMTP with more to follow, which may lie about its size."""
    return b"\x03" + struct.pack(">Q", len(body) if size is None else size) + body


def _hello(rng: Random) -> bytes:
    """The first command of CURVE, well formed, but made with nobody's key."""
    return command(b"\x05HELLO\x01\x00" + bytes(72) + rng.randbytes(32 + 8 + 80))


WORDS: dict[str, Callable[[Random], bytes]] = {
    "nothing": lambda rng: b"",
    "half a greeting": lambda rng: greeting(b"CURVE")[: rng.randint(1, 63)],
    "a greeting": lambda rng: greeting(
        rng.choice((b"CURVE", b"NULL", b"PLAIN", b"GSSAPI", b"\xff" * 20)), rng.randint(0, 9)
    ),
    "a plain node": lambda rng: greeting(b"NULL") + command(READY) + frame(b"\x93\xa4Stop\xa1s\xc2") + b"\x00\x01x",
    "a plain node of old": lambda rng: rng.choice(
        (b"\x01\x00\x06\x00hello", b"\xff" + bytes(7) + b"\x01\x7f\x01\x08\x00\x00\x00\x05hello")
    ),
    "a server": lambda rng: greeting(b"CURVE", as_server=True) + command(b"\x07WELCOME" + rng.randbytes(160)),
    "a forged hello": lambda rng: greeting(b"CURVE") + _hello(rng),
    "a late command": lambda rng: (
        greeting(b"CURVE")
        + command(rng.choice((b"\x08INITIATE", b"\x07MESSAGE", b"\x05ERROR\xff", READY)) + rng.randbytes(200))
    ),
    "an endless size": lambda rng: (
        greeting(rng.choice((b"CURVE", b"NULL"))) + command(b"x" * 50, rng.choice((2**40, 2**63, 2**64 - 1)))
    ),
    "HTTP": lambda rng: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": lambda rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
    "noise": lambda rng: rng.randbytes(rng.choice((1, 10, 64, 500, 20000))),
}
"""What a stranger says first, by kind."""


class Strangers:
    """Connects to nodes that do not know it; close it when done.

    `doors` are the nodes' addresses with their public keys (None: they have none).
    """

    def __init__(self, rng: Random, doors: Sequence[tuple[str, bytes | None]]) -> None:
        self._rng, self._doors = rng, doors
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._held: deque[_Closable] = deque()

    def knock(self) -> str:
        """Make one more connection; what kind it was."""
        address, key = self._rng.choice(self._doors)
        with suppress(ConnectionRefusedError):  # it is not there at the moment: for others to judge
            return self._knock_at(address, key)
        return "nobody there"

    def _knock_at(self, address: str, key: bytes | None) -> str:
        kind = self._rng.choice((*WORDS, "a wrong key", "words in drops"))
        if kind == "a wrong key":
            self._hold(self._with_wrong_key(address, key))
        elif kind == "words in drops":
            self._drip(self._call(address))
        else:
            self._hold(self._call(address, WORDS[kind](self._rng)))
        return kind

    def close(self) -> None:
        """Close what is open."""
        while self._held:
            self._held.popleft().close()
        self._context.destroy(linger=0)

    def _hold(self, connection: _Closable) -> None:
        self._held.append(connection)
        if len(self._held) > HELD:
            self._held.popleft().close()

    def _call(self, address: str, words: bytes = b"") -> socket.socket:
        """A connection over which something was said; one in two is later closed by a reset."""
        host, port = address.split(":")
        source = f"127.{self._rng.randint(1, 250)}.{self._rng.randint(0, 250)}.{self._rng.randint(2, 250)}"
        connection = socket.create_connection((host, int(port)), timeout=5.0, source_address=(source, 0))
        if self._rng.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _say(connection, words)
        return connection

    def _drip(self, connection: socket.socket) -> None:
        """Say some bytes more on all that is open: they come one by one, without an end."""
        self._hold(connection)
        for held in self._held:
            if isinstance(held, socket.socket):
                _say(held, self._rng.choice((greeting(b"CURVE")[:1], b"\x00", self._rng.randbytes(1))))

    def _with_wrong_key(self, address: str, key: bytes | None) -> zmq.Socket[bytes]:
        """A node that does everything right, with a key pair that nobody has heard of, for one server or for none."""
        caller = self._context.socket(zmq.PUSH)
        caller.set(zmq.LINGER, 0)
        caller.curve_publickey, caller.curve_secretkey = zmq.curve_keypair()
        caller.curve_serverkey = key if key and self._rng.random() < 0.8 else zmq.curve_keypair()[0]
        caller.connect(f"tcp://{address}")
        with suppress(zmq.Again):  # the node may have hung up by now
            caller.send(b"\x93\xa4Stop\xa1s\xc2", zmq.NOBLOCK)
        return caller


def _say(connection: socket.socket, words: bytes) -> None:
    connection.settimeout(0.0)
    with suppress(OSError):  # the other side may have hung up, or not take all of it
        connection.send(words)
