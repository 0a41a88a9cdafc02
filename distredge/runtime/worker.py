"""A provider's compute thread, and what it computes for a session."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import cast

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows, HeadEngine
from distredge.engine.emulated import sleep_until
from distredge.geometry.interval import Interval
from distredge.runtime.assembly import Assembly
from distredge.runtime.engines import Engines, emulated_engines, real_engines
from distredge.runtime.link_estimate import Arrivals
from distredge.runtime.message import (
    UNCHANGED,
    Dtype,
    Failed,
    MessageError,
    NeedModel,
    Probe,
    Ready,
    ResultChunk,
    RowsChunk,
    Setup,
    Stage,
    pack,
)
from distredge.runtime.relay import ProbeBlocks, onward
from distredge.runtime.store import ModelStore
from distredge.runtime.transport import Sender
from distredge.scenario import REQUESTER


@dataclass(order=True)
class _Task:
    frame: int
    boundary: int
    sequence: int
    run: Callable[[], None] | None = field(compare=False)


class Worker(Thread):
    """The one thread that computes: the earliest frame first, within a frame the earliest volume."""

    def __init__(self) -> None:
        super().__init__(name="compute", daemon=True)
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._sequence = itertools.count()

    def put(self, run: Callable[[], None] | None, frame: int = -1, boundary: int = 0) -> None:
        """Queue work; what belongs to no frame comes first, and None ends the thread."""
        self._tasks.put(_Task(frame, boundary, next(self._sequence), run))

    def run(self) -> None:
        """The thread's loop."""
        while (work := self._tasks.get().run) is not None:
            work()


class Session:
    """What a provider holds for one requester; all of it goes when the session ends.

    `over` is set by the receiving thread; queued work then does nothing.
    """

    def __init__(self, name: str, setup: Setup, worker: Worker, sender: Sender, store: ModelStore) -> None:
        self.setup = setup
        self.id = setup.session
        self.over = False
        self.compute_ms = 0.0
        self.rows = 0
        wanted = {stage.boundary: stage.inputs for stage in setup.stages}
        self.assembly = Assembly(wanted, setup.wire, self._input_ready, values=setup.emulation is None)
        self.arrivals = Arrivals(shaped=setup.emulation is not None)
        self._probes = ProbeBlocks(setup.wire)
        self._made: dict[tuple[int, int], tuple[int, FloatRows]] = {}
        self._name, self._worker, self._sender, self._store = name, worker, sender, store
        self._stages = {stage.boundary: stage for stage in setup.stages}
        self._engines: Engines = {}
        self._write_ms = dict(zip(self._stages, (setup.emulation or UNCHANGED).write_ms, strict=False))

    def begin(self) -> None:
        """Have the engines built; then, or without the model's files, the requester is told."""
        self._worker.put(partial(self._guard, "cannot build its engines", self._build))

    def fail(self, reason: str) -> None:
        """Tell the requester that the session cannot go on."""
        self._sender.put(REQUESTER, Failed(self.id, self._name, reason))

    def add_probe(self, probe: Probe, payload: bytes) -> None:
        """Take part of a probe; when all is here, it goes on. Raises `MessageError` for one that does not fit."""
        if self._stages or not probe.route or probe.route[0].peer not in self.setup.addresses:
            raise MessageError("a probe in a session that runs a plan, or that leads nowhere")
        written_ms = self._probes.add(probe, payload)
        if written_ms is not None:
            pass_on = partial(self._pass_probe, probe, written_ms)
            self._worker.put(partial(self._guard, "cannot pass a probe on", pass_on))

    def _pass_probe(self, probe: Probe, written_ms: float) -> None:
        self._sender.put(*onward(probe, written_ms, self.setup.wire))

    def _input_ready(self, frame: int, boundary: int, inputs: list[FloatRows]) -> None:
        written = time.monotonic() + self._write_ms.get(boundary, 0.0) / 1000.0
        run = partial(self._run_stage, frame, boundary, inputs, written)
        work = partial(self._guard, f"cannot compute volume {boundary}", run)
        self._worker.put(work, frame, boundary)

    def _guard(self, complaint: str, work: Callable[[], None]) -> None:
        """Do work of the compute thread; whatever goes wrong in an engine is the requester's to know."""
        if self.over:
            return
        try:
            work()
        except Exception as exc:
            self.fail(f"{complaint}: {' '.join(str(exc).split())[:400] or type(exc).__name__}")

    def _build(self) -> None:
        if not self.setup.stages:
            self._engines = {}
        elif self.setup.emulation:
            self._engines = emulated_engines(self.setup, self.setup.emulation)
        elif path := self._store.find(self.setup.model_sha256):
            self._engines = real_engines(self.setup, path)
        else:
            self._sender.put(REQUESTER, NeedModel(self.id, self._name))
            return
        self._sender.put(REQUESTER, Ready(self.id, self._name))

    def _run_stage(self, frame: int, boundary: int, inputs: list[FloatRows], written: float) -> None:
        """Compute one stage of a frame, once a board would have its rows in memory, and pass what it makes on."""
        sleep_until(written)
        engine, stage, started = self._engines[boundary], self._stages[boundary], time.monotonic()
        if isinstance(engine, HeadEngine):
            outputs = engine.run(inputs)
            self.compute_ms += (time.monotonic() - started) * 1000.0
            self._answer(frame, outputs)
            return
        made = engine.run(Interval(*stage.out), inputs)
        self.compute_ms += (time.monotonic() - started) * 1000.0
        self.rows += stage.out[1] - stage.out[0]
        for piece, rows in zip(stage.outputs, made, strict=True):
            self._made[frame, piece.layer] = piece.rows[0], rows
        self._pass_on(frame, stage)

    def _pass_on(self, frame: int, stage: Stage) -> None:
        """Queue the rows that others need, in order, and keep those that a later stage here needs."""
        for send in stage.sends:
            first, made = self._made[frame, send.layer]
            rows = made[:, :, send.rows[0] - first : send.rows[1] - first]
            if send.peer:
                data, scale = pack(rows, self.setup.wire)
                chunk = RowsChunk(self.id, self._name, frame, send.boundary, send.layer, send.rows, 0, scale)
                self._sender.put(send.peer, chunk, data)
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
            self._sender.put(
                REQUESTER, ResultChunk(self.id, self._name, frame, index, 0, scale, output.shape, dtype), data
            )
