"""A network in memory under a virtual clock: the runtime's own logic, with every fault at a moment of one's choice.

What providers and conductor say goes through the codec and arrives after a delay; providers really compute, in as much
virtual time as one says. Nothing sleeps, and nothing depends on the machine: events are ordered by (time, sequence).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from distredge.engine.base import Engine, FloatRows, HeadEngine
from distredge.geometry.interval import Interval
from distredge.plans.plan import BoundPlan
from distredge.runtime.assignment import assignments
from distredge.runtime.compute import Compute, Work
from distredge.runtime.conductor import Conductor, EpochBegun, FrameDone, Told
from distredge.runtime.engines import Engines, Shelf
from distredge.runtime.helm import Helm
from distredge.runtime.message import PROTOCOL, Message, MessageError, Setup, decode, encode
from distredge.runtime.outbox import NOTHING, Outbox, Pace, Parcel
from distredge.runtime.provider import BEAT_S, Service
from distredge.runtime.replan import redistributed
from distredge.runtime.store import ModelStore
from distredge.runtime.watch import Situation, Watch
from distredge.scenario import REQUESTER

DELAY_S = 0.001

REFUSED_S = 0.002
"""After so long a node knows that nobody listens at another one's address."""


@dataclass
class _Node:
    """What the network knows of a node. `ahead_s` is how far its own clock is while it computes."""

    receive: Callable[[Message, memoryview], None]
    lost: Callable[[str], None]
    is_alive: bool = True
    is_frozen: bool = False
    is_cut: bool = False
    ahead_s: float = 0.0
    held: list[Callable[[], None]] = field(default_factory=list)


class MemoryNetwork:
    """Nodes, the messages between them and the clock. All that happens is an event of its heap."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: dict[str, _Node] = {}
        self.rejected: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._events, (time_s, next(self._sequence), event))

    def run_until(self, time_s: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen up to a time, or until `done`."""
        while self._events and self._events[0][0] <= time_s and not done():
            self.now, _, event = heapq.heappop(self._events)
            event()
        if not done():
            self.now = time_s

    def clock_of(self, name: str) -> float:
        """A node's own clock: ahead of the network's while it computes."""
        return self.now + self.nodes[name].ahead_s

    def when_awake(self, name: str, event: Callable[[], None]) -> None:
        """Do what a node does, now or when it is thawed; never if it is dead."""
        node = self.nodes[name]
        if node.is_frozen:
            node.held.append(event)
        elif node.is_alive:
            event()

    def post(self, sender: str, receiver: str, message: Message, payload: memoryview) -> None:
        """Carry a message; it is lost if either end is cut off, and held while the receiver is frozen."""
        leaves_s = self.clock_of(sender)
        frames = [encode(message), bytes(payload)] if len(payload) else [encode(message)]
        self.at(leaves_s, partial(self._carry, sender, receiver, frames))

    def freeze(self, name: str) -> None:
        """As SIGSTOP: it does nothing, and what is sent to it waits."""
        self.nodes[name].is_frozen = True

    def thaw(self, name: str) -> None:
        """As SIGCONT."""
        node = self.nodes[name]
        node.is_frozen = False
        held, node.held = node.held, []
        for event in held:
            event()

    def cut(self, name: str) -> None:
        """As a link that is down: nothing reaches it, nothing comes from it."""
        self.nodes[name].is_cut = True

    def mend(self, name: str) -> None:
        """As a link that is up again."""
        self.nodes[name].is_cut = False

    def kill(self, name: str) -> None:
        """As SIGKILL: whoever sends to it is refused."""
        self.nodes[name].is_alive = False

    def _carry(self, sender: str, receiver: str, frames: list[bytes]) -> None:
        a, b = self.nodes[sender], self.nodes.get(receiver)
        if not a.is_alive or a.is_cut or b is None or b.is_cut:
            return
        if not b.is_alive:
            self.at(self.now + REFUSED_S, lambda: self.when_awake(sender, lambda: a.lost(receiver)))
            return
        self.at(self.now + DELAY_S, lambda: self.when_awake(receiver, lambda: self._deliver(receiver, frames)))

    def _deliver(self, receiver: str, frames: list[bytes]) -> None:
        message, payload = decode(frames)
        try:
            self.nodes[receiver].receive(message, memoryview(payload))
        except MessageError as exc:
            self.rejected.append(f"{receiver}: {exc}")


