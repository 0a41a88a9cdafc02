"""What DistrEdge knows of ONNX operators: their windows in one normal form, their work and their parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from distredge.errors import ModelError
from distredge.model.rows import Window

WINDOWED = frozenset({"Conv", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool"})
"""Operators that read each output row through a window of input rows."""

HEAVY = WINDOWED | {"ConvTranspose"}
"""Operators for whose sake a network is split."""

WEIGHTS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
"""Which input of a convolution its weights are."""


@dataclass(frozen=True)
class Tensors:
    """What is known of a graph's tensors: static shapes, element types, which are constants, which are read.

    `values` are the constants whose data is at hand.
    """

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    constants: frozenset[str]
    used: frozenset[str]
    values: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of a node that are no constants, in order."""
        return [name for name in node.input if name and name not in self.constants]

    def value(self, name: str) -> npt.NDArray[Any] | None:
        """A constant's value; None where it is not at hand."""
        return numpy_helper.to_array(self.values[name]) if name in self.values else None

    def argument(self, node: onnx.NodeProto, position: int, name: str) -> npt.NDArray[Any] | None:
        """What newer operator sets give as an input and older ones as an attribute; None where it is not known."""
        if len(node.input) > position and node.input[position]:
            return self.value(node.input[position])
        given = attribute(node, name, None)
        return None if given is None else np.array(given)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, `default` where it is not stated."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def set_attributes(node: onnx.NodeProto, **values: Any) -> None:
    """Give a node attributes in the place of those it has; None removes one."""
    kept = [a for a in node.attribute if a.name not in values]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items() if value is not None)


