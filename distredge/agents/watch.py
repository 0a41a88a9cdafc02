"""What else is shown of a training, for whoever asks for one without loading what trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator


@dataclass(frozen=True)
class Watch:
    """What the logs of a training in a folder show beside its own figures.

    `reference_ms` is a latency that others are divided by (`over_gold`), if one is known; `draw` writes a PNG of the
    cuts (volumes, providers + 1) of a simulator to a path.
    """

    reference_ms: float | None = None
    draw: Callable[[Simulator, IntArray, Path], None] | None = None
