"""What nodes say to each other: a typed header, and for rows and files a raw payload. Nothing is ever unpickled.

A message is one or two frames: the header in MessagePack, a tagged union of the structs below, and the payload.
Its size is checked against what the header and the assignment promise before it is used.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

PROTOCOL = 1
"""Version of the messages; both ends must speak the same."""

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024

Count = Annotated[int, Meta(ge=0, le=2**40)]
Size = Annotated[int, Meta(ge=1, le=2**24)]
Rows = tuple[Count, Count]
Wire: TypeAlias = Literal["float32", "float16", "int8"]


class MessageError(ValueError):
    """Frames that are no message, or that do not fit what was agreed."""


class Send(msgspec.Struct, frozen=True, array_like=True):
    """Rows of a stage's output that go to another provider."""

    peer: str
    rows: Rows


class Stage(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a provider does for every image: compute its part of a volume, or the head.

    `boundary` is the volume's index, for the head the number of volumes. The stage starts when the rows `input`
    of the tensor that enters are there, (channels, rows, width) = `in_shape`. It makes the rows `output`, in the
    shape `out_shape`; of those it keeps `keep` for its own next stage. `layers` is the volume's range of layers.
    The head has `layers` None, makes no rows and answers to the requester.
    """

    boundary: Count
    layers: tuple[Count, Count] | None
    input: Rows
    in_shape: tuple[Size, Size, Size]
    output: Rows
    out_shape: tuple[Size, Size, Size] | None
    keep: Rows
    sends: tuple[Send, ...]


class Emulation(msgspec.Struct, frozen=True, array_like=True):
    """Stand in for a board: hold each stage for its `hold_ms`, shape the link to `rate_mbps` (None: unlimited)."""

    hold_ms: tuple[Annotated[float, Meta(ge=0)], ...]
    rate_mbps: Annotated[float, Meta(gt=0)] | None


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    session: str


class Setup(_Message, frozen=True):
    """Requester to provider: a session begins; its stages, and where the others are.

    `outputs` are names and shapes of the model's outputs, `threads` those of the engine.
    """

    protocol: int
    addresses: dict[str, str]
    model_sha256: str
    outputs: tuple[tuple[str, tuple[Size, ...]], ...]
    stages: tuple[Stage, ...]
    wire: Wire
    emulation: Emulation | None
    threads: Annotated[int, Meta(ge=1, le=256)]


class NeedModel(_Message, frozen=True):
    """Provider to requester: the model's files are not here."""

    sender: str


class ModelChunk(_Message, frozen=True):
    """Requester to provider: part of a model's file. `files` are names and sizes of them all, the ONNX file first."""

    sha256: str
    files: tuple[tuple[str, Count], ...]
    file: Count
    offset: Count


class Ready(_Message, frozen=True):
    """Provider to requester: the engines are built."""

    sender: str


class Busy(_Message, frozen=True):
    """Provider to requester: another requester's session is under way."""

    sender: str


class RowsChunk(_Message, frozen=True):
    """Part of a block of rows of the tensor at a boundary: its bytes from `offset` on. Chunks come in order."""

    frame: Count
    boundary: Count
    rows: Rows
    offset: Count
    scale: float


class ResultChunk(_Message, frozen=True):
    """Part of one of the model's outputs (by its index), as `RowsChunk`."""

    frame: Count
    output: Count
    offset: Count
    scale: float


class Heartbeat(_Message, frozen=True):
    """Either way: still there."""

    sender: str


class Failed(_Message, frozen=True):
    """Provider to requester: the session cannot go on."""

    sender: str
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


Message: TypeAlias = (
    Setup | NeedModel | ModelChunk | Ready | Busy | RowsChunk | ResultChunk | Heartbeat | Failed | Stop | Report
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message's header frame."""
    return _encoder.encode(message)


def decode(frames: list[bytes]) -> tuple[Message, bytes]:
    """Header and payload (empty if there is none); raises `MessageError` if the frames are no message."""
    if not 1 <= len(frames) <= 2 or len(frames[0]) > MAX_HEADER_BYTES:
        raise MessageError(f"{len(frames)} frames, the first of {len(frames[0]) if frames else 0} bytes")
    try:
        message: Message = _decoder.decode(frames[0])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MessageError(f"not a message: {exc}") from exc
    payload = frames[1] if len(frames) == 2 else b""
    if bool(payload) != isinstance(message, ModelChunk | RowsChunk | ResultChunk) or len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"{type(message).__name__} with {len(payload)} payload bytes")
    return message, payload


def pack(array: npt.NDArray[np.float32], wire: Wire) -> tuple[memoryview, float]:
    """An array's bytes for the wire and the scale to multiply them with; int8 is symmetric about zero.

    An emulated board's zeros, which have no strides, are not converted: a real one does that while it computes.
    """
    scale = 1.0
    if not any(array.strides):
        packed: npt.NDArray[np.generic] = np.zeros(array.size, dtype=wire)
    elif wire == "int8":
        scale = float(np.abs(array).max()) / 127.0 or 1.0
        packed = np.rint(array / scale).astype(np.int8)
    else:
        packed = np.ascontiguousarray(array, dtype=wire)
    return packed.reshape(-1).view(np.uint8).data, scale


def unpack(data: bytes | bytearray, wire: Wire, scale: float, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """What `pack` was given, up to the wire's precision; raises `MessageError` if the size is not the shape's."""
    if len(data) != packed_bytes(shape, wire):
        raise MessageError(f"{len(data)} bytes for the shape {shape} in {wire}")
    array = np.frombuffer(data, dtype=wire).reshape(shape).astype(np.float32)
    return array * np.float32(scale) if wire == "int8" else array


def packed_bytes(shape: tuple[int, ...], wire: Wire) -> int:
    """Bytes of an array of this shape on the wire."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(wire).itemsize
