"""The service requester: sets providers up for a plan, sends images and takes the results."""

from __future__ import annotations

import logging
import math
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distredge.engine.base import FloatRows
from distredge.engine.emulated import sleep_until
from distredge.errors import InputError
from distredge.plans.plan import BoundPlan
from distredge.runtime.assembly import MAX_IN_FLIGHT, Assembly, Blocks
from distredge.runtime.assignment import assignments, image_rows, results
from distredge.runtime.client import Client
from distredge.runtime.keys import Keys
from distredge.runtime.link_estimate import Arrivals
from distredge.runtime.message import (
    PROTOCOL,
    Emulation,
    Message,
    MessageError,
    ModelChunk,
    Report,
    ResultChunk,
    RowsChunk,
    Setup,
    Stop,
    Wire,
    pack,
    unpack,
)
from distredge.runtime.provider import MAX_ELEMENTS
from distredge.runtime.store import ModelStore, described
from distredge.scenario import REQUESTER

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameResult:
    """The model's outputs for an image, and the time from its rows' being queued until the last byte was back."""

    index: int
    outputs: dict[str, npt.NDArray[np.generic]]
    latency_ms: float


class Requester(Client):
    """A session with the providers of a plan; a context manager: entering sets them up, leaving frees them.

    `addresses` gives HOST:PORT of each provider that has something to do. For the rest, and for what is raised, see
    `Client`.
    """

    def __init__(
        self,
        bound: BoundPlan,
        addresses: Mapping[str, str],
        *,
        keys: Keys | None = None,
        listen: str | None = None,
        wire: Wire = "float32",
        emulations: Mapping[str, Emulation] | None = None,
        threads: int = 1,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._bound, self._wire, self._threads = bound, wire, threads
        self._stages = assignments(bound)
        missing = [name for name in self._stages if name not in addresses]
        if missing:
            raise InputError(
                f"where does provider '{missing[0]}' listen? Say --at {missing[0]}=HOST:PORT,"
                " or give its address in the scenario"
            )
        super().__init__(
            {name: addresses[name] for name in self._stages},
            keys=keys,
            listen=listen,
            emulations=emulations,
            check=check,
        )
        self._frames = 0
        self._started: dict[int, float] = {}
        self._outputs: dict[int, dict[str, npt.NDArray[np.generic]]] = {}
        self._of_head = [output for output in bound.graph.head.outputs if output.layer is None]
        self._arrivals = Arrivals(shaped=bool(self._emulations))
        pieces = results(bound)
        boundary = len(bound.volumes) + 1
        self._rows = Assembly({boundary: pieces} if pieces else {}, wire, self._take_rows)
        self._blocks = Blocks()

    def stream(self, images: Iterable[FloatRows], inflight: int = 1) -> Iterator[FrameResult]:
        """The results of float32 images (1, C, H, W), in the order in which they come back.

        At most `inflight` images are under way; an image is made while the ones before it are.
        """
        if not 1 <= inflight <= MAX_IN_FLIGHT:
            raise InputError(f"inflight must lie between 1 and {MAX_IN_FLIGHT}, not {inflight}")
        first, under_way, shape = self._frames, 0, self._bound.graph.input_shape
        for image in images:
            if image.shape != shape:
                raise InputError(f"an image of the shape {image.shape}: the model takes {shape}")
            if under_way == inflight:
                yield self._next_result(first)
                under_way -= 1
            self._submit(image)
            under_way += 1
        for _ in range(under_way):
            yield self._next_result(first)

    def finish(self, timeout_s: float = 3.0) -> dict[str, Report]:
        """End the session; the totals of the providers that tell them in time."""
        for name in self._stages:
            self._sender.put(name, Stop(self._session, report=True))
        self._finished = True
        reports: dict[str, Report] = {}
        deadline = time.monotonic() + timeout_s
        while len(reports) < len(self._stages) and time.monotonic() < deadline:
            event = self._event()
            if isinstance(event, Report):
                reports[event.sender] = event
        return reports

    # Setting up.

    def _set_up(self) -> None:
        ModelStore().offer(self._bound.graph)
        super()._set_up()

    def _setup(self, name: str) -> Setup:
        graph = self._bound.graph
        return Setup(
            session=self._session,
            protocol=PROTOCOL,
            addresses={REQUESTER: self._inbox.address, **self._addresses},
            model_sha256=graph.sha256,
            input_shape=graph.input_shape,
            outputs=tuple((output.name, output.shape) for output in self._of_head),
            stages=self._stages[name],
            wire=self._wire,
            emulation=self._emulations.get(name),
            threads=self._threads,
        )

    def _send_model(self, name: str) -> None:
        """Send the model's files; they are mapped, not read, until their chunks leave."""
        path, files = self._bound.graph.path, described(self._bound.graph.path)
        log.info("sending the model to %s", name)
        for index, (file, _) in enumerate(files):
            with (path.parent / file).open("rb") as opened:
                content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
            chunk = ModelChunk(self._session, self._bound.graph.sha256, files, index, 0)
            self._sender.put(name, chunk, content)

    # Frames.

    def _submit(self, image: FloatRows) -> None:
        frame, self._frames = self._frames, self._frames + 1
        messages: list[tuple[str, Message, memoryview]] = []
        rows = image.reshape(1, *self._bound.graph.image)
        for send in image_rows(self._bound):
            data, scale = pack(rows[:, :, send.rows[0] : send.rows[1]], self._wire)
            chunk = RowsChunk(self._session, REQUESTER, frame, send.boundary, send.layer, send.rows, 0, scale)
            messages.append((send.peer, chunk, data))
        self._started[frame] = time.monotonic()  # the image is split beforehand, as in the paper (section V-A)
        self._sender.put_together(messages)

    def _next_result(self, first: int) -> FrameResult:
        """The next result, its index counted from the frame `first`."""
        while True:
            event = self._event()
            if isinstance(event, FrameResult):
                return replace(event, index=event.index - first)
            self._check_alive()

    # The receiving thread.

    def _take_payload(self, message: Message, payload: bytes) -> None:
        """Take part of a frame's outputs."""
        if not isinstance(message, ResultChunk | RowsChunk):
            raise MessageError(f"{type(message).__name__} is for providers")
        if message.frame not in self._started:
            raise MessageError(f"nothing of frame {message.frame} is expected")
        if message.sender in self._peers:
            self._arrivals.took(message, len(payload), self._inbox.received_s)
        if isinstance(message, ResultChunk):
            self._take_result(message, payload)
        else:
            self._rows.add_chunk(message, payload)

    def _take_result(self, chunk: ResultChunk, payload: bytes) -> None:
        """Put an output that the head made together."""
        if chunk.output >= len(self._of_head):
            raise MessageError(f"no output {chunk.output} is expected")
        expected = self._of_head[chunk.output].shape
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
        self._take_outputs(chunk.frame, {self._of_head[chunk.output].name: output})

    def _take_rows(self, frame: int, boundary: int, arrays: list[FloatRows]) -> None:
        """Outputs that came as rows are whole."""
        made = {piece.layer: array for piece, array in zip(results(self._bound), arrays, strict=True)}
        index = self._bound.graph.index
        self._take_outputs(
            frame,
            {
                output.name: made[index[output.layer]].reshape(output.shape).astype(output.dtype, copy=False)
                for output in self._bound.graph.head.outputs
                if output.layer is not None
            },
        )

    def _take_outputs(self, frame: int, outputs: dict[str, npt.NDArray[np.generic]]) -> None:
        """Note outputs of a frame, which is done with the last one."""
        known = self._outputs.setdefault(frame, {})
        known.update(outputs)
        if len(known) == len(self._bound.graph.head.outputs):
            sleep_until(time.monotonic() + sum(self._own.write_ms) / 1000.0)
            latency_ms = (time.monotonic() - self._started.pop(frame)) * 1000.0
            self._events.put(FrameResult(frame, self._outputs.pop(frame), latency_ms))
            self._links[REQUESTER] = self._arrivals.observed()
