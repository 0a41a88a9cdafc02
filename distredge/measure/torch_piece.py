"""Computes an ONNX model on PyTorch, operator by operator.

PyTorch has no reader of ONNX, and the one on PyPI (onnx2torch 1.5) needs a torchvision that was built for exactly the
torch that is installed; so the operators that pieces of models consist of are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from distredge.errors import DependencyError, RunError
from distredge.model.operators import attribute

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Operator = Callable[..., "Tensor"]
"""Makes a node's output from those of its inputs that are no integers."""

_PLAIN = {
    "Abs": "abs", "Add": "add", "Div": "div", "Erf": "erf", "Exp": "exp", "Log": "log", "MatMul": "matmul",
    "Max": "maximum", "Min": "minimum", "Mul": "mul", "Neg": "neg", "Pow": "pow", "Reciprocal": "reciprocal",
    "Relu": "relu", "Sigmoid": "sigmoid", "Sqrt": "sqrt", "Sub": "sub", "Tanh": "tanh",
}  # fmt: skip
"""Operators that functions of the module `torch` are, with up to two inputs."""


class TorchPiece:
    """An ONNX model, with its weights inside, that PyTorch computes: call it with its inputs in order.

    Inputs and outputs are FP32 on the device, weights and what is computed of `dtype`. Weights are laid out channels
    last; inputs should be (`channels_last`). Raises `RunError` for an operator, or a use of one, that it does not know.
    """

    def __init__(self, model: ModelProto, device: torch.device, dtype: torch.dtype) -> None:
        self._torch = torch = import_torch()
        self._f = torch.nn.functional
        self._dtype = dtype
        self._inputs = [value.name for value in model.graph.input]
        self._outputs = [value.name for value in model.graph.output]
        self._weights: dict[str, Tensor] = {}
        self._integers: dict[str, list[int]] = {"": []}
        for tensor in model.graph.initializer:
            values = np.array(numpy_helper.to_array(tensor))
            if values.dtype.kind == "f":
                self._weights[tensor.name] = channels_last(torch.from_numpy(values).to(device, dtype))
            else:
                self._integers[tensor.name] = [int(value) for value in values.ravel()]
        self._steps = [(self._operator(node), self._arguments(node), node.output[0]) for node in model.graph.node]
        self._dropped = self._last_uses()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs, in order."""
        values = dict(zip(self._inputs, (value.to(self._dtype) for value in inputs), strict=True))
        values.update(self._weights)
        for (run, arguments, output), dropped in zip(self._steps, self._dropped, strict=True):
            values[output] = run(*[values[name] if name else None for name in arguments])
            for name in dropped:
                del values[name]
        return [values[name].float() for name in self._outputs]

    def _last_uses(self) -> list[list[str]]:
        """What is not needed any more after each step: memory that the next one should use again."""
        kept, dropped = {*self._outputs, *self._weights}, []
        for _, arguments, output in reversed(self._steps):
            dropped.append([name for name in {*arguments, output} if name and name not in kept])
            kept.update(arguments)
        return dropped[::-1]

    def _arguments(self, node: NodeProto) -> list[str]:
        return [name for name in node.input if name not in self._integers or not name]

    def _operator(self, node: NodeProto) -> Operator:
        make = getattr(self, f"_make_{node.op_type}", None)
        plain = node.op_type in _PLAIN and len(node.input) <= 2
        if node.domain or len(node.output) > 1 or not (make or plain):
            raise _unknown(node, "operator")
        made: Operator = make(node) if make else getattr(self._torch, _PLAIN[node.op_type])
        return made

    def _constant(self, node: NodeProto, position: int, name: str, default: Any) -> Any:
        """Integers that operator sets give as an input or as an attribute."""
        if len(node.input) <= position or not node.input[position]:
            return attribute(node, name, default)
        if node.input[position] not in self._integers:
            raise _unknown(node, f"'{name}' that is computed, in")
        return self._integers[node.input[position]]

    # Windows. PyTorch pads both sides of an axis alike: unequal padding is a step of its own.

    def _make_Conv(self, node: NodeProto) -> Operator:
        convolve = (self._f.conv1d, self._f.conv2d, self._f.conv3d)[self._rank(node) - 1]
        pad, padding = self._padding(node, 0.0)
        options = {"stride": _strides(node), "dilation": _dilations(node), "groups": attribute(node, "group", 1)}
        return lambda x, weight, bias=None: convolve(pad(x), weight, bias, padding=padding, **options)

    def _make_ConvTranspose(self, node: NodeProto) -> Operator:
        rank = self._rank(node)
        convolve = (self._f.conv_transpose1d, self._f.conv_transpose2d, self._f.conv_transpose3d)[rank - 1]
        begins, ends = _pads(node, rank)
        common = [min(pair) for pair in zip(begins, ends, strict=True)]
        cut = [slice(b - c, c - e or None) for b, e, c in zip(begins, ends, common, strict=True)]
        rows = (slice(None), slice(None), *cut) if begins != ends else None
        options = {"stride": _strides(node), "dilation": _dilations(node), "groups": attribute(node, "group", 1)}
        options["output_padding"] = attribute(node, "output_padding", 0)
        if attribute(node, "output_shape", None) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            raise _unknown(node, "way to say what is padded, in")

        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            whole: Tensor = convolve(x, weight, bias, padding=common, **options)
            return whole[rows] if rows else whole

        return run

    def _make_MaxPool(self, node: NodeProto) -> Operator:
        kernel = attribute(node, "kernel_shape", [])
        pool = (self._f.max_pool1d, self._f.max_pool2d, self._f.max_pool3d)[len(kernel) - 1]
        pad, padding = self._padding(node, float("-inf"))
        options = {"stride": _strides(node), "dilation": _dilations(node), "ceil_mode": self._ceil(node)}
        return lambda x: pool(pad(x), kernel, padding=padding, **options)

    def _make_AveragePool(self, node: NodeProto) -> Operator:
        kernel = attribute(node, "kernel_shape", [])
        pool = (self._f.avg_pool1d, self._f.avg_pool2d, self._f.avg_pool3d)[len(kernel) - 1]
        if attribute(node, "dilations", None) not in (None, [1] * len(kernel)):
            raise _unknown(node, "dilation of")
        pad, padding = self._padding(node, 0.0)
        options = {"stride": _strides(node), "padding": padding, "ceil_mode": self._ceil(node)}
        options["count_include_pad"] = counted = bool(attribute(node, "count_include_pad", 0))
        if pad is _same or counted:
            return lambda x: pool(pad(x), kernel, **options)
        torch = self._torch
        return lambda x: pool(pad(x), kernel, **options) / pool(pad(torch.ones_like(x[:, :1])), kernel, **options)

    def _rank(self, node: NodeProto) -> int:
        return self._weights[node.input[1]].ndim - 2 if node.input[1] in self._weights else 2

    def _padding(self, node: NodeProto, value: float) -> tuple[Operator, Any]:
        """What pads the input, and what is left to the operator's own padding."""
        kernel = attribute(node, "kernel_shape", ())
        begins, ends = _pads(node, len(kernel) or self._rank(node))
        wide = node.op_type != "Conv" and any(2 * b > k for b, k in zip(begins, kernel, strict=True))  # not for pools
        if begins == ends and not wide:
            return _same, begins
        widths = [width for pair in zip(reversed(begins), reversed(ends), strict=True) for width in pair]
        pad = self._f.pad
        return lambda x: pad(x, widths, value=value), 0

    def _ceil(self, node: NodeProto) -> bool:
        begins, ends = _pads(node, len(attribute(node, "kernel_shape", ())))
        ceil = bool(attribute(node, "ceil_mode", 0))
        if ceil and begins != ends:
            raise _unknown(node, "rounding up with unequal padding, in")
        return ceil

    # What has no window

    def _make_BatchNormalization(self, node: NodeProto) -> Operator:
        normalise, epsilon = self._f.batch_norm, attribute(node, "epsilon", 1e-5)
        if attribute(node, "training_mode", 0):
            raise _unknown(node, "training mode of")
        return lambda x, scale, shift, mean, var: normalise(x, mean, var, scale, shift, eps=epsilon)

    def _make_Clip(self, node: NodeProto) -> Operator:
        low, high = attribute(node, "min", None), attribute(node, "max", None)
        torch = self._torch
        return lambda x, a=low, b=high: torch.clamp(x, a, b)

    def _make_Gemm(self, node: NodeProto) -> Operator:
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        flip_a, flip_b = attribute(node, "transA", 0), attribute(node, "transB", 0)
        torch = self._torch

        def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
            a, b = a.T if flip_a else a, b.T if flip_b else b
            made: Tensor = alpha * (a @ b) if c is None else torch.addmm(c, a, b, alpha=alpha, beta=beta)
            return made

        return run

    def _make_ReduceMean(self, node: NodeProto) -> Operator:
        return self._reduction(node, self._torch.mean)

    def _make_ReduceSum(self, node: NodeProto) -> Operator:
        return self._reduction(node, self._torch.sum)

    def _make_ReduceL2(self, node: NodeProto) -> Operator:
        return self._reduction(node, self._torch.linalg.vector_norm)

    def _reduction(self, node: NodeProto, reduce: Callable[..., Tensor]) -> Operator:
        axes, keep = self._constant(node, 1, "axes", []), bool(attribute(node, "keepdims", 1))
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return _same
        return lambda x: reduce(x, dim=axes or None, keepdim=keep)

    def _make_Reshape(self, node: NodeProto) -> Operator:
        shape = self._constant(node, 1, "shape", [])
        zero_is_zero = attribute(node, "allowzero", 0)
        return lambda x: x.reshape([size or (0 if zero_is_zero else x.shape[i]) for i, size in enumerate(shape)])

    def _make_Slice(self, node: NodeProto) -> Operator:
        starts, stops = self._constant(node, 1, "starts", []), self._constant(node, 2, "ends", [])
        axes = self._constant(node, 3, "axes", None) or list(range(len(starts)))
        steps = self._constant(node, 4, "steps", None) or [1] * len(starts)
        if min(steps) < 1:
            raise _unknown(node, "backward step of")
        cuts = {axis: slice(a, b, s) for axis, a, b, s in zip(axes, starts, stops, steps, strict=True)}
        return lambda x: x[tuple(cuts.get(i, cuts.get(i - x.ndim, slice(None))) for i in range(x.ndim))]

    def _make_Pad(self, node: NodeProto) -> Operator:
        widths = self._constant(node, 1, "pads", [])
        if attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
            raise _unknown(node, "mode or axes of")
        pairs = list(zip(widths[: len(widths) // 2], widths[len(widths) // 2 :], strict=True))
        flat, pad = [width for pair in reversed(pairs) for width in pair], self._f.pad
        return lambda x, value=None: pad(x, flat, value=0.0 if value is None else float(value))

    def _make_Concat(self, node: NodeProto) -> Operator:
        axis, torch = attribute(node, "axis", 1), self._torch
        return lambda *parts: torch.cat(parts, dim=axis)

    def _make_Transpose(self, node: NodeProto) -> Operator:
        order = attribute(node, "perm", None)
        return lambda x: x.permute(order or list(range(x.ndim))[::-1])

    def _make_Flatten(self, node: NodeProto) -> Operator:
        axis = attribute(node, "axis", 1)
        return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)

    def _make_LeakyRelu(self, node: NodeProto) -> Operator:
        slope, leaky = attribute(node, "alpha", 0.01), self._f.leaky_relu
        return lambda x: leaky(x, slope)

    def _make_HardSigmoid(self, node: NodeProto) -> Operator:
        slope, offset, torch = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5), self._torch
        return lambda x: torch.clamp(slope * x + offset, 0.0, 1.0)

    def _make_Softmax(self, node: NodeProto) -> Operator:
        axis, torch = attribute(node, "axis", -1), self._torch
        return lambda x: torch.softmax(x, dim=axis)

    def _make_GlobalAveragePool(self, node: NodeProto) -> Operator:
        return lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)

    def _make_Identity(self, node: NodeProto) -> Operator:
        return _same

    def _make_HardSwish(self, node: NodeProto) -> Operator:
        swish = self._f.hardswish
        return lambda x: swish(x)

    def _make_Unsqueeze(self, node: NodeProto) -> Operator:
        axes = self._constant(node, 1, "axes", [])
        if min(axes) < 0:
            raise _unknown(node, "axis, counted from the end, of")

        def run(x: Tensor) -> Tensor:
            for axis in sorted(axes):
                x = x.unsqueeze(axis)
            return x

        return run

    def _make_Squeeze(self, node: NodeProto) -> Operator:
        axes = self._constant(node, 1, "axes", [])
        return lambda x: x.squeeze(tuple(axes)) if axes else x.squeeze()

    def _make_Expand(self, node: NodeProto) -> Operator:
        shape, torch = self._constant(node, 1, "shape", []), self._torch
        return lambda x: x.expand(torch.broadcast_shapes(x.shape, shape))


def channels_last(values: Tensor) -> Tensor:
    """Images laid out as PyTorch's kernels like them best: pooling takes a twentieth of the time on a processor."""
    torch = import_torch()
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return values.contiguous(memory_format=formats.get(values.ndim, torch.contiguous_format))


def import_torch() -> Any:
    """The module, imported when it is first needed."""
    try:
        import torch
    except ImportError as error:
        raise DependencyError("measuring with PyTorch", "torch", "torch") from error
    return torch


def _pads(node: NodeProto, rank: int) -> tuple[list[int], list[int]]:
    """Padding at the begin and the end of each axis."""
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _unknown(node, "automatic padding of")
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    return pads[:rank], pads[rank:]


def _strides(node: NodeProto) -> Any:
    return attribute(node, "strides", 1)


def _dilations(node: NodeProto) -> Any:
    return attribute(node, "dilations", 1)


def _unknown(node: NodeProto, what: str) -> RunError:
    name = node.name or node.output[0]
    return RunError(f"PyTorch's back end does not know the {what} {node.op_type} ('{name}'): use `--backend ort`")


def _same(x: Tensor) -> Tensor:
    return x
