"""Replays bandwidth traces on links: at each moment of a trace a rate is set, by a clock that never goes back.

A change that is late is made at once, and those that it has overtaken are left out. After its last line a trace holds
its last rate.
"""

from __future__ import annotations

import csv
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from distredge.errors import DistrEdgeError, ScenarioError


@dataclass(frozen=True)
class Trace:
    """Rates in Mbit/s, each from its moment on; moments increase, in seconds from the start."""

    moments_s: tuple[float, ...]
    rates_mbps: tuple[float, ...]

    def rate_at(self, t_s: float) -> float:
        """The rate in force; before the first moment the first one."""
        return self.rates_mbps[max(0, bisect_right(self.moments_s, t_s) - 1)]

    def next_change(self, t_s: float) -> float:
        """The first moment after `t_s`; infinite if there is none."""
        i = bisect_right(self.moments_s, t_s)
        return self.moments_s[i] if i < len(self.moments_s) else math.inf

    def scaled(self, factor: float) -> Trace:
        """The same with all rates divided by `factor`."""
        return Trace(self.moments_s, tuple(rate / factor for rate in self.rates_mbps))


def read_trace(path: Path) -> Trace:
    """A trace from a CSV file with the columns `t_s,Mbps`; raises `ScenarioError` for another one."""
    try:
        with path.open(newline="") as file:
            rows = [(float(row["t_s"]), float(row["Mbps"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ScenarioError(f"'{path}' is no trace: give a CSV with the columns t_s,Mbps") from exc
    moments, rates = [t for t, _ in rows], [r for _, r in rows]
    if not rows or sorted(set(moments)) != moments or not all(0.001 <= r < math.inf for r in rates):
        raise ScenarioError(f"'{path}' is no trace: times must increase, rates be 0.001 Mbit/s or more")
    return Trace(tuple(moments), tuple(rates))


def write_trace(trace: Trace, path: Path) -> None:
    """Write it as `read_trace` takes it."""
    pairs = zip(trace.moments_s, trace.rates_mbps, strict=True)
    path.write_text("t_s,Mbps\n" + "".join(f"{t:.6g},{rate:.6g}\n" for t, rate in pairs))


class Replay:
    """Sets the rates of links as their traces say, in a thread of its own; a context manager.

    `set_rates` is called with the rates that change, by name. Leaving stops it, sets `after`, and raises what
    `set_rates` raised meanwhile.
    """

    def __init__(
        self,
        traces: Mapping[str, Trace],
        set_rates: Callable[[Mapping[str, float]], None],
        after: Mapping[str, float],
    ) -> None:
        self._traces, self._set_rates, self._after = dict(traces), set_rates, dict(after)
        self._stop = Event()
        self._error: DistrEdgeError | None = None
        self._thread = Thread(target=self._run, name="replay", daemon=True)

    def __enter__(self) -> Replay:
        """Set the first rates and start the clock."""
        self._set = {name: trace.rate_at(0.0) for name, trace in self._traces.items()}
        self._set_rates(self._set)
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        if self._error and error is None:
            raise self._error
        self._set_rates(self._after)

    def _run(self) -> None:
        t_s = 0.0
        try:
            while (
                due := min((trace.next_change(t_s) for trace in self._traces.values()), default=math.inf)
            ) < math.inf:
                if self._stop.wait(max(0.0, self._started + due - time.monotonic())):
                    return
                t_s = max(due, time.monotonic() - self._started)
                self._change(t_s)
        except DistrEdgeError as exc:
            self._error = exc

    def _change(self, t_s: float) -> None:
        now = {name: trace.rate_at(t_s) for name, trace in self._traces.items()}
        self._set_rates({name: rate for name, rate in now.items() if rate != self._set[name]})
        self._set = now
