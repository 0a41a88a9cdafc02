"""What DistrEdge knows of ONNX operators: which work row by row, and through which windows they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from distredge.model.layer import Window

WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool"})
"""Operators that read each output row through a window of input rows."""

UNARY = frozenset(
    "Abs BatchNormalization Cast Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity "
    "LRN LeakyRelu Log Mish Neg PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Sqrt "
    "Tanh ThresholdedRelu".split()
)
"""Operators of one activation whose rows depend on the same rows of it; their other inputs are constants."""

BINARY = frozenset("Add Sub Mul Div Max Min Pow".split())
"""Element-wise operators of two activations, or of one and a constant."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"})
POOLINGS = frozenset({"MaxPool", "AveragePool", "LpPool"})


@dataclass(frozen=True)
class Tensors:
    """What is known of a graph's tensors: static shapes, element types, which are constants, which are read."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    constants: frozenset[str]
    used: frozenset[str]

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of a node that are no constants, in order."""
        return [name for name in node.input if name and name not in self.constants]

    def is_feature_map(self, name: str) -> bool:
        """Whether a tensor is (1, C, H, W) of float32."""
        shape = self.shapes.get(name, ())
        return len(shape) == 4 and shape[0] == 1 and self.types.get(name) == onnx.TensorProto.FLOAT


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, `default` where it is not stated."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Shape of a value; None where it is unknown or not all numbers."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
        return None
    return tuple(d.dim_value for d in kind.shape.dim)


def is_row_wise(node: onnx.NodeProto, tensors: Tensors) -> bool:
    """Whether each output row of the node depends on a window of its inputs' rows only, everywhere alike."""
    activations = tensors.activations(node)
    if any(name in tensors.used for name in node.output[1:]):
        return False
    if not all(tensors.is_feature_map(name) for name in (*activations, node.output[0])):
        return False
    if node.op_type in WINDOWED:
        return activations == [node.input[0]] and not _counts_rows(node)
    if node.op_type in UNARY:
        return activations == [node.input[0]] and not _trains(node) and _keeps_rows(node, tensors)
    if node.op_type in BINARY:
        return len(node.input) == 2 and _keeps_rows(node, tensors)
    if node.op_type == "Concat":
        return len(activations) == len(node.input) and attribute(node, "axis", 1) in (1, -3)
    return False


def _counts_rows(node: onnx.NodeProto) -> bool:
    """Whether a pooling divides by a count that the last rows know only from the whole image."""
    ceil, include = attribute(node, "ceil_mode", 0), attribute(node, "count_include_pad", 0)
    return node.op_type == "AveragePool" and bool(ceil and include)


def _trains(node: onnx.NodeProto) -> bool:
    """Whether a batch norm computes its statistics from the image."""
    return node.op_type == "BatchNormalization" and (
        attribute(node, "training_mode", 0) != 0 or attribute(node, "spatial", 1) != 1
    )


def _keeps_rows(node: onnx.NodeProto, tensors: Tensors) -> bool:
    """Whether an element-wise node maps shapes onto themselves, with constants that are alike in every row."""
    shape = tensors.shapes[node.output[0]]
    if any(tensors.shapes[name] != shape for name in tensors.activations(node)):
        return False
    if node.op_type == "BatchNormalization":
        return True
    constants = [tensors.shapes.get(name) for name in node.input if name in tensors.constants]
    return all(dims is not None and (len(dims) < 2 or dims[-2] == 1) for dims in constants)


def write_window(node: onnx.NodeProto, shape: Sequence[int], weight: Sequence[int] | None) -> None:
    """State kernel, strides, dilations and pads of a 2-D convolution or pooling of an input of `shape`."""
    kernel = attribute(node, "kernel_shape", list(weight[2:]) if weight else None)
    if kernel is None or len(kernel) != 2:
        return
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    pads = attribute(node, "pads", [0, 0, 0, 0])
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same(*sizes) for sizes in zip(shape[2:], kernel, strides, dilations, strict=True)]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = small + large if auto == "SAME_UPPER" else large + small
    elif auto == "VALID":
        pads = [0, 0, 0, 0]
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    if node.op_type == "AveragePool" and dilations == [1, 1]:
        del window["dilations"]  # which older operator sets do not know
    others = [a for a in node.attribute if a.name not in (*window, "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*others, *(helper.make_attribute(name, value) for name, value in window.items())])


def _same(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Rows or columns that `SAME` padding adds in all: the output gets ceil(size / stride)."""
    return max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)


def window(node: onnx.NodeProto) -> Window:
    """The window on the height of a convolution or pooling that states it explicitly."""
    kernel, stride = attribute(node, "kernel_shape", None)[0], attribute(node, "strides", None)[0]
    return Window(kernel, stride, attribute(node, "dilations", [1, 1])[0], attribute(node, "pads", None)[0])


def out_height(node: onnx.NodeProto, height: int) -> int:
    """Output rows of a convolution or pooling of `height` rows (ONNX, `Conv` and `MaxPool`).

    With `ceil_mode` a last window counts that passes the end, unless it begins beyond the input in the padding.
    """
    reads, pads = window(node), attribute(node, "pads", None)
    spare = height + pads[0] + pads[2] - reads.extent
    if not attribute(node, "ceil_mode", 0):
        return int(spare // reads.stride + 1)
    rows = -(-spare // reads.stride) + 1
    return int(rows - 1 if (rows - 1) * reads.stride >= height + pads[0] else rows)


def macs(node: onnx.NodeProto, tensors: Tensors) -> int:
    """Multiply-accumulates of a node: of convolutions and matrix products, 0 for all others."""
    outputs = _elements(tensors.shapes.get(node.output[0], (0,)))
    if node.op_type == "Conv":
        return outputs * _elements(tensors.shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        inner = tensors.shapes.get(node.input[0], (0,))
        return outputs * inner[0 if attribute(node, "transA", 0) else -1]
    return 0


def params(node: onnx.NodeProto, tensors: Tensors) -> int:
    """Parameters of a node: elements of its floating-point constants but scalars and a batch norm's statistics."""
    names = node.input[:3] if node.op_type == "BatchNormalization" else node.input
    shapes = (tensors.shapes[n] for n in names if n in tensors.constants and _is_float(tensors.types.get(n)))
    return sum(_elements(shape) for shape in shapes if shape)


def _is_float(kind: int | None) -> bool:
    return kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
