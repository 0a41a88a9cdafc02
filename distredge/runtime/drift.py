"""Tells change from noise in what a running stream measures: a two-sided CUSUM over medians of short bins. Pure.

Page's test (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954) adds up by how much observations exceed
what is assumed, less a slack, and never falls below zero; where the sum passes a threshold there was a change, which
began where the sum last left zero. Single observations are too wild for it: one in twenty takes several times as long
as the others, and several in a row when a host is busy. So it is fed the medians of bins, clipped.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import NamedTuple

BIN_S = 0.25

LEAST = 3
"""Observations that a bin needs; one that has fewer lasts on until it has."""

SLACK = 0.2
"""By how much, in logarithms, an observation may be off without counting: changes of less than 22 % are never found."""

THRESHOLD = 1.1
"""Of the sum. With the slack and the clip it decides how soon a change is found, and how often one that was none."""

CLIP = 0.4
"""What a bin adds at most, so that two wild ones are not enough."""

RECENT_BINS = 8
"""The level is the median of so many."""

GAP_S = 5.0
"""After so long without an observation what was being added up is forgotten: it says nothing of now."""


class Found(NamedTuple):
    """A change: since about when, and the level from then on, as a logarithm of measured over first assumed."""

    at_s: float
    level: float


class ChangePoint:
    """Watches the logarithm of one ratio, measured over assumed, which begins at 0."""

    def __init__(self, slack: float = SLACK, threshold: float = THRESHOLD) -> None:
        self._slack, self._threshold = slack, threshold
        self._assumed = 0.0
        self._bin: list[float] = []
        self._bin_s = self._last_s = 0.0
        self._medians: deque[tuple[float, float]] = deque(maxlen=RECENT_BINS)
        self._up = self._down = 0.0
        self._since: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        self._found: Found | None = None

    def add(self, at_s: float, log_ratio: float) -> None:
        """Take an observation; they come in the order of time."""
        if self._bin and at_s - self._last_s > GAP_S:
            self._forget()
        if self._bin and at_s - self._bin_s >= BIN_S and len(self._bin) >= LEAST:
            self._close()
        if not self._bin:
            self._bin_s = at_s
        self._bin.append(log_ratio)
        self._last_s = at_s

    def changed(self) -> Found | None:
        """The change that was found since this was last asked."""
        found, self._found = self._found, None
        return found

    @property
    def level(self) -> float:
        """The ratio's logarithm as it is about now: it follows what is too little for a change."""
        return statistics.median(m for _, m in self._medians) if self._medians else self._assumed

    def _close(self) -> None:
        median = statistics.median(self._bin)
        self._bin.clear()
        self._medians.append((self._bin_s, median))
        most = self._slack + CLIP
        off = max(-most, min(most, median - self._assumed))
        self._up = self._summed(True, self._up + off - self._slack, median)
        self._down = self._summed(False, self._down - off - self._slack, median)
        for up, total in ((True, self._up), (False, self._down)):
            if total > self._threshold:
                self._change(self._since[up])
                return

    def _summed(self, up: bool, total: float, median: float) -> float:
        """A sum, and the bins since it last left zero."""
        if total <= 0.0:
            self._since[up].clear()
            return 0.0
        self._since[up].append((self._bin_s, median))
        return total

    def _change(self, bins: list[tuple[float, float]]) -> None:
        """From here on the new level is assumed: that of the later half, as the first bin may lie across the change."""
        later = bins[len(bins) // 2 :]
        self._assumed = statistics.median(m for _, m in later)
        self._found = Found(bins[0][0], self._assumed)
        self._medians = deque(later, maxlen=RECENT_BINS)
        self._forget()

    def _forget(self) -> None:
        self._bin.clear()
        self._up = self._down = 0.0
        for bins in self._since.values():
            bins.clear()
