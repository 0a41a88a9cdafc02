"""Puts the inputs of a provider's stages together from what arrives and what it keeps itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.engine.emulated import zeros
from distredge.geometry.interval import Interval
from distredge.runtime.message import MessageError, Piece, RowsChunk, Wire, packed_bytes, unpack

MAX_IN_FLIGHT = 64
"""Frames that may be under way at a time."""

MAX_OPEN_BLOCKS = 4096
"""Blocks of rows that may have come in part."""


class Blocks:
    """Joins chunks, which come in order, to whole blocks of bytes. Used by one thread."""

    def __init__(self) -> None:
        self._parts: dict[tuple[object, ...], bytearray] = {}

    def add(self, key: tuple[object, ...], offset: int, payload: bytes, total: int) -> bytearray | None:
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
    the thread that brought the last rows. Rows of a frame are freed as soon as they have been handed over. An emulated
    provider needs to know when all are there, but not what they hold: with `values` False they are counted and zeros
    handed over.
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
        self._blocks = Blocks()
        self._lock = Lock()
        self._open: dict[tuple[int, int], dict[int, tuple[FloatRows, npt.NDArray[np.bool_]]]] = {}

    def add_chunk(self, chunk: RowsChunk, payload: bytes) -> None:
        """Take part of a block from the network; raises `MessageError` if no stage wants it."""
        piece, rows = self._wanted.get(chunk.boundary, {}).get(chunk.layer), Interval(*chunk.rows)
        if piece is None or not rows.size or rows.overlap(Interval(*piece.rows)) != rows:
            raise MessageError(
                f"rows {chunk.rows} of layer {chunk.layer} at boundary {chunk.boundary} are not wanted here"
            )
        channels, _, width = piece.shape
        shape = (1, channels, rows.size, width)
        key = (chunk.frame, chunk.boundary, chunk.layer, chunk.rows)
        block = self._blocks.add(key, chunk.offset, payload, packed_bytes(shape, self._wire))
        if block is not None:
            whole = unpack(block, self._wire, chunk.scale, shape) if self._values else zeros(shape)
            self.add_rows(chunk.frame, chunk.boundary, chunk.layer, rows, whole)

    def add_rows(self, frame: int, boundary: int, layer: int, rows: Interval, block: FloatRows) -> None:
        """Take rows of a layer's tensor, all of which the boundary's stage needs."""
        with self._lock:
            pieces = self._opened(frame, boundary)
            x, there = pieces[layer]
            first = self._wanted[boundary][layer].rows[0]
            here = slice(rows.start - first, rows.stop - first)
            if self._values:
                x[:, :, here] = block
            there[here] = True
            complete = all(bool(mask.all()) for _, mask in pieces.values())
            if complete:
                del self._open[frame, boundary]
        if complete:
            self._ready(frame, boundary, [array for array, _ in pieces.values()])

    def _opened(self, frame: int, boundary: int) -> dict[int, tuple[FloatRows, npt.NDArray[np.bool_]]]:
        key = (frame, boundary)
        if key not in self._open:
            if len({number for number, _ in self._open} | {frame}) > MAX_IN_FLIGHT:
                raise MessageError(f"more than {MAX_IN_FLIGHT} frames are under way")
            self._open[key] = {layer: self._empty(piece) for layer, piece in self._wanted[boundary].items()}
        return self._open[key]

    def _empty(self, piece: Piece) -> tuple[FloatRows, npt.NDArray[np.bool_]]:
        shape = (1, *piece.shape)
        x = np.empty(shape, dtype=np.float32) if self._values else zeros(shape)
        return x, np.zeros(piece.shape[1], dtype=np.bool_)
