"""What every profile answers: how long a device takes for some rows of a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import numpy.typing as npt

from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Profile(ABC):
    """The speed of one device.

    `kind` tells how the figures arose: `measured` on the device, or `calibrated` by an analytic model on published
    figures. Latencies are in milliseconds for one image, and never negative.
    """

    name: str
    kind: Literal["measured", "calibrated"]

    @abstractmethod
    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """Latency of computing `rows` output rows of `layer`, for each entry (0 <= rows <= layer.height).

        0 rows take 0 ms. Raises `ProfileMissingError` if the device was measured and this layer was not.
        """

    @abstractmethod
    def head_ms(self, graph: LayerGraph) -> float:
        """Latency of the model's head, 0 if it has none."""

    @abstractmethod
    def provenance(self) -> dict[str, object]:
        """Where the figures come from: sources, device, date, residuals; JSON-ready."""
