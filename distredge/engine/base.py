"""What an engine is: it computes one split-part, or the head, of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

FloatRows = npt.NDArray[np.float32]
"""Rows of a feature map: shape (1, channels, rows, width)."""


class Engine(ABC):
    """Computes one split-part: some rows of a layer-volume's last layer.

    An engine is built once for a volume and a row range and then run for every image. It is used by one thread at
    a time. Building may take long and may raise; running raises only when the device fails.
    """

    @abstractmethod
    def run(self, x: FloatRows) -> FloatRows:
        """The part's output rows, shape (1, channels, rows, width) of the volume's last layer.

        `x` holds exactly the rows `SplitPart.input` of the tensor that enters the volume, C-contiguous float32; it is
        not changed, and the result does not share memory with it. The result equals those rows of the undivided
        model up to the rounding of a different summation order.
        """


class HeadEngine(ABC):
    """Computes a model's head from all rows of the body's last tensor."""

    @abstractmethod
    def run(self, x: FloatRows) -> dict[str, npt.NDArray[np.float32]]:
        """The model's outputs by their names; `x` is the whole tensor (1, channels, height, width)."""
