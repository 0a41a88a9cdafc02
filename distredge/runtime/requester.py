"""The service requester: sets providers up for a plan, sends images and takes the results."""

from __future__ import annotations

import logging
import math
import mmap
import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Event, Thread
from types import TracebackType

import numpy as np
import numpy.typing as npt
import zmq

from distredge.engine.base import FloatRows
from distredge.errors import InputError, ProviderLostError, RunError
from distredge.plans.plan import BoundPlan
from distredge.profiles.network import QUANTUM_BYTES
from distredge.runtime.assembly import MAX_IN_FLIGHT, Assembly, Blocks
from distredge.runtime.assignment import assignments, image_rows, results
from distredge.runtime.keys import Keys
from distredge.runtime.message import (
    PROTOCOL,
    Busy,
    Emulation,
    Failed,
    Heartbeat,
    Message,
    MessageError,
    ModelChunk,
    NeedModel,
    Ready,
    Report,
    ResultChunk,
    RowsChunk,
    Setup,
    Stop,
    Wire,
    pack,
    unpack,
)
from distredge.runtime.provider import BEAT_S, LOST_S, MAX_ELEMENTS
from distredge.runtime.store import ModelStore, described
from distredge.runtime.transport import (
    CHUNK_BYTES,
    Connections,
    Inbox,
    Sender,
    address_book,
    is_loopback,
    own_host,
    parse_address,
)
from distredge.scenario import REQUESTER

SETUP_S = 10.0
"""How long a provider may take to answer a setup at all; building its engines may take longer."""

_POLL_S = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameResult:
    """The model's outputs for an image, and the time from its rows' being queued until the last byte was back."""

    index: int
    outputs: dict[str, npt.NDArray[np.generic]]
    latency_ms: float


