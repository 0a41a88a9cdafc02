"""Asks how fast the links of providers are that stand by: no rows pass over them that would show it. Pure.

Now and then one of them is asked for a probe (`message.Probe`), which comes back over its link; two that agree are
believed. Providers that have a part in the plan are never asked: their rows show it, and a probe would be in their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from distredge.runtime.message import Hop, Probe, Wire
from distredge.runtime.outbox import Outbox
from distredge.runtime.relay import onward
from distredge.scenario import REQUESTER

SOUND_S = 2.0
"""Between two probes."""

ASKED_BYTES = 64
"""Of the probe on its way out."""

BACK_BYTES = 128 * 1024
"""Of the probe on its way back."""

AGREE = 1.2
"""Two probes agree if their rates differ by this factor at most."""


class Sounding:
    """For one session; `found` is called with a node and its rate: payload bytes, and the ms that they took."""

    def __init__(self, session: str, outbox: Outbox, wire: Wire, found: Callable[[str, int, float], None]) -> None:
        self._session, self._outbox, self._wire, self._found = session, outbox, wire, found
        self._due_s = 0.0
        self._number = 0
        self._node = ""
        self._first_s = 0.0
        self._first_bytes = 0
        self._last: dict[str, float] = {}

    def tick(self, now_s: float, idle: Iterable[str]) -> None:
        """Ask the next of those that stand by, if it is time."""
        names = sorted(idle)
        if not names or now_s < self._due_s:
            return
        self._due_s = now_s + SOUND_S
        self._node = next((name for name in names if name > self._node), names[0])
        self._number += 1
        self._first_bytes = 0
        hops = Hop(self._node, ASKED_BYTES), Hop(REQUESTER, BACK_BYTES)
        self._outbox.put(*onward(Probe(self._session, self._number, 1, 0, hops, ()), 0.0, self._wire))

    def came(self, probe: Probe, payload_bytes: int, at_s: float) -> None:
        """Part of a probe is back."""
        if probe.number != self._number or probe.route:
            return
        if probe.offset == 0:
            self._first_s, self._first_bytes = at_s, payload_bytes
        elif self._first_bytes and probe.offset + payload_bytes == probe.total and at_s > self._first_s:
            self._judge(probe.total - self._first_bytes, (at_s - self._first_s) * 1000.0)

    def _judge(self, payload_bytes: int, ms: float) -> None:
        """Of two that agree the faster one counts: a probe may be held up, never hurried."""
        before_ms = self._last.get(self._node)
        self._last[self._node] = ms
        if before_ms is not None and 1.0 / AGREE < ms / before_ms < AGREE:
            self._found(self._node, payload_bytes, min(ms, before_ms))
