"""Who gets in, over real sockets: with the right key a message arrives, with anything else nothing does."""

from __future__ import annotations

import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
import zmq

from distredge.errors import InputError
from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan
from distredge.runtime import keys as keys_module
from distredge.runtime import transport as transport_module
from distredge.runtime.keys import RECHECK_S, Keys, create_keys
from distredge.runtime.launch import Launcher
from distredge.runtime.message import (
    MAX_HEADER_BYTES,
    Heartbeat,
    Message,
    MessageError,
    ResultChunk,
    RowsChunk,
    Setup,
    decode,
    encode,
)
from distredge.runtime.provider import Provider
from distredge.runtime.results import Results
from distredge.runtime.store import ModelStore
from distredge.runtime.transport import Connections, Context, Inbox, address_book
from distredge.scenario import REQUESTER
from distredge.testing.fuzz_inside import InsideProvider
from distredge.testing.fuzz_outside import HonestStream, Size, free_address
from distredge.testing.fuzzing import Insight, insight
from distredge.testing.providers import equal_plan
from distredge.testing.strangers import READY, WORDS, Strangers, command, greeting
from distredge.testing.toy_models import residual, save_model

BEAT = Heartbeat("s", "a")


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as context:
        yield context


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of the nodes `a`, `b` and `c`."""
    create_keys(tmp_path, ["a", "b", "c"])
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BoundPlan:
    """A toy model shared by `a` and `b`."""
    path = save_model(residual(np.random.default_rng(0)), tmp_path_factory.mktemp("model"))
    return equal_plan(load_model(path), ["a", "b"])


@contextmanager
def listening(context: Context, keys: Keys | None) -> Iterator[Inbox]:
    gate = keys.start_gate(context) if keys else None
    inbox = Inbox(context, "127.0.0.1:0", keys)
    try:
        yield inbox
    finally:
        inbox.close()
        if gate:
            gate.stop()


def next_messages(inbox: Inbox, timeout_s: float) -> list[Message]:
    """What arrives until nothing has for so long."""
    got = []
    while arrived := inbox.receive(timeout_s):
        got.append(arrived[0])
    return got


def still_hears(inbox: Inbox, context: Context, keys: Keys | None) -> bool:
    """Whether a message of the node `a`, which knows `b`, arrives."""
    friend = Connections(context, keys)
    friend.connect(address_book({"b": inbox.address}, keys))
    friend.send("b", BEAT, patience_s=5.0)
    arrived = inbox.receive(5.0)
    friend.close()
    return arrived == (BEAT, b"")


def connected(inbox: Inbox, words: bytes) -> socket.socket:
    host, port = inbox.address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10.0)
    connection.sendall(words)
    return connection


def hangs_up(connection: socket.socket) -> bool:
    """Whether the other end closes the connection within its timeout."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# Without keys.


def test_without_keys_a_provider_listens_on_loopback_only(context: Context) -> None:
    for address in ("0.0.0.0:0", "192.0.2.1:5701"):
        with pytest.raises(InputError, match="--keys"):
            Provider("a", address)
    with listening(context, None) as inbox:
        port = int(inbox.address.split(":")[1])
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        hosts = {
            local.split(":")[0] for _, local, _, state, *_ in lines if state == "0A" and int(local[-4:], 16) == port
        }
        assert hosts == {"0100007F"}


def test_without_keys_nothing_is_sent_to_another_machine(model: BoundPlan, tmp_path: Path) -> None:
    nodes = {REQUESTER: "127.0.0.1:9", "a": "127.0.0.1:9", "b": "192.0.2.1:5701"}
    provider = InsideProvider("a", ModelStore(tmp_path))
    with pytest.raises(MessageError, match="add --keys"):
        provider.take([encode(insight(model, nodes, "s").setups[0])])
    assert not provider.is_serving


# With keys.


