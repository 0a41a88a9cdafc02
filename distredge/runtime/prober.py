"""Transfers of a size that is asked for, along a route of nodes, timed by one clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from distredge.errors import RunError
from distredge.runtime.client import Client
from distredge.runtime.keys import Keys
from distredge.runtime.message import PROTOCOL, Emulation, Hop, Message, MessageError, Probe, Setup, Wire
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
        nodes = (REQUESTER, *addresses) if rate_mbps else ()
        shaped = {name: Emulation((), rate_mbps) for name in nodes}
        super().__init__(addresses, keys=keys, listen=listen, emulations=shaped, check=check)
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
        self._sender.put(*onward(Probe(self._session, self._number, 1, 0, hops, ()), 0.0, self._wire))
        while time.monotonic() - begun < PATIENCE_S:
            event = self._event()
            if isinstance(event, tuple) and event[0].number == self._number:
                probe, ended, written_ms = event
                return (ended - begun) * 1000.0, (*probe.spent_ms, (written_ms, 0.0))
            self._check_alive()
        path = " -> ".join((REQUESTER, *(hop.peer for hop in hops)))
        raise RunError(f"a transfer {path} took longer than {PATIENCE_S:.0f} s: try smaller --sizes")

    def _setup(self, name: str) -> Setup:
        return Setup(
            session=self._session,
            protocol=PROTOCOL,
            addresses={REQUESTER: self._inbox.address, **self._addresses},
            model_sha256="",
            input_shape=(),
            outputs=(),
            stages=(),
            wire=self._wire,
            emulation=self._emulations.get(name),
            threads=1,
        )

    def _take_payload(self, message: Message, payload: bytes) -> None:
        if not isinstance(message, Probe) or message.route:
            raise MessageError(f"a {type(message).__name__} that does not end here")
        written_ms = self._blocks.add(message, payload)
        if written_ms is not None:
            self._events.put((message, time.monotonic(), written_ms))
