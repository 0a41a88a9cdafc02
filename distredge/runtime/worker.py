"""A provider's compute thread, and what it computes for a session."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from threading import Thread

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.geometry.interval import Interval
from distredge.runtime.assembly import Assembly
from distredge.runtime.engines import Engines, emulated_engines, real_engines
from distredge.runtime.message import Failed, NeedModel, Ready, ResultChunk, RowsChunk, Setup, Stage, pack
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
        self.assembly = Assembly(setup.stages, setup.wire, self._input_ready, values=setup.emulation is None)
        self._name, self._worker, self._sender, self._store = name, worker, sender, store
        self._stages = {stage.boundary: stage for stage in setup.stages}
        self._engines: Engines = {}

    def begin(self) -> None:
        """Have the engines built; then, or without the model's files, the requester is told."""
        self._worker.put(partial(self._guard, "cannot build its engines", self._build))

    def fail(self, reason: str) -> None:
        """Tell the requester that the session cannot go on."""
        self._sender.put(REQUESTER, Failed(self.id, self._name, reason))

    def _input_ready(self, frame: int, boundary: int, x: FloatRows) -> None:
        work = partial(self._guard, f"cannot compute volume {boundary}", partial(self._run_stage, frame, boundary, x))
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
        if self.setup.emulation:
            self._engines = emulated_engines(self.setup, self.setup.emulation)
        elif path := self._store.find(self.setup.model_sha256):
            self._engines = real_engines(self.setup, path)
        else:
            self._sender.put(REQUESTER, NeedModel(self.id, self._name))
            return
        self._sender.put(REQUESTER, Ready(self.id, self._name))

    def _run_stage(self, frame: int, boundary: int, x: FloatRows) -> None:
        """Compute one stage of a frame and pass its rows, or the result, on."""
        engine, started = self._engines[boundary], time.monotonic()
        out = engine.run(x)
        self.compute_ms += (time.monotonic() - started) * 1000.0
        if isinstance(out, dict):
            self._answer(frame, out)
        else:
            self.rows += out.shape[2]
            self._pass_on(frame, self._stages[boundary], out)

    def _pass_on(self, frame: int, stage: Stage, out: FloatRows) -> None:
        """Queue the rows that others need, in ascending order of place, and keep those that the next stage needs."""
        first, following = stage.output[0], stage.boundary + 1
        for send in stage.sends:
            start, stop = send.rows
            data, scale = pack(out[:, :, start - first : stop - first], self.setup.wire)
            self._sender.put(send.peer, RowsChunk(self.id, frame, following, send.rows, 0, scale), data)
        start, stop = stage.keep
        if stop > start:
            self.assembly.add_rows(frame, following, Interval(start, stop), out[:, :, start - first : stop - first])

    def _answer(self, frame: int, outputs: dict[str, npt.NDArray[np.float32]]) -> None:
        """Queue the model's outputs for the requester."""
        for index, (name, _) in enumerate(self.setup.outputs):
            data, scale = pack(outputs[name], self.setup.wire)
            self._sender.put(REQUESTER, ResultChunk(self.id, frame, index, 0, scale), data)
