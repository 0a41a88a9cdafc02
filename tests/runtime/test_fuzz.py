"""Frames by chance, to all that takes any: each is a message or refused, and nobody suffers from it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.errors import InputError
from distredge.model.load import load_model
from distredge.runtime.message import (
    Emulation,
    Heartbeat,
    Hop,
    Message,
    MessageError,
    ModelChunk,
    Probe,
    RowsChunk,
    Setup,
    decode,
    encode,
)
from distredge.runtime.outbox import Pace
from distredge.runtime.sender import SocketOutbox
from distredge.runtime.store import ModelStore
from distredge.scenario import REQUESTER
from distredge.testing.fuzz_inside import InsideProvider, Verdicts, fuzz_inside
from distredge.testing.fuzz_run import PARTS, run
from distredge.testing.fuzzing import NESTED, Fuzzer, Insight, insight
from distredge.testing.providers import equal_plan
from distredge.testing.toy_models import residual, save_model

NODES = {name: "127.0.0.1:9" for name in (REQUESTER, "a", "b")}


@dataclass(frozen=True)
class Scene:
    """A model in a store, and what there is to know of a session that runs it."""

    known: Insight
    store: ModelStore

    @property
    def setup(self) -> Setup:
        return self.known.setups[0]

    def provider(self) -> InsideProvider:
        return InsideProvider("a", self.store)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    graph = load_model(save_model(residual(np.random.default_rng(0)), folder))
    store = ModelStore(folder / "store")
    store.offer(graph)
    return Scene(insight(equal_plan(graph, ["a", "b"]), NODES, "session"), store)


# What the fuzzer makes.


def test_the_fuzzer_makes_messages_of_all_kinds_and_what_is_none(scene: Scene) -> None:
    fuzzer, kinds, refused = Fuzzer(Random(0), scene.known), set(), 0
    for _ in range(3000):
        try:
            kinds.add(type(decode(fuzzer.frames())[0]))
        except (MessageError, RecursionError):
            refused += 1
    assert kinds == set(Message.__args__)
    assert refused > 300


def test_the_fuzzer_sends_nobody_to_an_address_that_is_not_known() -> None:
    known = Insight(
        {"addresses": [{REQUESTER: "192.0.2.1:80"}, {REQUESTER: "127.0.0.1:9"}]}, (), frozenset(["127.0.0.1:9"])
    )
    fuzzer, seen = Fuzzer(Random(1), known), set()
    for _ in range(3000):
        try:
            message, _ = decode(fuzzer.frames())
        except (MessageError, RecursionError):
            continue
        if isinstance(message, Setup):
            seen.update(message.addresses.values())
    assert seen == {"127.0.0.1:9"}


def test_one_seed_one_attack(scene: Scene) -> None:
    first, second = (Fuzzer(Random(7), scene.known) for _ in range(2))
    assert [first.frames() for _ in range(300)] == [second.frames() for _ in range(300)]


# What takes it.


@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=1000, deadline=None)
def test_frames_are_a_message_or_refused(rng: Random) -> None:
    try:
        message, payload = decode(Fuzzer(rng).frames())
    except MessageError:
        return
    assert isinstance(message, Message)
    assert encode(message)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_provider_survives_what_somebody_sends_who_knows_its_session(scene: Scene, seed: int) -> None:
    verdicts = Verdicts()
    fuzz_inside(Fuzzer(Random(seed), scene.known), 50, scene.provider().take, time.monotonic() + 60.0, verdicts)
    assert not verdicts.faults


def rows(setup: Setup, payload_bytes: int, **changed: Any) -> tuple[RowsChunk, bytes]:
    """The first chunk of what the first stage waits for."""
    stage = setup.stages[0]
    piece = stage.inputs[0]
    chunk = RowsChunk(
        session=setup.session,
        sender="b",
        epoch=setup.epoch,
        frame=0,
        boundary=stage.boundary,
        layer=piece.layer,
        rows=piece.rows,
        offset=0,
        scale=1.0,
    )
    return msgspec.structs.replace(chunk, **changed), bytes(payload_bytes)


def reshaped(setup: Setup, rows: tuple[int, int], shape: tuple[int, int, int]) -> Setup:
    """A setup whose first stage waits for another piece."""
    stage = setup.stages[0]
    piece = msgspec.structs.replace(stage.inputs[0], rows=rows, shape=shape)
    return msgspec.structs.replace(setup, stages=(msgspec.structs.replace(stage, inputs=(piece,)), *setup.stages[1:]))


def model_chunk(setup: Setup, *files: tuple[str, int], file: int = 0) -> tuple[ModelChunk, bytes]:
    return ModelChunk(setup.session, setup.model_sha256, files, file, 0), b"xx"


def takes(provider: InsideProvider, *messages: Message | tuple[Message, bytes]) -> bool:
    """Whether all are taken; False if one is refused. Anything else is raised."""
    try:
        for message in messages:
            provider.take([encode(message[0]), message[1]] if isinstance(message, tuple) else [encode(message)])
    except MessageError:
        return False
    return True


def test_nesting_without_end_is_refused() -> None:
    header = encode(Probe("s", 0, 1, 0, (Hop("a", 1),), ()))
    with pytest.raises(MessageError):
        decode([bytes([header[0] + 1]) + header[1:] + NESTED, b"x"])


@pytest.mark.parametrize(("wanted", "shape"), [((0, 50), (3, 5, 8)), ((0, 5), (3, 50, 8)), ((7, 2), (3, 5, 8))])
def test_rows_that_do_not_fit_their_shape_harm_nobody(
    scene: Scene, wanted: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    provider, setup = scene.provider(), reshaped(scene.setup, wanted, shape)
    takes(provider, setup, rows(setup, 3 * 50 * 8 * 4))
    takes(provider, rows(setup, 3 * 5 * 8 * 4))


@pytest.mark.parametrize(
    "files",
    [
        (("a\0.onnx", 10),),
        (("../a.onnx", 10),),
        (("a.onnx", 10), ("a.onnx", 10)),
        (("", 10),),
        (("x" * 300 + ".onnx", 9),),
    ],
)
def test_impossible_names_of_files_are_refused(scene: Scene, files: tuple[tuple[str, int], ...]) -> None:
    provider, outside = scene.provider(), scene.store.folder.parent
    before = set(outside.iterdir())
    takes(provider, scene.setup, model_chunk(scene.setup, *files))
    assert not provider.is_serving
    assert set(outside.iterdir()) == before


def test_a_model_whose_list_of_files_changes_under_way_is_refused(scene: Scene) -> None:
    provider = scene.provider()
    takes(provider, scene.setup, model_chunk(scene.setup, ("a.onnx", 2), ("b", 5)))
    assert provider.is_serving
    takes(provider, model_chunk(scene.setup, ("a.onnx", 2), file=1))
    assert not provider.is_serving


@pytest.mark.parametrize("sha256", ["../outside/x", "/etc", "..", "A" * 64, "0" * 63, "0" * 64 + "\n", "\0"])
def test_what_is_no_hash_leads_nowhere(scene: Scene, sha256: str) -> None:
    assert not takes(scene.provider(), msgspec.structs.replace(scene.setup, model_sha256=sha256))


@pytest.mark.parametrize("address", ["a b:1", "a/b:1", "127.0.0.1:99999", "\0:1", ""])
def test_an_address_that_is_none_is_bad_input_to_sockets_too(address: str) -> None:
    with zmq.Context() as context:
        outbox = SocketOutbox(context, None, lambda peer: None)
        try:
            with pytest.raises(InputError):
                outbox.open({"b": address}, Pace())
            outbox.answer(address, "b", Heartbeat("s", "a"))  # nobody that could be answered
        finally:
            outbox.close(patience_s=0.0)


@pytest.mark.parametrize("hold_ms", [1e9, 1e8])
def test_nobody_is_held_up_for_days(scene: Scene, hold_ms: float) -> None:
    held = Emulation(tuple(hold_ms for _ in scene.setup.stages), None)
    assert not takes(scene.provider(), msgspec.structs.replace(scene.setup, emulation=held))


# The whole, over sockets.


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_the_long_fuzz(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    share, _ = PARTS[part]
    (done,) = run(round(4000 / share), seed=1, minutes=1.0 / share, names=[part])
    assert not done.faults
    assert done.count >= 4000
    assert part in capsys.readouterr().out
