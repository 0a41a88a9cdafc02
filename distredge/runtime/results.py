"""A frame's outputs, put together by the requester from what providers send."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.plans.plan import BoundPlan
from distredge.runtime.assembly import Assembly, Blocks
from distredge.runtime.assignment import results
from distredge.runtime.message import Buffer, MessageError, ResultChunk, RowsChunk, Wire, unpack
from distredge.runtime.provider import MAX_ELEMENTS

Outputs = Mapping[str, npt.NDArray[np.generic]]
"""A model's outputs by name."""


class Results:
    """Gathers the outputs of the frames of one epoch; `done` is called with a frame and all its outputs.

    Used by one thread.
    """

    def __init__(self, bound: BoundPlan, wire: Wire, done: Callable[[int, Outputs], None]) -> None:
        self._bound, self._wire, self._done = bound, wire, done
        self.of_head = tuple(output for output in bound.graph.head.outputs if output.layer is None)
        self._outputs: dict[int, dict[str, npt.NDArray[np.generic]]] = {}
        self._pieces = results(bound)
        boundary = len(bound.volumes) + 1
        self._rows = Assembly({boundary: self._pieces} if self._pieces else {}, wire, self._take_rows)
        self._blocks = Blocks()

    def add(self, chunk: ResultChunk | RowsChunk, payload: Buffer) -> None:
        """Take part of a frame's outputs; raises `MessageError` if it does not fit."""
        if isinstance(chunk, RowsChunk):
            self._rows.add_chunk(chunk, payload)
        else:
            self._add_result(chunk, payload)

    def _add_result(self, chunk: ResultChunk, payload: Buffer) -> None:
        """Put an output that the head made together."""
        if chunk.output >= len(self.of_head):
            raise MessageError(f"no output {chunk.output} is expected")
        expected = self.of_head[chunk.output].shape
        fits = len(chunk.shape) == len(expected) and all(
            e in (0, n) for e, n in zip(expected, chunk.shape, strict=True)
        )
        elements = math.prod(chunk.shape)
        if not fits or elements > MAX_ELEMENTS:
            raise MessageError(f"output {chunk.output} has the shape {chunk.shape}, not {expected}")
        kind = chunk.dtype if np.dtype(chunk.dtype).kind != "f" else self._wire
        total = elements * np.dtype(kind).itemsize
        block = self._blocks.add((chunk.frame, chunk.output), chunk.offset, payload, total) if total else bytearray()
        if block is None:
            return
        if kind == chunk.dtype and kind != self._wire:
            output: npt.NDArray[np.generic] = np.frombuffer(block, dtype=kind).reshape(chunk.shape)
        else:
            output = unpack(block, self._wire, chunk.scale, chunk.shape).astype(chunk.dtype, copy=False)
        self._take_outputs(chunk.frame, {self.of_head[chunk.output].name: output})

    def _take_rows(self, frame: int, boundary: int, arrays: list[FloatRows]) -> None:
        """Outputs that came as rows are whole."""
        made = {piece.layer: array for piece, array in zip(self._pieces, arrays, strict=True)}
        index = self._bound.graph.index
        self._take_outputs(
            frame,
            {
                output.name: made[index[output.layer]].reshape(output.shape).astype(output.dtype, copy=False)
                for output in self._bound.graph.head.outputs
                if output.layer is not None
            },
        )

    def _take_outputs(self, frame: int, outputs: Outputs) -> None:
        """Note outputs of a frame, which is done with the last one."""
        known = self._outputs.setdefault(frame, {})
        known.update(outputs)
        if len(known) == len(self._bound.graph.head.outputs):
            self._done(frame, self._outputs.pop(frame))
