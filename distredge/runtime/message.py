"""What nodes say to each other: a typed header, and for rows and files a raw payload. Nothing is ever unpickled.

A message is one or two frames: the header in MessagePack, a tagged union of the structs below, and the payload.
Its size is checked against what the header and the assignment promise before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from distredge.runtime.tracing import Spans

PROTOCOL = 5
"""Version of the messages; both ends must speak the same."""

MAX_HEADER_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024

MAX_PROBE_BYTES = 16 * 1024 * 1024
"""Of one transfer by which a link is measured."""

MAX_HOPS = 3

MAX_TRANSFERS = 64
"""That a heartbeat tells of."""

MAX_NODES = 256

Count = Annotated[int, Meta(ge=0, le=2**40)]
Size = Annotated[int, Meta(ge=1, le=2**24)]
Rows = tuple[Count, Count]
Layer = Annotated[int, Meta(ge=-1, le=2**24)]
Ms = Annotated[float, Meta(ge=0, le=1e9)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Held = Annotated[float, Meta(ge=0, le=600_000)]
Sha256 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
ProbeBytes = Annotated[int, Meta(ge=1, le=MAX_PROBE_BYTES)]
Wire: TypeAlias = Literal["float32", "float16", "int8"]
ELEMENT_BYTES: dict[Wire, int] = {"int8": 1, "float16": 2, "float32": 4}
"""Of an element in each precision on the wire."""

Dtype: TypeAlias = Literal[
    "float32", "float16", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"
]


class MessageError(ValueError):
    """Frames that are no message, or that do not fit what was agreed."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Rows of the tensor that a layer makes (-1: the image), (channels, rows, width) = `shape`."""

    layer: Layer
    rows: Rows
    shape: tuple[Size, Count, Size]


class Send(msgspec.Struct, frozen=True, array_like=True):
    """Rows of a layer's tensor that another node, or this one (`peer` empty), needs at a boundary."""

    peer: str
    boundary: Count
    layer: Layer
    rows: Rows


