"""Fuzzing a node's logic within this process: what takes frames, and a provider's service with all that it knows."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from distredge.runtime.compute import Compute, Work
from distredge.runtime.message import Message, MessageError, decode
from distredge.runtime.outbox import NOTHING, Outbox, Pace, Parcel
from distredge.runtime.provider import Service
from distredge.runtime.store import ModelStore
from distredge.runtime.transport import address_book
from distredge.testing.fuzzing import Fuzzer


class Verdicts:
    """What became of messages: taken, refused, or neither, which is a fault of whoever took them."""

    def __init__(self) -> None:
        self.taken = self.refused = 0
        self.faults: Counter[str] = Counter()
        self.examples: dict[str, list[bytes]] = {}

    def of(self, frames: list[bytes], take: Callable[[list[bytes]], object]) -> None:
        """Have frames taken."""
        try:
            take(frames)
            self.taken += 1
        except MessageError:
            self.refused += 1
        except Exception as exc:
            last = traceback.extract_tb(exc.__traceback__)[-1]
            fault = f"{type(exc).__name__} at {Path(last.filename).name}:{last.lineno}: {exc}"[:160]
            self.faults[fault] += 1
            self.examples.setdefault(fault, frames)


class _Silence(Outbox):
    """Takes everything and sends nothing."""

    bytes_out = 0
    is_sending = False

    def open(self, addresses: Mapping[str, str], pace: Pace) -> None:
        address_book(addresses, None)

    def keep_pace(self, pace: Pace) -> None: ...
    def renew(self, oldest: int) -> None: ...

    def put(self, peer: str, message: Message, payload: memoryview = NOTHING) -> None: ...

    def put_together(self, parcels: Iterable[Parcel]) -> None: ...

    def beat(self, peer: str, message: Message) -> bool:
        return True

    def answer(self, address: str, name: str, message: Message) -> None: ...


class _Later(Compute):
    """Does the work when told to, in this thread."""

    def __init__(self) -> None:
        self._work: deque[Work] = deque()

    def put(self, work: Work, frame: int = -1, boundary: int = 0) -> None:
        self._work.append(work)

    def catch_up(self) -> None:
        while self._work:
            self._work.popleft()()


class InsideProvider:
    """A provider's logic without sockets and threads, to hand frames to; its clock goes a millisecond a message."""

    def __init__(self, name: str, store: ModelStore) -> None:
        self._compute, self._now_s = _Later(), 0.0
        self._service = Service(name, _Silence(), self._compute, store, clock=lambda: self._now_s)

    @property
    def is_serving(self) -> bool:
        """Whether a session is under way."""
        return self._service.session is not None

    def take(self, frames: list[bytes]) -> None:
        """Raises `MessageError` for what does not fit; anything else that is raised is a fault."""
        message, payload = decode(frames)
        self._now_s += 0.001
        self._service.handle(message, payload, self._now_s)
        self._service.tick()
        self._compute.catch_up()


def fuzz_inside(
    fuzzer: Fuzzer, count: int, take: Callable[[list[bytes]], object], deadline_s: float, verdicts: Verdicts
) -> None:
    """Hand so many messages to `take`, until the monotonic time `deadline_s` at most; note what became of them."""
    for _ in range(count):
        verdicts.of(fuzzer.frames(), take)
        if time.monotonic() > deadline_s:
            return
