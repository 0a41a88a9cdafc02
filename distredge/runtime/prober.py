"""Transfers of a size that is asked for, along a route of nodes, timed by one clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from distredge.errors import RunError
from distredge.runtime.client import Client
from distredge.runtime.crew import Crew
from distredge.runtime.keys import Keys
from distredge.runtime.message import (
    PROTOCOL,
    Buffer,
    Emulation,
    Failed,
    Hop,
    Message,
    MessageError,
    Probe,
    Setup,
    Wire,
)
from distredge.runtime.outbox import Pace
from distredge.runtime.relay import ProbeBlocks, onward
from distredge.scenario import REQUESTER

PATIENCE_S = 30.0
"""A transfer that takes longer has failed."""


class Prober(Client):
    """A session with providers that run no plan but pass probes on; see `Client` for its use and what it raises.

    With `rate_mbps` every link is shaped to that rate in user space, as in an emulated run.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        wire: Wire = "float16",
        keys: Keys | None = None,
        listen: str | None = None,
        rate_mbps: float | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(addresses, keys=keys, listen=listen, check=check)
        self._rate_mbps = rate_mbps
        self._wire: Wire = wire
        self._blocks = ProbeBlocks(wire)
        self._number = 0

    def transfer(self, route: Sequence[tuple[str, int]]) -> tuple[float, tuple[tuple[float, float], ...]]:
        """Send so many bytes to the first node of a route, which sends so many to the next, and so on back to here.

        Returns the time in ms from before the first bytes are read out of memory until the last are written into it,
        and for each node on the way, this one at both ends, what writing and reading took it. Raises `RunError` if it
        takes longer than `PATIENCE_S`.
        """
        self._number += 1
        hops = tuple(Hop(*hop) for hop in route)
        begun = time.monotonic()
        self._outbox.put(*onward(Probe(self._session, self._number, 1, 0, hops, ()), 0.0, self._wire))
        while time.monotonic() - begun < PATIENCE_S:
            event = self._event()
            if isinstance(event, tuple) and event[0].number == self._number:
                probe, ended, written_ms = event
                return (ended - begun) * 1000.0, (*probe.spent_ms, (written_ms, 0.0))
        path = " -> ".join((REQUESTER, *(hop.peer for hop in hops)))
        raise RunError(f"a transfer {path} took longer than {PATIENCE_S:.0f} s: try smaller --sizes")

    def _pace(self) -> Pace:
        return Pace(self._rate_mbps, emulated=True) if self._rate_mbps else Pace()

    def _begin(self) -> None:
        if self._rate_mbps:
            self._inbox.shape(self._rate_mbps, dict.fromkeys((REQUESTER, *self._addresses), self._rate_mbps))
        self._waiting = set(self._addresses)
        self._crew = Crew(
            self._session,
            self._addresses,
            self._outbox,
            time.monotonic,
            lambda name, epoch: self._events.put(name),
            lambda name, problem: self._events.put(problem),
        )
        setup = Setup(
            session=self._session,
            epoch=1,
            oldest=1,
            protocol=PROTOCOL,
            addresses={REQUESTER: self._inbox.address, **self._addresses},
            model_sha256="",
            input_shape=(),
            outputs=(),
            stages=(),
            wire=self._wire,
            emulation=Emulation((), self._rate_mbps) if self._rate_mbps else None,
            threads=1,
        )
        for name in self._addresses:
            self._crew.ask(name, setup)

    def _wait_until_ready(self) -> None:
        while self._waiting:
            self._waiting.discard(str(self._event()))

    def _handle(self, message: Message, payload: Buffer) -> None:
        if not isinstance(message, Probe):
            self._crew.take(message)
            if isinstance(message, Failed):
                self._events.put(RunError(f"{self._crew.title(message.sender)} {message.reason}"))
            return
        if message.route:
            raise MessageError("a probe that does not end here")
        self._crew.heard_all()
        written_ms = self._blocks.add(message, payload)
        if written_ms is not None:
            self._events.put((message, time.monotonic(), written_ms))

    def _tick(self) -> None:
        self._crew.tick(1, self._inbox.address)

    def _unreachable(self, name: str) -> None:
        self._crew.unreachable(name)
