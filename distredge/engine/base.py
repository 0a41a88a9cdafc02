"""What an engine is: it computes the split-parts of one layer-volume, or the head of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distredge.geometry.interval import Interval

FloatRows = npt.NDArray[np.float32]
"""Rows of a feature map: shape (1, channels, rows, width), as `rows_in_the_middle` sees tensors of other ranks."""


class Engine(ABC):
    """Computes split-parts of one layer-volume. It is used by one thread at a time.

    `prepare(out)` makes ready for the rows `out` of the volume's last layer; it may take long and may raise. `run`
    prepares by itself what was not prepared, and otherwise raises only when the device fails.
    """

    @abstractmethod
    def prepare(self, out: Interval) -> None:
        """Build what the part that computes the non-empty rows `out` needs, if anything."""

    @abstractmethod
    def run(self, out: Interval, inputs: Sequence[FloatRows]) -> list[FloatRows]:
        """The rows that the part owns of each of the volume's leaving tensors, in their order.

        `inputs` hold exactly the rows `SplitPart.inputs` of the entering tensors, in their order, C-contiguous float32;
        they are not changed, and the results do not share memory with them. Results have the rows `SplitPart.outputs`,
        maybe none, and equal those of the undivided model up to the rounding of a different summation order.
        """


class HeadEngine(ABC):
    """Computes a model's head from all rows of the layers that it reads."""

    @abstractmethod
    def run(self, inputs: Sequence[FloatRows]) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs that the head makes, by their names; `inputs` are whole tensors in the order of `Head.inputs`."""
