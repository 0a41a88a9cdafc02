"""What DistrEdge knows of ONNX operators: which work row by row, and through which windows they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from distredge.errors import ModelError
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
    """Whether a pooling divides by a count that the last rows know only from the whole image.

    In normal form ceil mode remains only where that is so: it would count the padding, but not what a last
    window reads beyond it.
    """
    return bool(attribute(node, "ceil_mode", 0))


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


def check_window(node: onnx.NodeProto) -> None:
    """Raise `ModelError` if a convolution or pooling states impossible sizes, which shape inference trusts."""
    if node.op_type not in WINDOWED:
        return
    sizes = [attribute(node, name, []) for name in ("kernel_shape", "strides", "dilations")]
    pads = attribute(node, "pads", [])
    given = {len(values) for values in sizes if values} | {len(pads) // 2 for _ in pads}
    if (
        len(given) > 1
        or len(pads) % 2
        or any(value < 1 for values in sizes for value in values)
        or min(pads, default=0) < 0
    ):
        raise ModelError(f"{node.op_type} (node '{node.name}') states impossible kernel, strides, dilations or pads")


def write_window(node: onnx.NodeProto, shape: Sequence[int], weight: Sequence[int] | None) -> bool:
    """State kernel, strides, dilations and pads of a 2-D convolution or pooling of an input of `shape`.

    Returns whether a pooling in ceil mode became one that pads its end instead. `weight` is the shape of a
    convolution's weights.
    """
    kernel = attribute(node, "kernel_shape", list(weight[2:]) if weight else None)
    if kernel is None or len(kernel) != 2 or len(shape) != 4:
        return False
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    axes = [_Axis(*sizes) for sizes in zip(shape[2:], kernel, strides, dilations, strict=True)]
    pads = _pads(node, axes)
    ceil = bool(attribute(node, "ceil_mode", 0))
    if ceil:
        ends = [axis.ceil_pad(before, after) for axis, before, after in zip(axes, pads[:2], pads[2:], strict=True)]
        if ends != pads[2:] and attribute(node, "count_include_pad", 0):
            ceil = False  # it divides by fewer elements where a window passes the padding: left as it is
        else:
            pads[2:] = ends
    stated = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    if node.op_type == "AveragePool" and dilations == [1, 1]:
        del stated["dilations"]  # which older operator sets do not know
    dropped = (*stated, "auto_pad", "ceil_mode") if ceil else (*stated, "auto_pad")
    kept = [a for a in node.attribute if a.name not in dropped]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in stated.items())])
    return ceil


@dataclass(frozen=True)
class _Axis:
    """A window along one axis of `size` rows or columns."""

    size: int
    kernel: int
    stride: int
    dilation: int

    @property
    def extent(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    def same(self) -> int:
        """What `SAME` padding adds in all, so that the output gets ceil(size / stride)."""
        return max(0, (-(-self.size // self.stride) - 1) * self.stride + self.extent - self.size)

    def ceil_pad(self, before: int, after: int) -> int:
        """The padding at the end with which floor mode gives what ceil mode gives.

        A last window counts that passes the end, unless it would begin there in the padding.
        """
        rows = -(-(self.size + before + after - self.extent) // self.stride) + 1
        if (rows - 1) * self.stride >= self.size + before:
            rows -= 1
        return max(after, (rows - 1) * self.stride + self.extent - self.size - before)


def _pads(node: onnx.NodeProto, axes: Sequence[_Axis]) -> list[int]:
    """Top, left, bottom and right padding of a convolution or pooling, `auto_pad` worked out."""
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return list(attribute(node, "pads", [0, 0, 0, 0])) if auto == "NOTSET" else [0, 0, 0, 0]
    small, large = [axis.same() // 2 for axis in axes], [-(-axis.same() // 2) for axis in axes]
    return small + large if auto == "SAME_UPPER" else large + small


def window(node: onnx.NodeProto) -> Window:
    """The window on the height of a convolution or pooling that states it explicitly."""
    kernel, stride = attribute(node, "kernel_shape", None)[0], attribute(node, "strides", None)[0]
    return Window(kernel, stride, attribute(node, "dilations", [1, 1])[0], attribute(node, "pads", None)[0])


def out_height(node: onnx.NodeProto, height: int) -> int:
    """Output rows of a convolution or pooling of `height` rows."""
    reads, pads = window(node), attribute(node, "pads", None)
    return int((height + pads[0] + pads[2] - reads.extent) // reads.stride + 1)


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
