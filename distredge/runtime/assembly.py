"""Puts the inputs of a provider's stages together from what arrives and what it keeps itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.engine.emulated import zeros
from distredge.geometry.interval import Interval
from distredge.runtime.message import MessageError, RowsChunk, Stage, Wire, packed_bytes, unpack

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
    """Gathers, for each frame and stage, the rows that the stage needs, and hands them over once all are there.

    `ready` is called with (frame, boundary, input) by the thread that brought the last rows. Rows of a frame are
    freed as soon as they have been handed over. An emulated provider needs to know when all are there, but not what
    they hold: with `values` False they are counted and zeros handed over.
    """

    def __init__(
        self, stages: Iterable[Stage], wire: Wire, ready: Callable[[int, int, FloatRows], None], values: bool = True
    ) -> None:
        self._stages = {stage.boundary: stage for stage in stages}
        self._wire: Wire = wire
        self._ready = ready
        self._values = values
        self._blocks = Blocks()
        self._lock = Lock()
        self._open: dict[tuple[int, int], tuple[FloatRows, npt.NDArray[np.bool_]]] = {}

    def add_chunk(self, chunk: RowsChunk, payload: bytes) -> None:
        """Take part of a block from the network; raises `MessageError` if no stage wants it."""
        stage, rows = self._stages.get(chunk.boundary), Interval(*chunk.rows)
        if stage is None or not rows.size or rows.overlap(Interval(*stage.input)) != rows:
            raise MessageError(f"rows {chunk.rows} at boundary {chunk.boundary} are not wanted here")
        channels, _, width = stage.in_shape
        shape = (1, channels, rows.size, width)
        key = (chunk.frame, chunk.boundary, chunk.rows)
        block = self._blocks.add(key, chunk.offset, payload, packed_bytes(shape, self._wire))
        if block is not None:
            whole = unpack(block, self._wire, chunk.scale, shape) if self._values else zeros(shape)
            self.add_rows(chunk.frame, chunk.boundary, rows, whole)

    def add_rows(self, frame: int, boundary: int, rows: Interval, block: FloatRows) -> None:
        """Take rows of the tensor at a boundary, all of which its stage needs."""
        with self._lock:
            x, there = self._opened(frame, boundary)
            first = self._stages[boundary].input[0]
            here = slice(rows.start - first, rows.stop - first)
            if self._values:
                x[:, :, here] = block
            there[here] = True
            complete = bool(there.all())
            if complete:
                del self._open[frame, boundary]
        if complete:
            self._ready(frame, boundary, x)

    def _opened(self, frame: int, boundary: int) -> tuple[FloatRows, npt.NDArray[np.bool_]]:
        key = (frame, boundary)
        if key not in self._open:
            if len({number for number, _ in self._open} | {frame}) > MAX_IN_FLIGHT:
                raise MessageError(f"more than {MAX_IN_FLIGHT} frames are under way")
            channels, rows, width = self._stages[boundary].in_shape
            shape = (1, channels, rows, width)
            x = np.empty(shape, dtype=np.float32) if self._values else zeros(shape)
            self._open[key] = x, np.zeros(rows, dtype=np.bool_)
        return self._open[key]
