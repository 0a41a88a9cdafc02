"""What a provider does under one plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import cast

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows, HeadEngine
from distredge.engine.emulated import sleep_until
from distredge.geometry.interval import Interval
from distredge.plans.nodes import REQUESTER
from distredge.runtime.assembly import Assembly
from distredge.runtime.compute import Compute
from distredge.runtime.engines import Engines
from distredge.runtime.message import UNCHANGED, Dtype, Failed, ResultChunk, RowsChunk, Setup, Stage, pack
from distredge.runtime.outbox import Outbox
from distredge.runtime.tracing import Recorder

Took = Callable[[Setup, Stage, float], None]
"""Told of each stage that was computed and how long it took (ms)."""


class Epoch:
    """A provider's stages under one plan: rows in, computed, rows out. Once `over`, queued work of it does nothing.

    `over` is set by the receiving thread, everything is computed by the compute thread.
    """

    def __init__(
        self,
        name: str,
        setup: Setup,
        outbox: Outbox,
        compute: Compute,
        took: Took,
        clock: Callable[[], float],
        recorder: Recorder,
    ) -> None:
        self.setup = setup
        self._recorder = recorder
        self.over = False
        self.is_ready = False
        self._lock, self._waiting = Lock(), 0
        self._name, self._outbox, self._compute, self._took, self._clock = name, outbox, compute, took, clock
        wanted = {stage.boundary: stage.inputs for stage in setup.stages}
        self.assembly = Assembly(wanted, setup.wire, self._input_ready, values=setup.emulation is None)
        self._made: dict[tuple[int, int], tuple[int, FloatRows]] = {}
        self._stages = {stage.boundary: stage for stage in setup.stages}
        self._engines: Engines = {}
        self._write_ms = dict(zip(self._stages, (setup.emulation or UNCHANGED).write_ms, strict=False))

    @property
    def is_busy(self) -> bool:
        """Whether there is a stage that has its rows and is not done."""
        return self._waiting > 0

    def begin(self, engines: Engines) -> None:
        """Compute with these engines from now on."""
        self._engines = engines
        self.is_ready = True

    def close(self) -> None:
        """Let go of engines and rows, in the compute thread: what refers to this epoch may live on for long."""
        self._engines = {}
        self._made.clear()
        self.assembly.clear()

    def guard(self, complaint: str, work: Callable[[], None]) -> None:
        """Do work of the compute thread; whatever goes wrong in an engine is the requester's to know."""
        if self.over:
            return
        try:
            work()
        except Exception as exc:
            reason = f"{complaint}: {' '.join(str(exc).split())[:400] or type(exc).__name__}"
            self._outbox.put(REQUESTER, Failed(self.setup.session, self._name, self.setup.epoch, reason))

    def _input_ready(self, frame: int, boundary: int, inputs: list[FloatRows]) -> None:
        self._recorder.all_received(self.setup.epoch, frame, boundary)
        written_s = self._clock() + self._write_ms.get(boundary, 0.0) / 1000.0
        run = partial(self._run_stage, frame, boundary, inputs, self._clock(), written_s)
        with self._lock:
            self._waiting += 1
        self._compute.put(partial(self.guard, f"cannot compute volume {boundary}", run), frame, boundary)

    def _run_stage(self, frame: int, boundary: int, inputs: list[FloatRows], came_s: float, written_s: float) -> None:
        """Compute one stage of a frame, once a board would have its rows in memory, and pass what it makes on."""
        if written_s > self._clock():
            sleep_until(written_s)
        engine, stage, started_s = self._engines[boundary], self._stages[boundary], self._clock()
        if isinstance(engine, HeadEngine):
            outputs = engine.run(inputs)
            self._done(frame, stage, came_s, started_s)
            self._answer(frame, outputs)
            return
        made = engine.run(Interval(*stage.out), inputs)
        self._done(frame, stage, came_s, started_s)
        for piece, rows in zip(stage.outputs, made, strict=True):
            self._made[frame, piece.layer] = piece.rows[0], rows
        self._pass_on(frame, stage)
        self.assembly.recycle(boundary, inputs)

    def _done(self, frame: int, stage: Stage, came_s: float, started_s: float) -> None:
        now, place = self._clock(), (self.setup.epoch, frame, stage.boundary)
        self._took(self.setup, stage, (now - started_s) * 1000.0)
        self._recorder.add("wait", *place, came_s, started_s)
        self._recorder.add("compute" if stage.layers else "head", *place, started_s, now)
        with self._lock:
            self._waiting -= 1

    def _pass_on(self, frame: int, stage: Stage) -> None:
        """Queue the rows that others need, in order, and keep those that a later stage here needs."""
        for send in stage.sends:
            first, made = self._made[frame, send.layer]
            rows = made[:, :, send.rows[0] - first : send.rows[1] - first]
            if send.peer:
                data, scale = pack(rows, self.setup.wire)
                chunk = RowsChunk(
                    self.setup.session, self._name, self.setup.epoch, frame, send.boundary, send.layer, send.rows, 0,
                    scale,
                )  # fmt: skip
                self._outbox.put(send.peer, chunk, data)
            else:
                self.assembly.add_rows(frame, send.boundary, send.layer, Interval(*send.rows), rows)
        for layer in stage.frees:
            self._made.pop((frame, layer), None)

    def _answer(self, frame: int, outputs: dict[str, npt.NDArray[np.generic]]) -> None:
        """Queue the outputs of the head for the requester."""
        for index, (name, _) in enumerate(self.setup.outputs):
            output = outputs[name]
            data, scale = pack(output, self.setup.wire)
            dtype = cast(Dtype, str(output.dtype))
            chunk = ResultChunk(
                self.setup.session, self._name, self.setup.epoch, frame, index, 0, scale, output.shape, dtype
            )
            self._outbox.put(REQUESTER, chunk, data)
