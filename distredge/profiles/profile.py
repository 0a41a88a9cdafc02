"""What every profile answers: how long a device takes for some rows of a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt

from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.power import Power

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Profile(ABC):
    """The speed of one device.

    `kind` tells how the figures arose: `measured` on the device, or `calibrated` by an analytic model on published
    figures. Latencies are in milliseconds for one image, and never negative. `power` is what the device draws and
    `memory_mb` the memory in 10^6 bytes that split-parts may use; both None where they are not known.
    """

    name: str
    kind: Literal["measured", "calibrated"]
    precision: Literal["FP32", "FP16", "INT8"]
    power: Power | None = None
    memory_mb: float | None = None

    @abstractmethod
    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """Latency of computing `rows` output rows of `layer`, for each entry (0 <= rows <= layer.height).

        0 rows take 0 ms. Raises `ProfileMissingError` if the device was measured and this layer was not.
        """

    def fused_ms(self, volume: Volume, apart_ms: FloatArray) -> FloatArray:
        """Latencies of a volume's split-parts, run as one: (height + 1, height + 1), the rows [a, b) at [a, b].

        `apart_ms` are the sums of their layers' latencies, which the default takes for it.
        """
        return apart_ms

    def cautions(self, graph: LayerGraph) -> list[str]:
        """What somebody who uses this profile for a model should know, a sentence each; none by default."""
        return []

    @abstractmethod
    def head_ms(self, graph: LayerGraph) -> float:
        """Latency of the model's head, 0 if it has none."""

    @abstractmethod
    def provenance(self) -> dict[str, object]:
        """Where the figures come from: sources, device, date, residuals; JSON-ready."""
