"""What a node notes of every frame, if its requester wants to know: when it received, computed and sent what."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

MAX_SPANS = 100_000
"""A node keeps no more spans than these that nobody has taken yet; further ones are counted and lost."""

BATCH_SPANS = 200
"""So many fit into a message of 64 KB, whatever the nodes' names are."""

MAX_GATHERED = 4096
"""Blocks of rows that may have come in part."""

RESULT = 2**40
"""Stands for the requester's boundary where the number of volumes is not known."""

Kind: TypeAlias = Literal["receive", "wait", "compute", "head", "send", "split", "result"]
Count = Annotated[int, Meta(ge=0, le=2**40)]
Moment = Annotated[float, Meta(ge=0, le=1e12)]
Name = Annotated[str, Meta(max_length=255)]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Something that a node did for a frame, from `start_s` to `stop_s` by its own monotonic clock.

    `volume` is the boundary: the volume's index, for the head the number of volumes, one more for the requester (or
    `RESULT`).

    - `receive`: rows for the volume from `peer`, from their first chunk to their last;
    - `wait`: all rows of the volume were there, but it was not computed yet;
    - `compute`, `head`: the volume's rows, or the head, were computed;
    - `send`: rows for the volume to `peer`, from when they were ready until their last chunk was handed over;
    - `split` (requester): an image was cut into the rows that go out;
    - `result` (requester): the whole frame, from its rows' being ready until its outputs were back.
    """

    kind: Kind
    epoch: Count
    frame: Count
    volume: Count
    peer: Name
    start_s: Moment
    stop_s: Moment
    payload_bytes: Count = 0


Spans = Annotated[tuple[Span, ...], Meta(max_length=BATCH_SPANS)]
"""What a message carries of them at most."""

Place: TypeAlias = tuple[int, int, int]
"""Epoch, frame and volume."""


class Recorder:
    """Keeps a node's spans until they are taken. Any thread may note something; nothing blocks or grows without end.

    Off until `start`: then every method returns at once.
    """

    def __init__(self, capacity: int = MAX_SPANS) -> None:
        self.is_on = False
        self.dropped = 0
        self._capacity = capacity
        self._lock = Lock()
        self._spans: deque[Span] = deque()
        self._gathered: dict[Place, dict[str, tuple[float, float, int]]] = {}

    @property
    def waiting(self) -> int:
        """Spans that nobody has taken yet."""
        return len(self._spans)

    def start(self) -> None:
        """Note everything from now on; what an earlier session has left is forgotten."""
        with self._lock:
            self._spans.clear()
            self._gathered.clear()
            self.dropped = 0
            self.is_on = True

    def stop(self) -> None:
        """Note nothing more and forget what has not been taken."""
        with self._lock:
            self.is_on = False
            self._spans.clear()
            self._gathered.clear()

    def add(
        self,
        kind: Kind,
        epoch: int,
        frame: int,
        volume: int,
        start_s: float,
        stop_s: float,
        peer: str = "",
        payload_bytes: int = 0,
    ) -> None:
        """Note a span that is over."""
        if self.is_on:
            self._keep([Span(kind, epoch, frame, volume, peer, start_s, stop_s, payload_bytes)])

    def received(self, epoch: int, frame: int, volume: int, peer: str, at_s: float, payload_bytes: int) -> None:
        """Note a chunk of rows for a volume, or of a result. Call it for every chunk, before it is used."""
        if not self.is_on:
            return
        with self._lock:
            place = epoch, frame, volume
            if place not in self._gathered and len(self._gathered) >= MAX_GATHERED:
                self._gathered.pop(next(iter(self._gathered)))  # of a frame that was lost
                self.dropped += 1
            senders = self._gathered.setdefault(place, {})
            start_s, _, there = senders.get(peer, (at_s, at_s, 0))
            senders[peer] = start_s, at_s, there + payload_bytes

    def all_received(self, epoch: int, frame: int, volume: int) -> None:
        """All rows for a volume are here: makes the `receive` spans, one a sender."""
        if self.is_on:
            self._end([(epoch, frame, volume)])

    def result(self, epoch: int, frame: int, start_s: float, stop_s: float) -> None:
        """A frame's outputs are all here: makes the `result` span, and the `receive` spans of what came of it."""
        if self.is_on:
            with self._lock:
                places = [place for place in self._gathered if place[:2] == (epoch, frame)]
            self._end(places)
            self.add("result", epoch, frame, RESULT, start_s, stop_s)

    def take(self, max_spans: int = BATCH_SPANS) -> tuple[Span, ...]:
        """The oldest spans, which are kept no longer; empty if there is nothing."""
        with self._lock:
            return tuple(self._spans.popleft() for _ in range(min(max_spans, len(self._spans))))

    def _end(self, places: list[Place]) -> None:
        with self._lock:
            came = [(place, self._gathered.pop(place, {})) for place in places]
        self._keep(
            [Span("receive", *place, peer, *times) for place, senders in came for peer, times in senders.items()]
        )

    def _keep(self, spans: list[Span]) -> None:
        with self._lock:
            room = self._capacity - len(self._spans)
            self._spans.extend(spans[:room])
            self.dropped += max(0, len(spans) - room)