class Stage(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a provider does for every image: compute its part of a volume, or the head.

    `boundary` is the volume's index, for the head the number of volumes; one more is the requester's. `layers` is the
    volume's range of layers and `out` the rows of its last layer. The stage starts when all its `inputs` are there and
    makes its `outputs`; then the `sends` go out, of these outputs and of earlier ones, and the layers `frees` are
    freed, which no later stage sends. The head has `layers` None, makes no outputs and answers to the requester.
    """

    boundary: Count
    layers: tuple[Count, Count] | None
    out: Rows
    inputs: tuple[Piece, ...]
    outputs: tuple[Piece, ...]
    sends: tuple[Send, ...]
    frees: tuple[Layer, ...]


class Emulation(msgspec.Struct, frozen=True, array_like=True):
    """Stand in for a board: hold each stage for its `hold_ms`, shape the link to `rate_mbps` (None: unlimited).

    A stage's inputs are held for its `write_ms` before, and a message for `read_ms` and `read_byte_ms` a byte before it
    is sent: I/O that the board needs on top of what this machine does. The requester's one `write_ms` is for results.
    `uplinks_mbps` are the rates of the other nodes' emulated links, by name, where they limit.
    """

    hold_ms: tuple[Held, ...]
    rate_mbps: Annotated[float, Meta(gt=0)] | None
    write_ms: tuple[Held, ...] = ()
    read_ms: Held = 0.0
    read_byte_ms: Annotated[float, Meta(ge=0, le=1)] = 0.0
    uplinks_mbps: dict[str, Annotated[float, Meta(gt=0)]] = msgspec.field(default_factory=dict)


UNCHANGED = Emulation((), None)
"""No stand-in: everything takes its own time."""


class Observed(msgspec.Struct, frozen=True, array_like=True):
    """What a node has seen of a link from another one: see `runtime.link_estimate`."""

    sender: str
    mbps: Annotated[float, Meta(gt=0, le=1e9)]
    fixed_ms: Ms
    samples: Count


class Transfer(msgspec.Struct, frozen=True, array_like=True):
    """Payload bytes that came over a link from another node without a pause, and how long they took."""

    sender: str
    payload_bytes: Count
    ms: Ms


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """Where a probe goes next, and with how many bytes."""

    peer: str
    payload_bytes: ProbeBytes


class Stint(msgspec.Struct, frozen=True, array_like=True):
    """What a provider has lately computed of a stage of an epoch's plan: so many times, in so many ms together."""

    epoch: Count
    boundary: Count
    times: Count
    total_ms: Ms


class Stamps(msgspec.Struct, frozen=True, array_like=True):
    """By which two clocks are compared: a pulse left at `sent_s`; the other node got it and answered, by its own."""

    sent_s: Seconds
    received_s: Seconds
    answered_s: Seconds


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str


class Setup(_Message, frozen=True):
    """Requester to provider: a plan, which is an epoch of the session; the first one begins the session.

    The provider has these `stages` in it (none: it stands by, and passes probes on). Epochs older than `oldest` are
    over: what is left of their frames is thrown away. `addresses` say where the session's nodes are, `input_shape` is
    that of the model's image; `outputs` are names and shapes of the outputs that the head makes (0: a size that only
    the head knows), `threads` those of the engine. `pace_mbps` is the rate of the provider's uplink, which it does not
    exceed; `memory_mb` what the plan needs of it by the planner's account.
    """

    epoch: Count
    oldest: Count
    protocol: int
    addresses: Annotated[dict[str, str], Meta(max_length=MAX_NODES)]
    model_sha256: Sha256
    input_shape: tuple[Size, ...]
    outputs: tuple[tuple[str, tuple[Count, ...]], ...]
    stages: tuple[Stage, ...]
    wire: Wire
    emulation: Emulation | None
    threads: Annotated[int, Meta(ge=1, le=256)]
    pace_mbps: Annotated[float, Meta(gt=0)] | None = None
    memory_mb: Annotated[float, Meta(ge=0)] = 0.0
    traced: bool = False


class NeedModel(_Message, frozen=True):
    """Provider to requester: the model's files are not here, which the epoch needs."""

    sender: str
    epoch: Count


class ModelChunk(_Message, frozen=True):
    """Requester to provider: part of a model's file. `files` are names and sizes of them all, the ONNX file first."""

    sha256: str
    files: tuple[tuple[str, Count], ...]
    file: Count
    offset: Count


class Ready(_Message, frozen=True):
    """Provider to requester: the engines of an epoch are built."""

    sender: str
    epoch: Count


class Busy(_Message, frozen=True):
    """Provider to requester: another requester's session is under way."""

    sender: str


class RowsChunk(_Message, frozen=True):
    """Part of a block of rows of a layer's tensor, for a boundary: its bytes from `offset` on. Chunks come in order."""

    sender: str
    epoch: Count
    frame: Count
    boundary: Count
    layer: Layer
    rows: Rows
    offset: Count
    scale: float


class ResultChunk(_Message, frozen=True):
    """Part of one of the outputs that the head makes (by its index), as `RowsChunk`.

    Of float type it has the wire's precision, of any other type that one: `dtype`.
    """

    sender: str
    epoch: Count
    frame: Count
    output: Count
    offset: Count
    scale: float
    shape: tuple[Count, ...]
    dtype: Dtype


class Probe(_Message, frozen=True):
    """Part of a transfer by which links are measured: it visits the nodes of its `route`, the requester at last.

    `number` is that of the transfer, `total` its bytes to this node. `spent_ms` tells, for each node that it has left,
    what writing it into memory and reading what goes on out of it took there.
    """

    number: Count
    total: ProbeBytes
    offset: Count
    route: Annotated[tuple[Hop, ...], Meta(max_length=MAX_HOPS)]
    spent_ms: Annotated[tuple[tuple[Ms, Ms], ...], Meta(max_length=MAX_HOPS)]


class Pulse(_Message, frozen=True):
    """Requester to provider: still there, at `sent_s` by its own clock; epochs older than `oldest` are over.

    `pace_mbps` is the rate that the provider does not exceed from now on, where there is a limit.
    """

    oldest: Count
    sent_s: Seconds
    pace_mbps: Annotated[float, Meta(ge=1e-3, le=1e9)] | None = None


class Heartbeat(_Message, frozen=True):
    """Provider to requester: still there.

    With it comes whether it has received, computed or sent anything since its last heartbeat, what it sees of the links
    by which rows come to it, what it has computed meanwhile, the answer to the last pulse, and the newest of the
    transfers that came meanwhile.
    """

    sender: str
    is_active: bool = False
    links: tuple[Observed, ...] = ()
    work: tuple[Stint, ...] = ()
    stamps: Stamps | None = None
    transfers: Annotated[tuple[Transfer, ...], Meta(max_length=MAX_TRANSFERS)] = ()


class Noted(_Message, frozen=True):
    """Provider to requester: what it noted of frames (`runtime.tracing`), and how many such notes it had to drop."""

    sender: str
    spans: Spans
    dropped: Count


class Unreachable(_Message, frozen=True):
    """Provider to requester: another node does not take its messages."""

    sender: str
    peer: str


class Failed(_Message, frozen=True):
    """Provider to requester: it cannot do its part of an epoch."""

    sender: str
    epoch: Count
    reason: str


class Stop(_Message, frozen=True):
    """Requester to provider: the session ends; with `report`, its totals are wanted."""

    report: bool


class Report(_Message, frozen=True):
    """Provider to requester, in answer to `Stop`: totals of the session. `rows` are those computed of volumes."""

    sender: str
    compute_ms: float
    bytes_in: Count
    bytes_out: Count
    rows: Count
    links: tuple[Observed, ...]


Message: TypeAlias = (
    Setup
    | NeedModel
    | ModelChunk
    | Ready
    | Busy
    | RowsChunk
    | ResultChunk
    | Probe
    | Pulse
    | Heartbeat
    | Noted
    | Unreachable
    | Failed
    | Stop
    | Report
)
WITH_PAYLOAD = ModelChunk | RowsChunk | ResultChunk | Probe

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message's header frame."""
    return _encoder.encode(message)


Buffer: TypeAlias = bytes | memoryview


def decode(frames: Sequence[Buffer]) -> tuple[Message, Buffer]:
    """Header and payload (empty if there is none); raises `MessageError` if the frames are no message."""
    if not 1 <= len(frames) <= 2 or len(frames[0]) > MAX_HEADER_BYTES:
        raise MessageError(f"{len(frames)} frames, the first of {len(frames[0]) if frames else 0} bytes")
    try:
        message: Message = _decoder.decode(frames[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MessageError(f"not a message: {exc}") from exc
    payload = frames[1] if len(frames) == 2 else b""
    if bool(len(payload)) != isinstance(message, WITH_PAYLOAD) or len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"{type(message).__name__} with {len(payload)} payload bytes")
    return message, payload


def pack(array: npt.NDArray[np.generic], wire: Wire) -> tuple[memoryview, float]:
    """An array's bytes for the wire and the scale to multiply them with; int8 is symmetric about zero.

    What is not of float type stays as it is.

    An emulated board's zeros, which have no strides, are not converted: a real one does that while it computes.
    """
    scale = 1.0
    if array.dtype.kind != "f":
        packed: npt.NDArray[np.generic] = np.ascontiguousarray(array)
    elif not any(array.strides):
        packed = np.zeros(array.size, dtype=wire)
    elif wire == "int8":
        values = array.astype(np.float32, copy=False)
        scale = float(np.abs(values).max(initial=0.0)) / 127.0 or 1.0
        packed = np.rint(values / scale).astype(np.int8)
    else:
        packed = np.ascontiguousarray(array, dtype=wire)
    return packed.reshape(-1).view(np.uint8).data, scale


def unpack(data: Buffer | bytearray, wire: Wire, scale: float, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What `pack` was given, up to the wire's precision; raises `MessageError` if the size is not the shape's."""
    if len(data) != packed_bytes(shape, wire):
        raise MessageError(f"{len(data)} bytes for the shape {shape} in {wire}")
    array = np.frombuffer(data, dtype=wire).reshape(shape).astype(np.float32)
    return array * np.float32(scale) if wire == "int8" else array


def packed_bytes(shape: tuple[int, ...], wire: Wire) -> int:
    """Bytes of an array of this shape on the wire."""
    return math.prod(shape) * ELEMENT_BYTES[wire]
