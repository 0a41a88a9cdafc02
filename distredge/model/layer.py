"""A layer: the fused unit that an engine runs, and how its rows depend on its inputs' rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from distredge.model.rows import ROW_BY_ROW, RowMap

INPUT = "input"
"""The name by which layers refer to the model's input."""

Shape3 = tuple[int, int, int]


def rows_in_the_middle(shape: tuple[int, ...], axis: int | None) -> Shape3:
    """A tensor's shape as (elements before the rows' axis, rows, elements behind it); one row without such an axis.

    For (1, channels, height, width) that is (channels, height, width); a third spatial dimension counts as channels.
    """
    if axis is None:
        return math.prod(shape), 1, 1
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One input of a layer: the layer (or `INPUT`) that makes it and which of its rows are read."""

    source: str
    reads: RowMap = ROW_BY_ROW


@dataclass(frozen=True, slots=True)
class Layer:
    """A fused unit: one convolution, pooling, sum or concatenation with what follows it row by row.

    `out_shape` and `in_shape` are (channels, height, width), `in_shape` that of the first input; a tensor of another
    rank is seen as `rows_in_the_middle`. `macs` and `params` are those of the whole layer, all rows. `nodes` are the
    names of the ONNX nodes that it stands for, in order; `tensor` is the ONNX tensor that it makes.

    A `whole` layer cannot be split by rows: whoever needs one of its rows computes them all. `portable` tells whether
    its tensor can be sent (its elements are exact in float32).
    """

    name: str
    op: str
    inputs: tuple[LayerInput, ...]
    in_shape: Shape3
    out_shape: Shape3
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    macs: int
    params: int
    nodes: tuple[str, ...]
    tensor: str
    whole: bool = False
    portable: bool = True

    @property
    def height(self) -> int:
        """Output rows."""
        return self.out_shape[1]

    @property
    def row_elements(self) -> int:
        """Elements of one output row: channels times width."""
        return self.out_shape[0] * self.out_shape[2]

    @property
    def signature(self) -> str:
        """What decides a layer's speed, whatever the model: the key under which measurements are stored."""
        (cin, _, win), (cout, _, wout) = self.in_shape, self.out_shape
        (kh, kw), (sh, sw) = self.kernel, self.stride
        return f"{self.op}-{kh}x{kw}s{sh}x{sw}g{self.groups}-{cin}x{win}-{cout}x{wout}-i{len(self.inputs)}"


class Output(NamedTuple):
    """One of a model's outputs: its ONNX name, its shape (0: known only when it is computed), its NumPy type.

    `layer` is the layer that makes it, None if the head does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layer: str | None = None

    @property
    def elements(self) -> int:
        """How many elements it has; sizes that are not known beforehand count as 1."""
        return math.prod(max(size, 1) for size in self.shape)


@dataclass(frozen=True, slots=True)
class Head:
    """What follows the last row-wise layers (pooling over all rows, fully connected layers, post-processing).

    It is run by one provider, which gets all rows of the layers `inputs`, in their order. `outputs` are all the model's
    outputs; those that a layer makes come from the providers that computed their rows. Empty `nodes`: there is no head.
    """

    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    outputs: tuple[Output, ...]
    macs: int
    params: int

    @property
    def result_elements(self) -> int:
        """Elements of the outputs that the head makes."""
        return sum(output.elements for output in self.outputs if output.layer is None)
