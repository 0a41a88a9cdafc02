"""A layer: the fused unit that an engine runs, and how its rows depend on its inputs' rows."""

from __future__ import annotations

from dataclasses import dataclass

INPUT = "input"
"""The name by which layers refer to the model's input."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one output row reads of an input, on the height dimension.

    Output row `o` reads the input rows `o * stride - pad_top + i * dilation`, `0 <= i < kernel`;
    rows outside the input are padding. The default is a row-by-row operation.
    """

    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad_top: int = 0

    @property
    def extent(self) -> int:
        """Rows from the first that is read to the last, both counted."""
        return (self.kernel - 1) * self.dilation + 1


ROW_BY_ROW = Window()


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One input of a layer: the layer (or `INPUT`) that makes it and the window it is read through."""

    source: str
    window: Window = ROW_BY_ROW


@dataclass(frozen=True, slots=True)
class Layer:
    """A fused unit: one convolution, pooling, sum or concatenation with what follows it row by row.

    `out_shape` and `in_shape` are (channels, height, width), `in_shape` that of the first input. `macs` and
    `params` are those of the whole layer, all rows. `nodes` are the names of the ONNX nodes that it stands
    for, in order; `tensor` is the ONNX tensor that it makes.
    """

    name: str
    op: str
    inputs: tuple[LayerInput, ...]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    macs: int
    params: int
    nodes: tuple[str, ...]
    tensor: str

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


@dataclass(frozen=True, slots=True)
class Head:
    """What follows the last row-wise layer (pooling over all rows, fully connected layers): run by one provider.

    `tensor` is the ONNX tensor that the body hands over; `outputs` are the model's outputs with their shapes.
    Empty `nodes`: the body's last tensor is the model's output.
    """

    tensor: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    macs: int
    params: int

    @property
    def out_elements(self) -> int:
        """Elements of all the model's outputs together."""
        total = 0
        for _, shape in self.outputs:
            count = 1
            for size in shape:
                count *= size
            total += count
        return total
