"""`LayerGraph`: a CNN as a DAG of fused layers that can be split by rows, with its head kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distredge.model.layer import INPUT, Head, Layer


@dataclass(frozen=True)
class LayerGraph:
    """A CNN whose layers stand in topological order.

    `input_shape` is (1, channels, height, width); `sha256` is that of the ONNX file with its weights.
    """

    name: str
    sha256: str
    path: Path
    input_shape: tuple[int, int, int, int]
    input_tensor: str
    layers: tuple[Layer, ...]
    head: Head
    task: str = ""

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each layer by its name."""
        return {layer.name: i for i, layer in enumerate(self.layers)}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, head included."""
        return sum(layer.macs for layer in self.layers) + self.head.macs

    @property
    def params(self) -> int:
        """Parameters, head included."""
        return sum(layer.params for layer in self.layers) + self.head.params

    @cached_property
    def partition_points(self) -> tuple[int, ...]:
        """Indices `p` of layers at which a layer-volume may begin: one tensor crosses from before `p`.

        0 is always one. A point inside a residual block or between branches is none (Scission, section III).
        """
        last_use = [i for i in range(len(self.layers))]
        input_last_use = 0
        for i, layer in enumerate(self.layers):
            for source in layer.inputs:
                if source.source == INPUT:
                    input_last_use = i
                else:
                    last_use[self.index[source.source]] = i
        points, reach = [0], input_last_use
        for p in range(1, len(self.layers)):
            if p > 1:
                reach = max(reach, last_use[p - 2])
            if reach < p:  # nothing made before layer p-1 is read at p or later
                points.append(p)
        return tuple(points)

    def names(self, start: int, stop: int) -> tuple[str, ...]:
        """Names of the layers `[start, stop)`."""
        return tuple(layer.name for layer in self.layers[start:stop])

    def input_rows(self, start: int) -> tuple[int, int]:
        """Height and elements a row of the tensor that enters a volume beginning at layer `start`."""
        if start == 0:
            _, channels, height, width = self.input_shape
            return height, channels * width
        layer = self.layers[start - 1]
        return layer.height, layer.row_elements