@pytest.mark.parametrize("kind", WORDS)
def test_strangers_get_nothing_in_and_keep_nobody_out(context: Context, folder: Path, kind: str) -> None:
    with listening(context, Keys.load(folder, "b")) as inbox:
        strangers = [connected(inbox, WORDS[kind](Random(seed))) for seed in range(10)]
        assert next_messages(inbox, 0.2) == []
        assert still_hears(inbox, context, Keys.load(folder, "a"))
        assert inbox.rejected == 0  # not even looked at
        for stranger in strangers:
            stranger.close()


def test_a_crowd_of_strangers_gets_nothing_in(context: Context, folder: Path) -> None:
    keys = Keys.load(folder, "b")
    with listening(context, keys) as inbox:
        crowd = Strangers(Random(0), [(inbox.address, keys.public)])
        kinds = {crowd.knock() for _ in range(500)}
        assert "a wrong key" in kinds
        assert next_messages(inbox, 0.5) == []
        assert still_hears(inbox, context, Keys.load(folder, "a"))
        assert inbox.rejected == 0
        crowd.close()


@pytest.mark.parametrize("with_keys", [True, False])
@pytest.mark.parametrize("words", [b"", greeting(b"CURVE")[:20], greeting(b"NULL")[:64]])
def test_who_says_nothing_is_cut_off(
    context: Context, folder: Path, monkeypatch: pytest.MonkeyPatch, with_keys: bool, words: bytes
) -> None:
    monkeypatch.setattr(transport_module, "HANDSHAKE_MS", 300)
    with listening(context, Keys.load(folder, "b") if with_keys else None) as inbox:
        with connected(inbox, words) as silent:
            assert hangs_up(silent)


