"""Tells change from noise in what a running stream measures: a two-sided CUSUM over medians of short bins. Pure.

Page's test (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954) adds up by how much observations exceed
what is assumed, less a slack, and never falls below zero; where the sum passes a threshold there was a change, which
began where the sum last left zero. Single observations are too wild for it: one in twenty takes several times as long
as the others, and several in a row when a host is busy. So it is fed the medians of bins, clipped: no fewer than four
bins make a change. docs/drift.md says how often it errs, and how soon it finds what.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import NamedTuple

BIN_S = 0.4
"""From the end of the bin before."""

LEAST = 3
"""Observations that a bin needs; one that has fewer lasts on until it has."""

SLACK = 0.2
"""By how much, in logarithms, an observation may be off without counting: changes of less than 22 % are never found."""

MOST = 0.3
"""What a bin adds at most, so that a burst of wild ones is not enough."""

THRESHOLD = 1.0
"""Of the sum. With the slack and `MOST` it decides how soon a change is found, and how often one that was none."""

RECENT_BINS = 8
"""The level is the median of so many."""

GAP_S = 5.0
"""After so long without an observation what was being added up is forgotten: it says nothing of now."""


class Found(NamedTuple):
    """A change: since about when, and the level from then on, as a logarithm of measured over first assumed."""

    at_s: float
    level: float


class ChangePoint:
    """Watches the logarithm of one ratio, measured over assumed, which begins at 0.

    After a change its level is assumed. While nothing comes nothing is found and the level stays; after a gap of
    `GAP_S` the test begins anew, with what it assumed before.
    """

    def __init__(self, slack: float = SLACK, threshold: float = THRESHOLD) -> None:
        self._slack, self._threshold = slack, threshold
        self._assumed = 0.0
        self._settling: list[float] = []
        self._bin: list[float] = []
        self._bin_s = self._last_s = -math.inf
        self._medians: deque[float] = deque(maxlen=RECENT_BINS)
        self._up, self._down = _Sum(), _Sum()
        self._found: Found | None = None

    def add(self, at_s: float, log_ratio: float) -> None:
        """Take an observation; they come in the order of time."""
        if at_s - self._last_s > GAP_S:
            self._forget()
            self._bin_s = at_s
        self._bin.append(log_ratio)
        self._last_s = at_s
        if at_s - self._bin_s >= BIN_S and len(self._bin) >= LEAST:
            self._close()
            self._bin_s = at_s

    def changed(self) -> Found | None:
        """The change that was found since this was last asked; the last one, if there were several."""
        found, self._found = self._found, None
        return found

    @property
    def level(self) -> float:
        """The ratio's logarithm as it is about now: it follows what is too little for a change."""
        return statistics.median(self._medians) if self._medians else self._assumed

    def _close(self) -> None:
        median = statistics.median(self._bin)
        self._bin.clear()
        self._medians.append(median)
        off, most = median - self._assumed, self._slack + MOST
        off = max(-most, min(most, off))
        self._up.add(self._bin_s, off - self._slack, median)
        self._down.add(self._bin_s, -off - self._slack, median)
        self._settle(median)
        for total in (self._up, self._down):
            if total.value > self._threshold:
                self._change(total)
                return

    def _change(self, total: _Sum) -> None:
        """From here on the new level is assumed: that of the later half, as the first bin may lie across the change."""
        later = total.medians[len(total.medians) // 2 :]
        self._assumed = statistics.median(later)
        self._found = Found(total.since_s, self._assumed)
        self._settling = list(later)
        self._medians = deque(later, maxlen=RECENT_BINS)
        self._forget()

    def _settle(self, median: float) -> None:
        """A new level rests on few bins: the next ones that are like it make it more exact."""
        if self._settling and abs(median - self._assumed) < self._slack:
            self._settling.append(median)
            self._assumed = statistics.median(self._settling)
            if len(self._settling) >= RECENT_BINS:
                self._settling = []

    def _forget(self) -> None:
        self._bin.clear()
        self._up, self._down = _Sum(), _Sum()


class _Sum:
    """One side of the test: what has been added up since it last left zero, then, and of which bins."""

    def __init__(self) -> None:
        self.value = self.since_s = 0.0
        self.medians: list[float] = []

    def add(self, at_s: float, more: float, median: float) -> None:
        """Take a bin."""
        self.value = max(0.0, self.value + more)
        if not self.value:
            self.medians.clear()
            return
        if not self.medians:
            self.since_s = at_s
        self.medians.append(median)
