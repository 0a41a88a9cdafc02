"""What a running stream tells of the links it uses, without a byte of its own."""

from __future__ import annotations

from collections import deque

import numpy as np

from distredge.profiles.network import PACE, wire_mbps
from distredge.runtime.message import MAX_TRANSFERS, Observed, ResultChunk, RowsChunk, Transfer

WINDOW = 64
"""Transfers that an estimate rests on: the last ones."""

MIN_SAMPLES = 5

MAX_SENDERS = 256

_SIZES_DIFFER = 2.0
"""Transfers tell fixed delay and rate apart if the sizes differ by so much."""


class LinkEstimate:
    """Throughput (Mbit/s on the wire, headers counted) and fixed delay (ms) from the last transfers over a link.

    Robust: one transfer in four may be disturbed. Bounded: `WINDOW` transfers are kept, so that it follows a link that
    changes. `pace` is the share of its rate that senders are known to use.

    It sees what was sent, not what could have been: a sender that paces itself below the link's rate, or does not have
    the next bytes ready, looks like a slow link, and a link shared with other traffic like one with what is left. It
    cannot say which end, or what between them, limits a transfer.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self._pace = pace
        self._transfers: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def add(self, payload_bytes: int, ms: float) -> None:
        """Take a transfer's bytes and its duration, both positive, by one clock."""
        if payload_bytes > 0 and ms > 0.0:
            self._transfers.append((payload_bytes, ms))

    def observed(self, sender: str) -> Observed | None:
        """The estimate of the link from `sender`; None before `MIN_SAMPLES` transfers.

        Of sizes that hardly differ the fixed delay cannot be told from the rest: it is given as 0.
        """
        if len(self._transfers) < MIN_SAMPLES:
            return None
        size, ms = np.array(self._transfers).T
        a, b = np.triu_indices(len(size), 1)
        apart = (size[a] > _SIZES_DIFFER * size[b]) | (size[b] > _SIZES_DIFFER * size[a])
        fixed, per_byte = 0.0, float(np.median(ms / size))
        if apart.sum() >= len(size):
            a, b = a[apart], b[apart]
            slope = float(np.median((ms[a] - ms[b]) / (size[a] - size[b])))  # Theil and Sen
            if slope > 0.0:
                fixed, per_byte = max(0.0, float(np.median(ms - slope * size))), slope
        return Observed(sender, wire_mbps(per_byte, self._pace), fixed, len(size))


class Arrivals:
    """Makes transfers of the chunks that come to a node, and an estimate of the link from each sender.

    A transfer is what follows a block's first chunk without a gap, timed from the arrival of that chunk to the last
    one: spacings by the receiver's own clock. A block of one chunk, or one into which another sender's rows mix, says
    nothing. On a shaped link (`shaped`) senders use `PACE` of its rate.
    """

    def __init__(self, shaped: bool = False) -> None:
        self._pace = PACE if shaped else 1.0
        self._links: dict[str, LinkEstimate] = {}
        self._fresh: deque[Transfer] = deque(maxlen=MAX_TRANSFERS)
        self._block: tuple[str, int] = ("", -1)
        self._first_s = self._last_s = 0.0
        self._bytes, self._next = 0, -1

    def took(self, chunk: RowsChunk | ResultChunk, payload_bytes: int, at_s: float) -> None:
        """Note a chunk of a block and the monotonic time at which it came."""
        block = (chunk.sender, chunk.frame)
        if block == self._block and chunk.offset == self._next:
            self._bytes += payload_bytes
            self._last_s = at_s
        else:
            self._end()
            mixed = chunk.offset > 0  # the rest of a block whose chunks came with another's between them
            self._block, self._bytes, self._first_s = ("", -1) if mixed else block, 0, at_s
        self._next = chunk.offset + payload_bytes

    def observed(self) -> tuple[Observed, ...]:
        """The links of which enough is known; a block that is under way, or may be, does not count yet."""
        found = (link.observed(sender) for sender, link in self._links.items())
        return tuple(observed for observed in found if observed)

    def take_transfers(self) -> tuple[Transfer, ...]:
        """The newest transfers since the last time this was asked."""
        found = tuple(self._fresh)
        self._fresh.clear()
        return found

    def _end(self) -> None:
        """What came without a gap is a transfer."""
        if self._bytes and (self._block[0] in self._links or len(self._links) < MAX_SENDERS):
            link = self._links.setdefault(self._block[0], LinkEstimate(self._pace))
            ms = (self._last_s - self._first_s) * 1000.0
            link.add(self._bytes, ms)
            if ms > 0.0:
                self._fresh.append(Transfer(self._block[0], self._bytes, ms))
        self._bytes, self._block = 0, ("", -1)