def test_a_key_that_is_taken_away_opens_nothing_any_more(
    context: Context, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a new connection nor the one that it has."""
    monkeypatch.setattr(keys_module, "RECHECK_S", 0.0)
    with listening(context, Keys.load(folder, "b")) as inbox:
        lost, again, honest = (Connections(context, Keys.load(folder, name)) for name in ("a", "a", "c"))
        book = address_book({"b": inbox.address}, Keys.load(folder, "a"))
        other = Heartbeat("s", "c")
        try:
            lost.connect(book)
            assert lost.send("b", BEAT, patience_s=5.0)
            assert next_messages(inbox, 1.0) == [BEAT]
            (folder / "public" / "a.key").unlink()
            assert lost.send("b", BEAT, patience_s=5.0)
            assert next_messages(inbox, 0.5) == []
            assert inbox.rejected == 1
            again.connect(book)
            assert not again.send("b", BEAT, patience_s=0.5)
            honest.connect(book)
            assert honest.send("b", other, patience_s=5.0)
            assert next_messages(inbox, 1.0) == [other]
        finally:
            for connections in (lost, again, honest):
                connections.close()


@pytest.mark.slow
def test_a_stream_goes_on_without_a_device_whose_key_is_taken_away(folder: Path, model: BoundPlan) -> None:
    """The device itself does not know and goes on as before."""
    create_keys(folder, [REQUESTER])
    with Launcher(["a", "b"], folder) as launcher:
        stream = HonestStream(model, launcher.addresses, Keys.load(folder, REQUESTER), free_address())
        stream.start()
        stream.wait_for(20)
        (folder / "public" / "a.key").unlink()
        time.sleep(RECHECK_S + 3.0)
        before = stream.images
        stream.wait_for(before + 20)
        stream.finish()
    assert stream.images >= before + 20 > 40
    assert not stream.problems


# Sizes.


@pytest.mark.parametrize("size", [2**63 - 1, 2**40, 2**30, MAX_HEADER_BYTES + 1])
@pytest.mark.parametrize("stage", ["command", "frame"])
def test_a_frame_of_impossible_size_ends_its_connection_before_memory_is_taken(
    context: Context, size: int, stage: str
) -> None:
    with listening(context, None) as inbox:
        words = greeting(b"NULL") + (command(READY) + b"\x02" if stage == "frame" else b"\x06")
        before = Size.of("self")
        with connected(inbox, words + struct.pack(">Q", size) + bytes(1000)) as connection:
            assert hangs_up(connection)
        assert Size.of("self").memory_kb - before.memory_kb < 4096
        assert still_hears(inbox, context, None)


def peak_bytes(work: object) -> int:
    tracemalloc.start()
    try:
        work()  # type: ignore[operator]
    except MessageError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("claim", [b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_a_header_that_claims_more_than_it_holds_takes_no_memory(claim: bytes) -> None:
    for at in range(1, len(encode(BEAT)) + 1):
        assert peak_bytes(lambda at=at: decode([encode(BEAT)[:at] + claim])) < 100_000


@pytest.fixture
def known(model: BoundPlan, tmp_path: Path) -> tuple[Insight, InsideProvider, Results]:
    store = ModelStore(tmp_path / "store")
    store.offer(model.graph)
    facts = insight(model, {name: "127.0.0.1:9" for name in (REQUESTER, "a", "b")}, "s")
    return facts, InsideProvider("a", store), Results(model, "float32", lambda frame, outputs: None)


def test_a_plan_of_impossible_size_takes_no_memory(known: tuple[Insight, InsideProvider, Results]) -> None:
    facts, provider, _ = known
    setup = facts.setups[0]
    stage = setup.stages[0]
    huge = msgspec.structs.replace(stage.inputs[0], rows=(0, 2**20), shape=(2**12, 2**20, 2**12))
    setup = msgspec.structs.replace(setup, stages=(msgspec.structs.replace(stage, inputs=(huge,)),))
    rows = RowsChunk("s", "b", 0, 0, stage.boundary, huge.layer, (0, 2**20), 0, 1.0)
    assert peak_bytes(lambda: provider.take([encode(setup)])) < 1_000_000
    assert peak_bytes(lambda: provider.take([encode(rows), bytes(4096)])) < 1_000_000
    assert not provider.is_serving


@pytest.mark.parametrize("rows", [(0, 2**40), (2**39, 2**40), (0, 2**24)])
def test_rows_that_nobody_waits_for_take_no_memory(
    known: tuple[Insight, InsideProvider, Results], rows: tuple[int, int]
) -> None:
    facts, provider, _ = known
    setup = facts.setups[0]
    stage = setup.stages[0]
    provider.take([encode(setup)])
    chunk = RowsChunk("s", "b", 0, 0, stage.boundary, stage.inputs[0].layer, rows, 0, 1.0)
    with pytest.raises(MessageError):
        provider.take([encode(chunk), bytes(4096)])
    assert peak_bytes(lambda: provider.take([encode(chunk), bytes(4096)])) < 1_000_000


@pytest.mark.parametrize("shape", [(1, 2**40), (2**40,), (2**20, 2**20), (1, 10, 2**40)])
def test_a_result_of_impossible_size_takes_no_memory(
    known: tuple[Insight, InsideProvider, Results], shape: tuple[int, ...]
) -> None:
    results = known[2]
    chunk = ResultChunk("s", "a", 0, 0, 0, 0, 1.0, shape, "float32")
    with pytest.raises(MessageError):
        results.add(chunk, bytes(4096))
    assert peak_bytes(lambda: results.add(chunk, bytes(4096))) < 100_000


# Old epochs.


def test_a_plan_of_an_older_epoch_is_refused(known: tuple[Insight, InsideProvider, Results], tmp_path: Path) -> None:
    facts, _, _ = known
    provider = InsideProvider("a", ModelStore(tmp_path))
    for epoch, taken in ((5, True), (3, False), (5, True), (4, False), (6, True), (5, False)):
        setup: Setup = msgspec.structs.replace(facts.setups[0], epoch=epoch, oldest=max(0, epoch - 1))
        if taken:
            provider.take([encode(setup)])
        else:
            with pytest.raises(MessageError):
                provider.take([encode(setup)])
