"""Whether a plan's part fits into a provider's memory, found out before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

ENGINE_FACTOR = 2.4
"""An engine takes so many times what weights and feature maps do: it packs weights anew while it still holds the old
ones. Measured with ONNX Runtime at its peak: 1.5 to 2.4 (six networks; see
docs/runtime.md)."""

ENGINE_MB = 45.0
"""And so much for itself."""

_MB = 1e6

FreeMemory = Callable[[], float]
"""How many MB this process may still take."""


def needed_mb(part_mb: float) -> float:
    """What an engine needs at its peak to compute a part whose weights and feature maps take `part_mb`."""
    return ENGINE_FACTOR * part_mb + ENGINE_MB if part_mb > 0.0 else 0.0


def shortage(part_mb: float, held_mb: float, free_mb: float) -> str:
    """What is wrong with a part of which `held_mb` are there already; empty if it fits."""
    missing_mb = needed_mb(part_mb) - needed_mb(held_mb)
    if missing_mb <= free_mb:
        return ""
    return (
        f"has too little memory: its part needs about {needed_mb(part_mb):.0f} MB ({part_mb:.0f} MB of weights and"
        f" feature maps, the rest is the engine's), {missing_mb:.0f} MB more than it holds, and {free_mb:.0f} MB are"
        " free: give it fewer volumes or another head provider"
    )


def free_mb(limit_mb: float | None = None) -> float:
    """What this process may still take: the machine's free memory, its control group's, its own limit's; the least.

    Infinite where the machine does not tell, as outside Linux.
    """
    found = [_machine_mb(), *_group_mb()]
    if limit_mb is not None:
        found.append(limit_mb - _own_mb())
    return max(0.0, min(found))


def _machine_mb() -> float:
    available = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    return int(available[1]) * 1024 / _MB if available else float("inf")


def _own_mb() -> float:
    resident = re.search(r"^VmRSS:\s+(\d+) kB", _text(Path("/proc/self/status")), re.MULTILINE)
    return int(resident[1]) * 1024 / _MB if resident else 0.0


def _group_mb() -> list[float]:
    """What the control group of this process leaves it, by either version of the interface."""
    found = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, limit, used = Path("/sys/fs/cgroup") / path.lstrip("/"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        most, now = _text(folder / limit).strip(), _text(folder / used).strip()
        if most.isdecimal() and now.isdecimal():
            found.append((int(most) - int(now)) / _MB)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