class MemoryOutbox(Outbox):
    """An outbox into the network; a message with payload goes as one chunk."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network, self._name = network, name
        self._known: set[str] = set()
        self._bytes_out = 0

    def open(self, addresses: Mapping[str, str], pace: Pace) -> None:
        """See `Outbox`."""
        self._known = set(addresses)

    def keep_pace(self, pace: Pace) -> None:
        """See `Outbox`; nothing is paced here."""

    def renew(self, oldest: int) -> None:
        """See `Outbox`; what was posted arrives all the same, as it may from a socket."""

    def put(self, peer: str, message: Message, payload: memoryview = NOTHING) -> None:
        """See `Outbox`."""
        assert peer in self._known, f"{self._name} does not know {peer}"
        self._bytes_out += len(payload)
        self._network.post(self._name, peer, message, payload)

    def put_together(self, parcels: Iterable[Parcel]) -> None:
        """See `Outbox`."""
        for parcel in parcels:
            self.put(*parcel)

    def beat(self, peer: str, message: Message) -> bool:
        """See `Outbox`; a beat to a node that is not there is dropped."""
        node = self._network.nodes.get(peer)
        if node is None or not node.is_alive:
            return False
        self._network.post(self._name, peer, message, NOTHING)
        return True

    def answer(self, address: str, name: str, message: Message) -> None:
        """See `Outbox`."""
        self._network.post(self._name, name, message, NOTHING)

    @property
    def bytes_out(self) -> int:
        """See `Outbox`."""
        return self._bytes_out

    @property
    def is_sending(self) -> bool:
        """See `Outbox`."""
        return False


class _MemoryCompute(Compute):
    """One piece of work after the other; each lasts as long as it says on its node's clock."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network, self._name = network, name
        self._tasks: list[tuple[int, int, int, Work]] = []
        self._sequence = itertools.count()
        self._is_busy = False

    def put(self, work: Work, frame: int = -1, boundary: int = 0) -> None:
        """See `Compute`."""
        heapq.heappush(self._tasks, (frame, boundary, next(self._sequence), work))
        if not self._is_busy:
            self._is_busy = True
            self._network.at(self._network.now, lambda: self._network.when_awake(self._name, self._next))

    def _next(self) -> None:
        node = self._network.nodes[self._name]
        *_, work = heapq.heappop(self._tasks)
        work()
        took_s, node.ahead_s = node.ahead_s, 0.0
        self._is_busy = bool(self._tasks)
        if self._is_busy:
            self._network.at(self._network.now + took_s, lambda: self._network.when_awake(self._name, self._next))


class _Spending(Engine):
    """An engine that takes virtual time."""

    def __init__(self, engine: Engine, spend: Callable[[], None]) -> None:
        self._engine, self._spend = engine, spend

    def prepare(self, out: Interval) -> None:
        """As the engine."""
        self._engine.prepare(out)

    def run(self, out: Interval, inputs: Sequence[FloatRows]) -> list[FloatRows]:
        """As the engine, and time passes."""
        self._spend()
        return self._engine.run(out, inputs)


class _SpendingShelf(Shelf):
    def __init__(self, spend: Callable[[], None]) -> None:
        super().__init__()
        self._spend = spend

    def engines(self, setup: Setup, path: object) -> Engines:
        """The engines, but the head's, take virtual time."""
        found = super().engines(setup, path)  # type: ignore[arg-type]
        return {k: e if isinstance(e, HeadEngine) else _Spending(e, self._spend) for k, e in found.items()}


