"""Puts the inputs of a provider's stages together from what arrives and what it keeps itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.engine.emulated import zeros
from distredge.geometry.interval import Interval
from distredge.runtime.message import ELEMENT_BYTES, Buffer, MessageError, Piece, Rows, RowsChunk, Wire, packed_bytes

MAX_IN_FLIGHT = 64
"""Frames that may be under way at a time."""

MAX_OPEN_BLOCKS = 4096
"""Blocks of rows that may have come in part."""


class Blocks:
    """Joins chunks, which come in order, to whole blocks of bytes. Used by one thread."""

    def __init__(self) -> None:
        self._parts: dict[tuple[object, ...], bytearray] = {}

    def add(self, key: tuple[object, ...], offset: int, payload: Buffer, total: int) -> bytearray | None:
        """The whole block if this was its last chunk; raises `MessageError` for a chunk out of order or too long."""
        if key not in self._parts and len(self._parts) >= MAX_OPEN_BLOCKS:
            raise MessageError(f"more than {MAX_OPEN_BLOCKS} blocks are under way")
        part = self._parts.setdefault(key, bytearray())
        if offset != len(part) or offset + len(payload) > total:
            del self._parts[key]
            raise MessageError(f"chunk at {offset} of {len(payload)} bytes: {len(part)} of {total} are there")
        part += payload
        return self._parts.pop(key) if len(part) == total else None


class Assembly:
    """Gathers, for each frame and boundary, the rows that a stage needs, and hands them over once all are there.

    `wanted` are the pieces needed at each boundary. `ready` is called with (frame, boundary, arrays in their order) by
    the thread that brought the last rows. Bytes go from where they arrived straight to their place, and arrays that are
    given back (`recycle`) are used again: a stream allocates nothing after its first frames. An emulated provider needs
    to know when all are there, but not what they hold: with `values` False they are counted and zeros handed over.

    One thread adds chunks; others may add rows and give arrays back.
    """

    def __init__(
        self,
        wanted: Mapping[int, Sequence[Piece]],
        wire: Wire,
        ready: Callable[[int, int, list[FloatRows]], None],
        values: bool = True,
    ) -> None:
        self._wanted = {boundary: {piece.layer: piece for piece in pieces} for boundary, pieces in wanted.items()}
        self._wire: Wire = wire
        self._ready = ready
        self._values = values
        self._lock = Lock()
        self._open: dict[tuple[int, int], _Gathering] = {}
        self._spare: dict[int, list[list[FloatRows]]] = {boundary: [] for boundary in wanted}
        self._partial: dict[tuple[int, int, int, Rows], int] = {}

    def add_chunk(self, chunk: RowsChunk, payload: Buffer) -> None:
        """Take part of a block from the network; raises `MessageError` if no stage wants it."""
        piece, rows = self._wanted.get(chunk.boundary, {}).get(chunk.layer), Interval(*chunk.rows)
        if piece is None or not rows.size or rows.overlap(Interval(*piece.rows)) != rows:
            raise MessageError(
                f"rows {chunk.rows} of layer {chunk.layer} at boundary {chunk.boundary} are not wanted here"
            )
        channels, _, width = piece.shape
        total = packed_bytes((channels, rows.size, width), self._wire)
        key = (chunk.frame, chunk.boundary, chunk.layer, chunk.rows)
        self._check_order(key, chunk.offset, len(payload), total)
        gathering = self._opened(chunk.frame, chunk.boundary)
        if self._values:
            first = rows.start - piece.rows[0]
            target = gathering.arrays[chunk.layer][0, :, first : first + rows.size]
            place(target, payload, self._wire, chunk.scale, chunk.offset)
        if chunk.offset + len(payload) == total:
            self._note(gathering, chunk.frame, chunk.boundary, chunk.layer, rows)

    def add_rows(self, frame: int, boundary: int, layer: int, rows: Interval, block: FloatRows) -> None:
        """Take rows of a layer's tensor, all of which the boundary's stage needs."""
        gathering = self._opened(frame, boundary)
        first = rows.start - self._wanted[boundary][layer].rows[0]
        if self._values:
            gathering.arrays[layer][:, :, first : first + rows.size] = block
        self._note(gathering, frame, boundary, layer, rows)

    def recycle(self, boundary: int, arrays: list[FloatRows]) -> None:
        """Give arrays back that were handed over for a boundary and are not needed any more."""
        if self._values:
            with self._lock:
                self._spare[boundary].append(arrays)

    def clear(self) -> None:
        """Forget all rows and arrays."""
        with self._lock:
            self._open.clear()
            for arrays in self._spare.values():
                arrays.clear()

    def _check_order(self, key: tuple[int, int, int, Rows], offset: int, size: int, total: int) -> None:
        """Raise `MessageError` unless a chunk continues its block, in whole elements; note how far it is."""
        there = self._partial.get(key, 0)
        element = ELEMENT_BYTES[self._wire]
        if offset != there or offset + size > total or size % element:
            self._partial.pop(key, None)
            raise MessageError(f"chunk at {offset} of {size} bytes: {there} of {total} are there")
        if there + size == total:
            self._partial.pop(key, None)
        elif key in self._partial or len(self._partial) < MAX_OPEN_BLOCKS:
            self._partial[key] = there + size
        else:
            raise MessageError(f"more than {MAX_OPEN_BLOCKS} blocks are under way")

    def _note(self, gathering: _Gathering, frame: int, boundary: int, layer: int, rows: Interval) -> None:
        """Mark rows as there; hand over if they were the last ones."""
        first = self._wanted[boundary][layer].rows[0]
        with self._lock:
            there = gathering.there[layer]
            there[rows.start - first : rows.stop - first] = b"\1" * rows.size
            if not there.count(0):
                gathering.missing.discard(layer)
            complete = not gathering.missing and self._open.pop((frame, boundary), None) is not None
        if complete:
            self._ready(frame, boundary, list(gathering.arrays.values()))

    def _opened(self, frame: int, boundary: int) -> _Gathering:
        with self._lock:
            found = self._open.get((frame, boundary))
            if found is None:
                if len({number for number, _ in self._open} | {frame}) > MAX_IN_FLIGHT:
                    raise MessageError(f"more than {MAX_IN_FLIGHT} frames are under way")
                found = self._open[frame, boundary] = self._gathering(boundary)
        return found

    def _gathering(self, boundary: int) -> _Gathering:
        pieces, spare = self._wanted[boundary], self._spare[boundary]
        if not self._values:
            arrays = [zeros((1, *piece.shape)) for piece in pieces.values()]
        elif spare:
            arrays = spare.pop()
        else:
            arrays = [np.empty((1, *piece.shape), dtype=np.float32) for piece in pieces.values()]
        there = {layer: bytearray(piece.shape[1]) for layer, piece in pieces.items()}
        missing = {layer for layer, piece in pieces.items() if piece.shape[1]}
        return _Gathering(dict(zip(pieces, arrays, strict=True)), there, missing)


@dataclass
class _Gathering:
    """What is there of a stage's input: arrays, which of their rows, and the layers of which rows are missing."""

    arrays: dict[int, FloatRows]
    there: dict[int, bytearray]
    missing: set[int]


def place(target: FloatRows, payload: Buffer, wire: Wire, scale: float, offset: int) -> None:
    """Write bytes of a block, from `offset` on, into `target` (channels, rows, width), converted from the wire.

    Each channel of the target is contiguous; the channels need not be next to each other.
    """
    values = np.frombuffer(payload, dtype=wire)
    channels = target.reshape(target.shape[0], -1)
    size = channels.shape[1]
    channel, column = divmod(offset // ELEMENT_BYTES[wire], size)
    factor = np.float32(scale) if wire == "int8" else None
    if column:  # the rest of a channel that an earlier chunk has begun
        head = min(size - column, len(values))
        _write(channels[channel, column : column + head], values[:head], factor)
        values, channel = values[head:], channel + 1
    whole = len(values) // size
    _write(channels[channel : channel + whole], values[: whole * size].reshape(whole, size), factor)
    if rest := len(values) - whole * size:
        _write(channels[channel + whole, :rest], values[whole * size :], factor)


def _write(target: FloatRows, values: npt.NDArray[np.generic], factor: np.float32 | None) -> None:
    if factor is None:
        target[...] = values
    else:
        np.multiply(values, factor, out=target)