class Requester:
    """A session with the providers of a plan; a context manager: entering sets them up, leaving frees them.

    `addresses` gives HOST:PORT of each provider that has something to do. `listen` is where results come to, by
    default a free port of the host that the providers can reach. `emulations` makes the named providers stand in
    for boards, and `rate_mbps` shapes this node's link. `check` is called while waiting and may raise.

    Raises `InputError` for addresses and keys that cannot be used, `ProviderLostError` if a provider is not there
    or stops answering, `RunError` if one cannot do its part. Nothing waits for ever.
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
        rate_mbps: float = math.inf,
        threads: int = 1,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._bound, self._wire, self._emulations, self._threads = bound, wire, emulations or {}, threads
        self._check, self._rate_mbps = check, rate_mbps
        self._stages = assignments(bound)
        missing = [name for name in self._stages if name not in addresses]
        if missing:
            raise InputError(
                f"where does provider '{missing[0]}' listen? Say --at {missing[0]}=HOST:PORT,"
                " or give its address in the scenario"
            )
        self._addresses = {name: addresses[name] for name in self._stages}
        self._peers = address_book(self._addresses, keys)
        self._keys, self._listen = keys, listen or f"{own_host(next(iter(self._addresses.values())))}:0"
        host, _ = parse_address(self._listen)
        if host == "0.0.0.0":
            raise InputError("the requester needs an address that providers can reach, not 0.0.0.0")
        if keys is None and not all(is_loopback(parse_address(a)[0]) for a in self._addresses.values()):
            raise InputError("providers on other machines are reached with keys only: add --keys")
        self._session = secrets.token_hex(8)
        self._frames, self._finished = 0, False
        self._started: dict[int, float] = {}
        self._outputs: dict[int, dict[str, npt.NDArray[np.generic]]] = {}
        self._of_head = [output for output in bound.graph.head.outputs if output.layer is None]
        self._heard: dict[str, float] = {}
        self._events: queue.SimpleQueue[Message | FrameResult | Exception] = queue.SimpleQueue()
        self._stop = Event()

    def __enter__(self) -> Requester:
        """Set all providers up and wait until they are ready."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = self._keys.start_gate(self._context) if self._keys else None
        try:
            self._inbox = Inbox(self._context, self._listen, self._keys)
        except InputError:
            self._close_context()
            raise
        self._inbox.shape(self._rate_mbps)
        self._sender = Sender(self._context, self._keys, self._unreachable)
        self._sender.start()
        self._sender.reset(self._peers, self._rate_mbps, QUANTUM_BYTES if self._emulations else CHUNK_BYTES)
        self._receiver = Thread(target=self._receive, name="receive", daemon=True)
        self._receiver.start()
        try:
            self._set_up()
        except BaseException:
            self._close(patience_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session and free everything."""
        self._close(patience_s=0.0 if error else 1.0)

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
        setups = {name: self._setup(name) for name in self._stages}
        ModelStore().offer(self._bound.graph)
        begun = time.monotonic()
        for name, setup in setups.items():
            self._sender.put(name, setup)
        waiting = set(setups)
        while waiting:
            event = self._event()
            if isinstance(event, Ready):
                waiting.discard(event.sender)
            elif isinstance(event, NeedModel):
                self._send_model(event.sender)
            elif isinstance(event, Busy):
                self._retry(event.sender, setups[event.sender], begun)
            self._check_alive()
            if time.monotonic() - begun > SETUP_S and (silent := sorted(waiting - self._heard.keys())):
                raise ProviderLostError(
                    f"{self._title(silent[0])} does not answer: is it a DistrEdge provider of that name, with the same"
                    f" keys, and can it reach this machine at {self._inbox.address}?"
                )

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

    def _retry(self, name: str, setup: Setup, begun: float) -> None:
        """Ask a provider again that serves another requester, which may be gone without a word."""
        if time.monotonic() - begun > SETUP_S:
            raise RunError(f"{self._title(name)} serves another requester: try again when that is done")
        time.sleep(BEAT_S)
        self._sender.put(name, setup)

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
            chunk = RowsChunk(self._session, frame, send.boundary, send.layer, send.rows, 0, scale)
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

    def _event(self) -> Message | FrameResult | None:
        """What the receiving thread has to say; None if nothing for a moment. Raises what it reports."""
        try:
            event = self._events.get(timeout=_POLL_S)
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def _check_alive(self) -> None:
        self._check()
        now = time.monotonic()
        oldest = min(self._heard, key=lambda name: self._heard[name], default=None)
        if oldest is not None and now - self._heard[oldest] > LOST_S:
            raise ProviderLostError(f"{self._title(oldest)} has stopped answering")

    def _title(self, name: str) -> str:
        return f"provider '{name}' at {self._addresses[name]}"

    def _unreachable(self, name: str) -> None:
        """Called by the sending thread."""
        self._events.put(
            ProviderLostError(
                f"{self._title(name)} is not there: start it with"
                f" `distredge provider --name {name} --listen {self._addresses[name]}`, with the same keys"
            )
        )

    # The receiving thread.

    def _receive(self) -> None:
        beats = Connections(self._context, self._keys)
        beats.connect(self._peers)
        pieces = results(self._bound)
        boundary = len(self._bound.volumes) + 1
        rows = Assembly({boundary: pieces} if pieces else {}, self._wire, self._take_rows)
        blocks, due = Blocks(), 0.0
        while not self._stop.is_set():
            arrived = self._inbox.receive(_POLL_S)
            if arrived and arrived[0].session == self._session:
                try:
                    self._take(*arrived, blocks, rows)
                except MessageError as exc:
                    self._inbox.reject(exc)
            if time.monotonic() >= due:
                due = time.monotonic() + BEAT_S
                for name in self._peers:
                    beats.send(name, Heartbeat(self._session, REQUESTER))
        beats.close()
        self._inbox.close()

    def _take(self, message: Message, payload: bytes, blocks: Blocks, rows: Assembly) -> None:
        """Note that a provider is there, and hand on what the other thread waits for."""
        if isinstance(message, ResultChunk | RowsChunk):  # what the others say may be queued behind it
            self._heard.update(dict.fromkeys(self._heard, time.monotonic()))
            if message.frame not in self._started:
                raise MessageError(f"nothing of frame {message.frame} is expected")
            if isinstance(message, ResultChunk):
                self._take_result(message, payload, blocks)
            else:
                rows.add_chunk(message, payload)
            return
        if not isinstance(message, Heartbeat | Ready | NeedModel | Busy | Failed | Report):
            raise MessageError(f"{type(message).__name__} is for providers")
        if message.sender not in self._peers:
            raise MessageError(f"'{message.sender}' has no part in this session")
        self._heard[message.sender] = time.monotonic()
        if isinstance(message, Failed):
            self._events.put(RunError(f"{self._title(message.sender)} {message.reason}"))
        elif not isinstance(message, Heartbeat):
            self._events.put(message)

    def _take_result(self, chunk: ResultChunk, payload: bytes, blocks: Blocks) -> None:
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
        block = blocks.add((chunk.frame, chunk.output), chunk.offset, payload, total) if total else bytearray()
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
            latency_ms = (time.monotonic() - self._started.pop(frame)) * 1000.0
            self._events.put(FrameResult(frame, self._outputs.pop(frame), latency_ms))

    # Ending.

    def _close(self, patience_s: float) -> None:
        self._sender.patience_s = patience_s
        if not self._finished:
            for name in self._stages:
                self._sender.put(name, Stop(self._session, report=False))
        self._sender.stop()
        self._stop.set()
        self._receiver.join()
        self._close_context()

    def _close_context(self) -> None:
        if self._gate:
            self._gate.stop()
        self._context.term()
