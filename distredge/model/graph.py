"""`LayerGraph`: a CNN as a DAG of fused layers that can be split by rows, with its head kept apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distredge.model.layer import INPUT, Head, Layer, Shape3, rows_in_the_middle

IMAGE = -1
"""Stands for the model's input where layers are given by their position."""

MAX_CROSSING = 6
"""More tensors than these are never cut through."""


@dataclass(frozen=True)
class LayerGraph:
    """A CNN whose layers stand in topological order.

    `input_shape` is that of the ONNX input, (1, channels, height, width) as a rule, `input_axis` the dimension that is
    split; `sha256` is that of the ONNX file with its weights.
    """

    name: str
    sha256: str
    path: Path
    input_shape: tuple[int, ...]
    input_tensor: str
    layers: tuple[Layer, ...]
    head: Head
    task: str = ""
    input_axis: int = 2

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each layer by its name; `INPUT` is at `IMAGE`."""
        return {INPUT: IMAGE, **{layer.name: i for i, layer in enumerate(self.layers)}}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, head included."""
        return sum(layer.macs for layer in self.layers) + self.head.macs

    @property
    def params(self) -> int:
        """Parameters, head included."""
        return sum(layer.params for layer in self.layers) + self.head.params

    @property
    def image(self) -> Shape3:
        """The model's input as (channels, height, width)."""
        return rows_in_the_middle(self.input_shape, self.input_axis)

    def shape(self, layer: int) -> Shape3:
        """(channels, height, width) of what the layer at a position makes; of the image for `IMAGE`."""
        return self.image if layer == IMAGE else self.layers[layer].out_shape

    def row_elements(self, layer: int) -> int:
        """Elements of a row of what the layer at a position makes."""
        channels, _, width = self.shape(layer)
        return channels * width

    @cached_property
    def last_reader(self) -> dict[int, int]:
        """For each layer that others read (and `IMAGE`), the position of the last of them."""
        found: dict[int, int] = {}
        for i, layer in enumerate(self.layers):
            found.update((self.index[source.source], i) for source in layer.inputs)
        return found

    @cached_property
    def to_head(self) -> frozenset[int]:
        """Positions of the layers that the head reads."""
        return frozenset(self.index[name] for name in self.head.inputs)

    @cached_property
    def to_requester(self) -> frozenset[int]:
        """Positions of the layers whose tensors are outputs of the model."""
        return frozenset(self.index[out.layer] for out in self.head.outputs if out.layer is not None)

    def crossing(self, point: int) -> tuple[int, ...]:
        """The layers (and `IMAGE`) before `point` that layers from `point` on read, in order."""
        return tuple(sorted(i for i, last in self.last_reader.items() if i < point <= last))

    @cached_property
    def partition_points(self) -> tuple[int, ...]:
        """Indices `p` of layers at which a layer-volume may begin: one tensor crosses, made by layer `p - 1`.

        0 is always one. A point inside a residual block or between branches is none (Scission, section III). What only
        the head or the requester gets leaves from where it arises and does not cross.
        """
        single = (p for p in range(1, len(self.layers)) if self.crossing(p) == (p - 1,) and self.layers[p - 1].portable)
        return (0, *single)

    @cached_property
    def cut_points(self) -> tuple[int, ...]:
        """`partition_points` and, between two of them, the places where what crosses is locally smallest.

        There several tensors cross (staged branches, a passthrough, a pyramid): before what crosses grows again. The
        inside of a residual block has no such place. Before and behind a whole layer is always one if it can be.
        """
        sizes = [_size(self._crossing_elements(p)) for p in range(len(self.layers))]
        several = (
            p
            for p in range(1, len(self.layers) - 1)
            if sizes[p] < math.inf
            and (sizes[p - 1] >= sizes[p] < sizes[p + 1] or self.layers[p].whole or self.layers[p - 1].whole)
        )
        return tuple(sorted({*self.partition_points, *several}))

    def _crossing_elements(self, point: int) -> float | None:
        """How many elements cross before `point`; None where a volume cannot begin."""
        cross = self.crossing(point)
        if point == 0:
            return 0.0
        if point - 1 not in cross or len(cross) > MAX_CROSSING:
            return None
        if not all(i == IMAGE or self.layers[i].portable for i in cross):
            return None
        return float(sum(self.row_elements(i) * self.shape(i)[1] for i in cross))

    def names(self, start: int, stop: int) -> tuple[str, ...]:
        """Names of the layers `[start, stop)`."""
        return tuple(layer.name for layer in self.layers[start:stop])


def _size(elements: float | None) -> float:
    return math.inf if elements is None else elements
