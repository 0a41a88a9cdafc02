"""Passing on the transfers by which links are measured, and timing what a node itself does to them."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from distredge.runtime.assembly import Blocks
from distredge.runtime.message import Buffer, MessageError, Probe, Wire, pack, unpack


class ProbeBlocks:
    """Joins the chunks of one probe at a time and writes its bytes into memory as rows are. Used by one thread."""

    def __init__(self, wire: Wire) -> None:
        self.wire: Wire = wire
        self._number, self._blocks = -1, Blocks()

    def add(self, probe: Probe, payload: Buffer) -> float | None:
        """What writing took (ms) if this was the last chunk; raises `MessageError` for bytes that do not fit."""
        if probe.number != self._number:  # what was not finished will not be
            self._number, self._blocks = probe.number, Blocks()
        block = self._blocks.add((), probe.offset, payload, probe.total)
        if block is None:
            return None
        elements, odd = divmod(len(block), np.dtype(self.wire).itemsize)
        if odd:
            raise MessageError(f"{len(block)} bytes are no whole number of {self.wire} elements")
        begun = time.perf_counter()
        rows = np.empty(elements, dtype=np.float32)
        rows[:] = unpack(block, self.wire, 1.0, (elements,))
        return (time.perf_counter() - begun) * 1000.0


def onward(probe: Probe, written_ms: float, wire: Wire) -> tuple[str, Probe, memoryview]:
    """A probe to the next node of its route, read out of memory as rows are: that node, message and payload."""
    peer, payload_bytes = probe.route[0].peer, probe.route[0].payload_bytes
    rows = np.ones(max(1, payload_bytes // np.dtype(wire).itemsize), dtype=np.float32)
    begun = time.perf_counter()
    data, _ = pack(rows, wire)
    spent_ms = written_ms, (time.perf_counter() - begun) * 1000.0
    changed = {"total": len(data), "offset": 0, "route": probe.route[1:], "spent_ms": (*probe.spent_ms, spent_ms)}
    return peer, msgspec.structs.replace(probe, **changed), data