def static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Shape of a value; None where it is unknown or not all numbers."""
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
        return None
    return tuple(d.dim_value for d in kind.shape.dim)


def check_window(node: onnx.NodeProto) -> None:
    """Raise `ModelError` if a convolution or pooling states impossible sizes, which shape inference trusts."""
    if node.op_type not in HEAVY:
        return
    sizes = [attribute(node, name, []) for name in ("kernel_shape", "strides", "dilations")]
    pads = attribute(node, "pads", [])
    given = {len(values) for values in sizes if values} | {len(pads) // 2 for _ in pads}
    if (
        len(given) > 1
        or len(pads) % 2
        or any(value < 1 for values in sizes for value in values)
        or min(pads, default=0) < 0
        or attribute(node, "group", 1) < 1
    ):
        raise ModelError(f"{node.op_type} (node '{node.name}') states impossible kernel, strides, dilations or pads")


def write_window(
    node: onnx.NodeProto, shape: Sequence[int], weight: Sequence[int] | None, out: Sequence[int] | None
) -> bool:
    """State kernel, strides, dilations and pads of a convolution or pooling of an input of `shape`.

    Returns whether a pooling in ceil mode became one that pads its end instead. `weight` is the shape of a
    convolution's weights, `out` that of what a transposed one makes.
    """
    kernel = list(attribute(node, "kernel_shape", list(weight[2:]) if weight else []))
    spatial = len(shape) - 2
    if not kernel or len(kernel) != spatial:
        return False
    ones = [1] * spatial
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    if node.op_type == "ConvTranspose":
        if out is not None and len(out) == len(shape):
            _write_transposed(node, _axes(shape, kernel, strides, dilations), list(out[2:]))
        return False
    axes = _axes(shape, kernel, strides, dilations)
    pads = _pads(node, axes)
    ceil = bool(attribute(node, "ceil_mode", 0))
    if ceil:
        ends = [
            a.ceil_pad(*both) for a, both in zip(axes, zip(pads[:spatial], pads[spatial:], strict=True), strict=True)
        ]
        pads[spatial:] = ends
    stated = {"kernel_shape": kernel, "strides": list(strides), "dilations": list(dilations), "pads": pads}
    if node.op_type in ("AveragePool", "MaxPool") and list(dilations) == ones:
        stated["dilations"] = None  # type: ignore[assignment]  # which older operator sets do not know
    set_attributes(node, **stated, auto_pad=None, **({"ceil_mode": None} if ceil else {}))
    return ceil


def counts_padding_unevenly(node: onnx.NodeProto) -> bool:
    """Whether an average counts the padding, but not what a last window of ceil mode reads beyond it.

    `SAME` padding leaves no window to pass the end.
    """
    return (
        node.op_type == "AveragePool"
        and bool(attribute(node, "ceil_mode", 0))
        and bool(attribute(node, "count_include_pad", 0))
        and not attribute(node, "auto_pad", b"NOTSET").startswith(b"SAME")
    )


def _axes(shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[_Axis]:
    return [_Axis(*sizes) for sizes in zip(shape[2:], kernel, strides, dilations, strict=True)]


def _write_transposed(node: onnx.NodeProto, axes: list[_Axis], out: list[int]) -> None:
    """State a transposed convolution's windows, with `output_padding` in the place of `output_shape`."""
    spatial = len(axes)
    extra = list(attribute(node, "output_padding", [0] * spatial))
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    pads = list(attribute(node, "pads", [0] * 2 * spatial))
    if attribute(node, "output_shape", None) or auto.startswith("SAME"):
        begins, ends = [], []
        for i, (axis, size) in enumerate(zip(axes, out, strict=True)):
            total = axis.stride * (axis.size - 1) + extra[i] + axis.extent - size
            extra[i], total = extra[i] + max(0, -total), max(0, total)
            less, more = total // 2, total - total // 2
            begins.append(less if auto == "SAME_UPPER" else more)
            ends.append(more if auto == "SAME_UPPER" else less)
        pads = begins + ends
    set_attributes(
        node,
        kernel_shape=[a.kernel for a in axes],
        strides=[a.stride for a in axes],
        dilations=[a.dilation for a in axes],
        pads=pads,
        output_padding=extra,
        output_shape=None,
        auto_pad=None,
    )


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
    """Padding of a convolution or pooling, all begins, then all ends; `auto_pad` worked out."""
    auto, none = attribute(node, "auto_pad", b"NOTSET").decode(), [0] * 2 * len(axes)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return list(attribute(node, "pads", none)) if auto == "NOTSET" else none
    small, large = [axis.same() // 2 for axis in axes], [-(-axis.same() // 2) for axis in axes]
    return small + large if auto == "SAME_UPPER" else large + small


def window(node: onnx.NodeProto, spatial: int = 0) -> Window:
    """The window along a spatial axis of a convolution or pooling that states it explicitly."""
    kernel, stride = attribute(node, "kernel_shape", None), attribute(node, "strides", None)
    dilation = attribute(node, "dilations", [1] * len(kernel))
    return Window(kernel[spatial], stride[spatial], dilation[spatial], attribute(node, "pads", None)[spatial])


def macs(node: onnx.NodeProto, tensors: Tensors) -> int:
    """Multiply-accumulates of a node: of convolutions and matrix products, 0 for all others."""
    outputs = math.prod(tensors.shapes.get(node.output[0], (0,)))
    if node.op_type in WEIGHTS:
        weights = math.prod(tensors.shapes.get(node.input[WEIGHTS[node.op_type]], (0, 0))[1:])
        inputs = math.prod(tensors.shapes.get(node.input[0], (0,)))
        return (inputs if node.op_type == "ConvTranspose" else outputs) * weights
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        inner = tensors.shapes.get(node.input[0], (0,))
        return outputs * (inner[0 if attribute(node, "transA", 0) else -1] if inner else 1)
    return 0


def params(node: onnx.NodeProto, tensors: Tensors) -> int:
    """Parameters of a node: elements of its floating-point constants but scalars and a batch norm's statistics."""
    names = node.input[:3] if node.op_type == "BatchNormalization" else node.input
    if node.op_type in ("Resize", "Upsample", "Pad", "Clip", "Pow"):
        names = node.input[:1]
    shapes = (tensors.shapes[n] for n in names if n in tensors.constants and _is_float(tensors.types.get(n)))
    return sum(math.prod(shape) for shape in shapes if shape)


def _is_float(kind: int | None) -> bool:
    return kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