class MemoryProvider:
    """A provider's logic in the network; each stage takes `stage_s` of its own time, times `slowdown`."""

    def __init__(self, network: MemoryNetwork, name: str, store: ModelStore, stage_s: float) -> None:
        self.name, self.stage_s, self.slowdown = name, stage_s, 1.0
        self._network, self._store = network, store
        self.start()

    def start(self) -> None:
        """Begin anew, with nothing of an earlier life."""
        outbox = MemoryOutbox(self._network, self.name)
        self.service = Service(
            self.name,
            outbox,
            _MemoryCompute(self._network, self.name),
            self._store,
            clock=lambda: self._network.clock_of(self.name),
            shelf=lambda: _SpendingShelf(self._spend),
        )
        self._network.nodes[self.name] = _Node(self._receive, self.service.peer_lost)
        self._tick(self.service)

    def _receive(self, message: Message, payload: memoryview) -> None:
        self.service.handle(message, payload, self._network.now)

    def _tick(self, service: Service) -> None:
        if service is self.service:
            service.tick()
            self._network.at(
                self._network.now + BEAT_S,
                lambda: self._network.when_awake(self.name, lambda: self._tick(service)),
            )

    def _spend(self) -> None:
        self._network.nodes[self.name].ahead_s += self.stage_s * self.slowdown


class MemoryRequester:
    """A conductor and a helm in the network, and a stream through them: `done` are frames, `begun` epochs, as told.

    Nobody proposes plans by itself: the helm has orders only.
    """

    def __init__(self, network: MemoryNetwork, bound: BoundPlan, names: Sequence[str]) -> None:
        self.done: list[FrameDone] = []
        self.begun: list[EpochBegun] = []
        self.situations: list[Situation] = []
        self._network, self._bound = network, bound
        self._images: list[FloatRows] = []
        self._under_way = 0
        self._addresses = {name: f"127.0.0.1:{9000 + i}" for i, name in enumerate(names)}
        self.watch = Watch(lambda: network.now)
        self.helm = Helm(bound, self.watch, None, None, lambda found: None, None, lambda: network.now)
        outbox = MemoryOutbox(network, REQUESTER)
        outbox.open(self._addresses, Pace())
        self.conductor = Conductor(
            "memory", self._addresses, "127.0.0.1:9999", outbox, "float32", self._brief,
            lambda situation: redistributed(bound, situation), self.watch, self._tell, lambda: network.now,
            self._situation_changed,
        )  # fmt: skip
        network.nodes[REQUESTER] = _Node(self.conductor.handle, self.conductor.unreachable)
        self.conductor.begin(bound)
        self.helm.begin(self.conductor)
        self._tick()

    def stream(self, images: Sequence[FloatRows], inflight: int) -> None:
        """Have images run, so many at a time."""
        self._images = list(images)
        for _ in range(min(inflight, len(images))):
            self._submit()

    def _submit(self) -> None:
        if self._images:
            self.conductor.submit(self._images.pop(0))

    def _situation_changed(self, situation: Situation) -> None:
        self.situations.append(situation)
        self.helm.situation_changed(situation)

    def _tell(self, told: Told) -> None:
        self.helm.told(told)
        if isinstance(told, FrameDone):
            self.done.append(told)
            self._network.at(self._network.now, self._submit)
        elif isinstance(told, EpochBegun):
            self.begun.append(told)
        elif isinstance(told, Exception):
            raise told

    def _tick(self) -> None:
        self.conductor.tick()
        self.helm.tick()
        self._network.at(self._network.now + 0.05, lambda: self._network.when_awake(REQUESTER, self._tick))

    def _brief(self, bound: BoundPlan | None, epoch: int, oldest: int) -> dict[str, Setup]:
        stages, graph = assignments(bound) if bound else {}, self._bound.graph
        return {
            name: Setup(
                session="memory", epoch=epoch, oldest=oldest, protocol=PROTOCOL,
                addresses={REQUESTER: "127.0.0.1:9999", **self._addresses}, model_sha256=graph.sha256,
                input_shape=graph.input_shape,
                outputs=tuple((o.name, o.shape) for o in graph.head.outputs if o.layer is None),
                stages=stages.get(name, ()), wire="float32", emulation=None, threads=1,
            )
            for name in self._addresses
        }  # fmt: skip
