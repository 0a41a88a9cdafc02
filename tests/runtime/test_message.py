"""What goes over the wire comes out as it went in, and what is no message is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.runtime.message import (
    MAX_HOPS,
    MAX_PAYLOAD_BYTES,
    MAX_PROBE_BYTES,
    Heartbeat,
    Hop,
    Message,
    MessageError,
    Probe,
    ResultChunk,
    RowsChunk,
    Wire,
    decode,
    encode,
    pack,
    packed_bytes,
    unpack,
)

CHUNK = RowsChunk("s", "a", 1, 3, 1, -1, (2, 5), 0, 0.5)
PROBE = Probe("s", 1, 4, 0, (Hop("a", 4096), Hop("requester", 4)), ((0.5, 0.25),))
RESULT = ResultChunk("s", "a", 1, 3, 1, 0, 1.0, (0, 4), "int64")


def test_a_message_and_its_payload_come_back() -> None:
    assert decode([encode(CHUNK), b"rows"]) == (CHUNK, b"rows")
    assert decode([encode(PROBE), b"rows"]) == (PROBE, b"rows")
    assert decode([encode(RESULT), b"ids"]) == (RESULT, b"ids")
    assert decode([encode(Heartbeat("s", "nano-0"))]) == (Heartbeat("s", "nano-0"), b"")


@given(frames=st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(MessageError):
        decode(frames)


@pytest.mark.parametrize("chunk", [CHUNK, RESULT, PROBE])
@given(data=st.data(), byte=st.integers(0, 255))
def test_a_damaged_header_is_a_message_or_refused(chunk: Message, data: st.DataObject, byte: int) -> None:
    damaged = bytearray(encode(chunk))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = byte
    try:
        message, _ = decode([bytes(damaged), b"rows"])
    except MessageError:
        return
    assert isinstance(message, Message)


@pytest.mark.parametrize(
    "frames",
    [
        [encode(CHUNK)],
        [encode(CHUNK), b""],
        [encode(CHUNK), bytes(MAX_PAYLOAD_BYTES + 1)],
        [encode(Heartbeat("s", "nano-0")), b"rows"],
        [msgspec.msgpack.encode(["RowsChunk", "s", "a", 1, -1, 1, 0, [2, 5], 0, 1.0]), b"rows"],
        [msgspec.msgpack.encode(["RowsChunk", "s", "a", 1, 3, 1, -2, [2, 5], 0, 1.0]), b"rows"],
        [msgspec.msgpack.encode(["ResultChunk", "s", "a", 1, 3, 1, 0, 1.0, [0, 4], "object"]), b"rows"],
        [msgspec.msgpack.encode(["ResultChunk", "s", "a", 1, 3, 1, 0, 1.0, [-1, 4], "int64"]), b"rows"],
        [msgspec.msgpack.encode(["Probe", "s", 1, MAX_PROBE_BYTES + 1, 0, [], []]), b"rows"],
        [msgspec.msgpack.encode(["Probe", "s", 1, 4, 0, [["a", MAX_PROBE_BYTES + 1]], []]), b"rows"],
        [msgspec.msgpack.encode(["Probe", "s", 1, 4, 0, [["a", 4]] * (MAX_HOPS + 1), []]), b"rows"],
        [msgspec.msgpack.encode(["Pickle", "s"])],
    ],
)
def test_payloads_and_numbers_that_cannot_be_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(MessageError):
        decode(frames)


@pytest.mark.parametrize(("wire", "error"), [("float32", 0.0), ("float16", 2**-11), ("int8", 0.5 / 127)])
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-2, 1.0, 1e3]))
def test_values_survive_the_wire_up_to_its_precision(wire: Wire, error: float, seed: int, scale: float) -> None:
    values = (np.random.default_rng(seed).uniform(-scale, scale, (1, 2, 3, 4))).astype(np.float32)
    data, factor = pack(values[:, :, 1:], wire)
    assert len(data) == packed_bytes((1, 2, 2, 4), wire)
    back = unpack(bytes(data), wire, factor, (1, 2, 2, 4))
    assert np.abs(back - values[:, :, 1:]).max() <= error * scale * 1.001


@pytest.mark.parametrize("wire", ["float32", "float16", "int8"])
def test_what_is_no_float_goes_as_it_is(wire: Wire) -> None:
    ids = np.array([[2**40 + 1, -3, 0]])
    data, factor = pack(ids, wire)
    assert factor == 1.0
    np.testing.assert_array_equal(np.frombuffer(data, dtype=np.int64).reshape(ids.shape), ids)


def test_zeros_survive_int8() -> None:
    data, factor = pack(np.zeros((1, 1, 2, 2), np.float32), "int8")
    assert not unpack(bytes(data), "int8", factor, (1, 1, 2, 2)).any()


def test_a_block_of_another_size_than_its_shape_is_refused() -> None:
    with pytest.raises(MessageError):
        unpack(bytes(12), "float32", 1.0, (1, 1, 2, 2))
