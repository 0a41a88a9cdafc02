"""What a provider holds for one requester; all of it goes when the session ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from distredge.plans.nodes import REQUESTER
from distredge.runtime.compute import Compute
from distredge.runtime.engines import Engines, Shelf, emulated_engines
from distredge.runtime.epoch import Epoch
from distredge.runtime.link_estimate import Arrivals
from distredge.runtime.memory import FreeMemory, shortage
from distredge.runtime.message import (
    Buffer,
    Failed,
    MessageError,
    NeedModel,
    Noted,
    Probe,
    Ready,
    RowsChunk,
    Setup,
    Stage,
    Stint,
)
from distredge.runtime.outbox import Outbox, Pace
from distredge.runtime.relay import ProbeBlocks, onward
from distredge.runtime.store import ModelStore
from distredge.runtime.tracing import Recorder

MAX_EPOCHS = 4
"""That may be under way at a time: the plan in force, the next one, and what is left of those before."""

MAX_STINTS = 10_000


class Session:
    """The epochs of one requester's session, and what they share. Its methods are the receiving thread's."""

    def __init__(
        self,
        name: str,
        setup: Setup,
        outbox: Outbox,
        compute: Compute,
        store: ModelStore,
        clock: Callable[[], float],
        shelf: Shelf,
        free_mb: FreeMemory,
        recorder: Recorder,
    ) -> None:
        self.id = setup.session
        self.addresses = setup.addresses
        self.model_sha256 = setup.model_sha256
        self.newest = -1
        self.oldest = 0
        self.compute_ms = 0.0
        self.rows = 0
        self.arrivals = Arrivals(shaped=setup.emulation is not None)
        self._epochs: dict[int, Epoch] = {}
        self._shelf, self._free_mb = shelf, free_mb
        self._held_mb = 0.0
        self._pace_mbps, self._emulated = setup.pace_mbps, setup.emulation is not None and setup.emulation.rate_mbps
        self._recorder = recorder
        self._has_received = False
        self._stints: deque[tuple[int, int, float]] = deque(maxlen=MAX_STINTS)
        self._probes = ProbeBlocks(setup.wire)
        self._name, self._outbox, self._compute, self._store, self._clock = name, outbox, compute, store, clock

    def add_epoch(self, setup: Setup) -> None:
        """Make ready for another plan; the requester is told when the engines are there, or what is missing."""
        if setup.epoch == self.newest:  # asked again, as the answer may be lost
            if setup.epoch in self._epochs and self._epochs[setup.epoch].is_ready:
                self._outbox.put(REQUESTER, Ready(self.id, self._name, self.newest))
            return
        if setup.epoch < self.newest or setup.epoch < setup.oldest:
            raise MessageError(f"a plan of epoch {setup.epoch}: {self.newest} is in force")
        self.retire(setup.oldest)
        if len(self._epochs) >= MAX_EPOCHS:
            raise MessageError(f"more than {MAX_EPOCHS} epochs are under way")
        self.newest = setup.epoch
        self._outbox.renew(self.oldest)
        real_mb = 0.0 if setup.emulation else setup.memory_mb
        if problem := shortage(real_mb, self._held_mb, self._free_mb()):
            self.fail(problem)
            return
        self._held_mb = max(self._held_mb, real_mb)
        epoch = self._epochs[setup.epoch] = Epoch(
            self._name, setup, self._outbox, self._compute, self._took, self._clock, self._recorder
        )
        self._compute.put(partial(epoch.guard, "cannot build its engines", partial(self._build, epoch)))

    def keep_pace(self, mbps: float | None) -> None:
        """Send no faster from now on; None changes nothing, nor does anything where links are emulated."""
        if mbps is not None and mbps != self._pace_mbps and not self._emulated:
            self._pace_mbps = mbps
            self._outbox.keep_pace(Pace(mbps))

    def retire(self, oldest: int) -> None:
        """Throw away what is left of epochs older than `oldest`."""
        self.oldest = max(self.oldest, oldest)
        over = [number for number in self._epochs if number < self.oldest]
        for number in over:
            self._close(self._epochs.pop(number))
        if over:
            live = [epoch.setup for epoch in self._epochs.values()]
            self._compute.put(partial(self._shelf.keep, live))

    def end(self) -> None:
        """Free everything."""
        for epoch in self._epochs.values():
            self._close(epoch)
        self._epochs.clear()
        self._compute.put(partial(self._shelf.keep, []))

    def _close(self, epoch: Epoch) -> None:
        epoch.over = True
        self._compute.put(epoch.close)

    def add_rows(self, chunk: RowsChunk, payload: Buffer, received_s: float) -> None:
        """Take rows; raises `MessageError` if they fit nothing, those of an epoch that is over are ignored."""
        if chunk.sender not in self.addresses:
            raise MessageError(f"rows from '{chunk.sender}', which has no part in this session")
        self.arrivals.took(chunk, len(payload), received_s)
        self._has_received = True
        epoch = self._epochs.get(chunk.epoch)
        if epoch is not None:
            self._recorder.received(chunk.epoch, chunk.frame, chunk.boundary, chunk.sender, received_s, len(payload))
            epoch.assembly.add_chunk(chunk, payload)
        elif chunk.epoch >= self.oldest:
            raise MessageError(f"rows of epoch {chunk.epoch}, which is not known here")

    def add_probe(self, probe: Probe, payload: Buffer) -> None:
        """Take part of a probe; when all is here, it goes on. Raises `MessageError` for one that does not fit."""
        busy = any(epoch.setup.stages for epoch in self._epochs.values())
        if busy or not probe.route or probe.route[0].peer not in self.addresses:
            raise MessageError("a probe in a session that runs a plan, or that leads nowhere")
        written_ms = self._probes.add(probe, payload)
        if written_ms is not None:
            self._compute.put(partial(self._pass_probe, probe, written_ms))

    def model_is_here(self) -> None:
        """Build what could not be built without the model."""
        for epoch in self._epochs.values():
            if not epoch.is_ready:
                self._compute.put(partial(epoch.guard, "cannot build its engines", partial(self._build, epoch)))

    def fail(self, reason: str) -> None:
        """Tell the requester that the session cannot go on."""
        self._outbox.put(REQUESTER, Failed(self.id, self._name, self.newest, reason))

    def was_active(self) -> bool:
        """Whether rows have come, or something was computed or is to be, since the last time this was asked."""
        received, self._has_received = self._has_received, False
        return received or bool(self._stints) or any(epoch.is_busy for epoch in self._epochs.values())

    def take_stints(self) -> tuple[Stint, ...]:
        """What has been computed since the last time this was asked."""
        sums: dict[tuple[int, int], list[float]] = {}
        for _ in range(len(self._stints)):
            epoch, boundary, ms = self._stints.popleft()
            sums.setdefault((epoch, boundary), []).append(ms)
        return tuple(Stint(*key, len(times), sum(times)) for key, times in sums.items())

    def send_notes(self) -> None:
        """Tell the requester what was noted of frames, if it wants to know."""
        while spans := self._recorder.take():
            self._outbox.put(REQUESTER, Noted(self.id, self._name, spans, self._recorder.dropped))

    # The compute thread.

    def _build(self, epoch: Epoch) -> None:
        setup = epoch.setup
        engines: Engines = {}
        if setup.stages and setup.emulation:
            engines = emulated_engines(setup, setup.emulation)
        elif setup.stages:
            path = self._store.find(setup.model_sha256)
            if path is None:
                self._outbox.put(REQUESTER, NeedModel(self.id, self._name, setup.epoch))
                return
            engines = self._shelf.engines(setup, path)
        epoch.begin(engines)
        self._outbox.put(REQUESTER, Ready(self.id, self._name, setup.epoch))

    def _took(self, setup: Setup, stage: Stage, ms: float) -> None:
        self.compute_ms += ms
        self.rows += stage.out[1] - stage.out[0]
        self._stints.append((setup.epoch, stage.boundary, ms))

    def _pass_probe(self, probe: Probe, written_ms: float) -> None:
        try:
            self._outbox.put(*onward(probe, written_ms, self._probes.wire))
        except Exception as exc:
            self.fail(f"cannot pass a probe on: {exc}")
