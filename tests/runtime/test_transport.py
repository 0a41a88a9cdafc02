"""Sockets: who may connect, what an inbox makes of garbage, and how fast a shaped link is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from distredge.errors import InputError
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.message import Heartbeat, Message, RowsChunk, encode
from distredge.runtime.transport import Connections, Context, Inbox, Sender, address_book

CHUNK = RowsChunk("s", "a", 0, 0, -1, (0, 1), 0, 1.0)


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as context:
        yield context


def receive_all(inbox: Inbox, timeout_s: float = 0.5) -> list[tuple[Message, bytes]]:
    got = []
    while arrived := inbox.receive(timeout_s):
        got.append(arrived)
    return got


@pytest.mark.parametrize("address", ["5701", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", ":5701"])
def test_a_malformed_address_is_bad_input(context: Context, address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        Inbox(context, address, None)


def test_a_port_in_use_is_bad_input(context: Context) -> None:
    taken = Inbox(context, "127.0.0.1:0", None)
    with pytest.raises(InputError, match=f"cannot listen at {taken.address}.*another port"):
        Inbox(context, taken.address, None)
    taken.close()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:5701"])
def test_other_machines_may_connect_only_with_keys(context: Context, address: str) -> None:
    with pytest.raises(InputError, match="--keys"):
        Inbox(context, address, None)


def test_garbage_is_dropped_and_what_follows_arrives(context: Context) -> None:
    inbox = Inbox(context, "127.0.0.1:0", None)
    with context.socket(zmq.PUSH) as stranger:
        stranger.connect(f"tcp://{inbox.address}")
        stranger.send_multipart([b"\x93\x01\x02", b"", b"x"])
        stranger.send(b"GET / HTTP/1.1\r\n\r\n")
        stranger.send_multipart([encode(CHUNK)])
        stranger.send(encode(Heartbeat("s", "a")))
        assert receive_all(inbox) == [(Heartbeat("s", "a"), b"")]
    assert inbox.rejected == 3
    inbox.close()


def keys_for(folder: Path, *names: str) -> dict[str, Keys]:
    create_keys(folder, names)
    return {name: Keys.load(folder, name) for name in names}


def test_keys_let_in_whom_they_name_and_nobody_else(context: Context, tmp_path: Path) -> None:
    ours, theirs = keys_for(tmp_path / "ours", "a", "b"), keys_for(tmp_path / "theirs", "a", "b")
    gate = ours["b"].start_gate(context)
    inbox = Inbox(context, "127.0.0.1:0", ours["b"])
    book = address_book({"b": inbox.address}, ours["a"])
    strangers = Connections(context, theirs["a"]), Connections(context, None), Connections(context, theirs["a"])
    strangers[0].connect(book)
    strangers[1].connect(address_book({"b": inbox.address}, None))
    strangers[2].connect(address_book({"b": inbox.address}, theirs["a"]))
    friend = Connections(context, ours["a"])
    friend.connect(book)
    assert friend.send("b", Heartbeat("s", "a"), patience_s=5.0)
    assert not any(stranger.send("b", Heartbeat("s", "stranger"), patience_s=0.3) for stranger in strangers)
    assert receive_all(inbox) == [(Heartbeat("s", "a"), b"")]
    for connections in (*strangers, friend):
        connections.close()
    inbox.close()
    gate.stop()


def test_private_keys_are_private(tmp_path: Path) -> None:
    create_keys(tmp_path, ["a"])
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    assert (tmp_path / "private" / "a.key_secret").stat().st_mode & 0o077 == 0
    assert b"secret-key" not in (tmp_path / "public" / "a.key").read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"), [("nobody", "distredge keys"), ("../private/a", "slashes"), ("", "slashes")]
)
def test_a_missing_key_is_bad_input(tmp_path: Path, name: str, reason: str) -> None:
    own = keys_for(tmp_path, "a")["a"]
    with pytest.raises(InputError, match=reason):
        Keys.load(tmp_path, name)
    with pytest.raises(InputError, match=reason):
        own.of(name)


def test_a_peer_that_is_not_there_is_reported_once(context: Context) -> None:
    lost: list[str] = []
    sender = Sender(context, None, lost.append)
    sender.patience_s = 0.2
    sender.start()
    sender.reset(address_book({"b": "127.0.0.1:9"}, None))
    sender.put("b", Heartbeat("s", "a"))
    sender.put("b", Heartbeat("s", "a"))
    sender.stop()
    assert lost == ["b"]


@pytest.mark.parametrize(("up_mbps", "down_mbps"), [(20.0, float("inf")), (float("inf"), 20.0), (20.0, 20.0)])
def test_a_shaped_link_is_no_faster_than_its_rate(context: Context, up_mbps: float, down_mbps: float) -> None:
    payload = bytes(range(250)) * 1000
    inbox = Inbox(context, "127.0.0.1:0", None)
    inbox.shape(down_mbps)
    sender = Sender(context, None, lambda peer: None)
    sender.start()
    sender.reset(address_book({"b": inbox.address}, None), up_mbps, chunk_bytes=16384)
    begun = time.monotonic()
    sender.put("b", CHUNK, memoryview(payload))
    got = b""
    while len(got) < len(payload) and (arrived := inbox.receive(5.0)):
        got += arrived[1]
    took = time.monotonic() - begun
    sender.stop()
    inbox.close()
    assert got == payload
    assert took >= len(payload) * 8 / 20e6
