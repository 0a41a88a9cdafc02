"""Sockets: who may connect, what an inbox makes of garbage, and how fast a shaped link is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from msgspec.structs import replace

from distredge.errors import InputError
from distredge.profiles.network import PACED_BYTES
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.message import Heartbeat, Message, Pulse, RowsChunk, encode
from distredge.runtime.outbox import Pace
from distredge.runtime.sender import SocketOutbox
from distredge.runtime.transport import Connections, Context, Inbox, address_book
from distredge.scenario import REQUESTER

CHUNK = RowsChunk("s", "a", 1, 0, 0, -1, (0, 1), 0, 1.0)


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


def test_a_node_cannot_speak_for_another(context: Context, tmp_path: Path) -> None:
    keys = keys_for(tmp_path, "a", "b", "c", REQUESTER)
    gate = keys["b"].start_gate(context)
    inbox = Inbox(context, "127.0.0.1:0", keys["b"])
    liar = Connections(context, keys["c"])
    liar.connect(address_book({"b": inbox.address}, keys["c"]))
    assert liar.send("b", Heartbeat("s", "a"), patience_s=5.0)
    assert liar.send("b", Pulse("s", 1, 0.0))  # which only the requester sends
    assert liar.send("b", Heartbeat("s", "nobody"))
    assert liar.send("b", Heartbeat("s", "c"))
    assert receive_all(inbox) == [(Heartbeat("s", "c"), b"")]
    assert inbox.rejected == 3
    liar.close()
    inbox.close()
    gate.stop()


def test_a_peer_that_is_not_there_is_reported_once(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.runtime.sender.CONNECT_S", 0.2)
    lost: list[str] = []
    outbox = SocketOutbox(context, None, lost.append)
    outbox.open({"b": "127.0.0.1:9"}, Pace())
    outbox.put("b", Heartbeat("s", "a"))
    outbox.put("b", Heartbeat("s", "a"))
    outbox.put("b", CHUNK, memoryview(b"rows"))
    outbox.close(patience_s=5.0)
    assert lost == ["b"]


def test_one_that_takes_nothing_holds_nobody_up(context: Context) -> None:
    inbox = Inbox(context, "127.0.0.1:0", None)
    outbox = SocketOutbox(context, None, lambda peer: None)
    outbox.open({"gone": "127.0.0.1:9", "b": inbox.address}, Pace())
    outbox.put("gone", Heartbeat("s", "a"))
    outbox.put("gone", CHUNK, memoryview(b"rows"))
    outbox.put("b", CHUNK, memoryview(b"rows"))
    assert inbox.receive(2.0) is not None
    outbox.close(patience_s=0.0)
    inbox.close()


def test_payload_of_epochs_that_are_over_is_not_sent(context: Context) -> None:
    inbox = Inbox(context, "127.0.0.1:0", None)
    outbox = SocketOutbox(context, None, lambda peer: None)
    outbox.open({"b": inbox.address}, Pace(uplink_mbps=1.0))
    for epoch in (1, 2):
        outbox.put("b", replace(CHUNK, epoch=epoch), memoryview(bytes(200_000)))  # 1.6 s each
    assert inbox.receive(2.0) is not None
    outbox.renew(oldest=2)
    got = []
    while not got or got[-1].epoch == 1:
        arrived = inbox.receive(2.0)
        assert arrived is not None
        got.append(arrived[0])
    assert len(got) <= 4
    outbox.close(patience_s=0.0)
    inbox.close()


@pytest.mark.parametrize("emulated", [True, False])
@pytest.mark.parametrize(("up_mbps", "down_mbps"), [(20.0, float("inf")), (float("inf"), 20.0), (20.0, 20.0)])
def test_a_limited_link_is_no_faster_than_its_rate(
    context: Context, up_mbps: float, down_mbps: float, emulated: bool
) -> None:
    payload = bytes(range(250)) * 1000
    inbox = Inbox(context, "127.0.0.1:0", None)
    inbox.shape(down_mbps if emulated else float("inf"))
    outbox = SocketOutbox(context, None, lambda peer: None)
    outbox.open({"b": inbox.address}, Pace(up_mbps, {} if emulated else {"b": down_mbps}, emulated))
    begun = time.monotonic()
    outbox.put("b", CHUNK, memoryview(payload))
    got = b""
    while len(got) < len(payload) and (arrived := inbox.receive(5.0)):
        got += arrived[1]
    took = time.monotonic() - begun
    outbox.close(patience_s=0.0)
    inbox.close()
    assert got == payload
    # A real link takes the last quantum's time itself.
    assert took >= (len(payload) - (0 if emulated else PACED_BYTES)) * 8 / 20e6


@pytest.mark.parametrize("mbps", [1500.0, 4000.0])
def test_a_paced_sender_never_falls_asleep(context: Context, mbps: float) -> None:
    """As it did, once in hours, when the time until the next chunk had passed before it was waited for."""
    inbox = Inbox(context, "127.0.0.1:0", None)
    outbox = SocketOutbox(context, None, lambda peer: None)
    outbox.open({"b": inbox.address}, Pace(uplink_mbps=mbps))
    payload = memoryview(bytes(2 * PACED_BYTES))
    for round_ in range(700):
        outbox.put("b", CHUNK, payload)
        outbox.put("b", CHUNK, payload)
        for _ in range(4):
            assert inbox.receive(3.0) is not None, f"nothing came in round {round_}"
    outbox.close(patience_s=0.0)
    inbox.close()
