"""Small ONNX models for tests: two by hand, and random ones with every row-wise operator and awkward border."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR = 18, 10


class Feature(NamedTuple):
    """A tensor (1, channels, height, width) of a toy model."""

    tensor: str
    channels: int
    height: int
    width: int


class ToyModel:
    """An ONNX model in the making: each method adds a node and returns the tensor that it makes."""

    def __init__(self, rng: np.random.Generator, channels: int, height: int, width: int) -> None:
        self.rng = rng
        self.image = Feature("image", channels, height, width)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, shape: Sequence[int], centre: float = 0.0, spread: float = 1.0) -> str:
        """A float32 initializer, uniform in `[centre - spread, centre + spread)`."""
        values = self.rng.uniform(centre - spread, centre + spread, tuple(shape)).astype(np.float32)
        return self._initializer(values)

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Any node of one output; returns the output's name."""
        name = name or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(
        self,
        x: Feature,
        channels: int,
        kernel: tuple[int, int] = (3, 3),
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        name: str = "",
    ) -> Feature:
        """A convolution with bias; `pads` are top, left, bottom, right."""
        fan_in = x.channels // groups * kernel[0] * kernel[1]
        weight = self.constant((channels, x.channels // groups, *kernel), spread=(3.0 / fan_in) ** 0.5)
        inputs = [x.tensor, weight, self.constant((channels,), spread=0.5)]
        tensor = self.node(
            "Conv", inputs, name, kernel_shape=kernel, strides=[stride] * 2, dilations=[dilation] * 2,
            group=groups, pads=pads,
        )  # fmt: skip
        return _windowed(tensor, channels, x, kernel, stride, dilation, pads, ceil=False)

    def pool(
        self,
        x: Feature,
        op: str = "MaxPool",
        kernel: tuple[int, int] = (2, 2),
        stride: int = 2,
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        ceil: bool = False,
        name: str = "",
        **attributes: int,
    ) -> Feature:
        """A `MaxPool` or `AveragePool`."""
        tensor = self.node(
            op, [x.tensor], name, kernel_shape=kernel, strides=[stride] * 2, pads=pads, ceil_mode=int(ceil),
            **attributes,
        )  # fmt: skip
        return _windowed(tensor, x.channels, x, kernel, stride, 1, pads, ceil)

    def unary(self, x: Feature, op: str = "Relu", name: str = "", **attributes: Any) -> Feature:
        """An element-wise operator of one input."""
        return x._replace(tensor=self.node(op, [x.tensor], name, **attributes))

    def norm(self, x: Feature, name: str = "") -> Feature:
        """A batch norm with statistics near the identity."""
        size = (x.channels,)
        terms = [self.constant(size, 1.0, 0.2), self.constant(size), self.constant(size), self.constant(size, 1.0, 0.2)]
        return x._replace(tensor=self.node("BatchNormalization", [x.tensor, *terms], name))

    def binary(self, a: Feature, b: Feature | str, op: str = "Add", name: str = "") -> Feature:
        """An element-wise operator of two activations, or of one and the constant `b`."""
        return a._replace(tensor=self.node(op, [a.tensor, b if isinstance(b, str) else b.tensor], name))

    def concat(self, parts: Sequence[Feature], name: str = "") -> Feature:
        """Activations joined along the channels."""
        tensor = self.node("Concat", [part.tensor for part in parts], name, axis=1)
        return parts[0]._replace(tensor=tensor, channels=sum(part.channels for part in parts))

    def classifier(self, x: Feature, classes: int = 5, pooled: bool = True) -> str:
        """A head: pooling over all rows (unless not `pooled`), flattening, a fully connected layer."""
        features = x.channels if pooled else x.channels * x.height * x.width
        tensor = self.node("GlobalAveragePool", [x.tensor], "gap") if pooled else x.tensor
        flat = self.node("Flatten", [tensor], "flatten", axis=1)
        weight = self.constant((classes, features), spread=(3.0 / features) ** 0.5)
        return self.node("Gemm", [flat, weight, self.constant((classes,))], "fc", transB=1)

    def finish(self, *outputs: Feature | str) -> onnx.ModelProto:
        """The model with these outputs."""
        names = [output if isinstance(output, str) else output.tensor for output in outputs]
        _, *shape = self.image
        graph = helper.make_graph(
            self.nodes,
            "toy",
            [helper.make_tensor_value_info(self.image.tensor, TensorProto.FLOAT, [1, *shape])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)

    def numbers(self, values: Sequence[int]) -> str:
        """An int64 initializer: sizes, axes or places."""
        return self._initializer(np.array(values, dtype=np.int64))

    def deconv(self, x: Feature, channels: int, kernel: int, stride: int, pad: int, extra: int = 0) -> Feature:
        """A transposed convolution, alike in both directions; `extra` is its output padding."""
        weight = self.constant((x.channels, channels, kernel, kernel), spread=(3.0 / (x.channels * kernel)) ** 0.5)
        tensor = self.node(
            "ConvTranspose", [x.tensor, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
            output_padding=[extra] * 2,
        )  # fmt: skip
        height, width = ((size - 1) * stride + kernel - 2 * pad + extra for size in (x.height, x.width))
        return Feature(tensor, channels, height, width)

    def _initializer(self, values: npt.NDArray[Any]) -> str:
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name


def chain(rng: np.random.Generator, height: int = 24, width: int = 10) -> onnx.ModelProto:
    """`conv1` and `conv2` with ReLUs, `pool1`, `conv3` with batch norm and ReLU, `pool2`, and a classifier."""
    toy = ToyModel(rng, 3, height, width)
    x = toy.unary(toy.conv(toy.image, 4, pads=(1, 1, 1, 1), name="conv1"))
    x = toy.unary(toy.conv(x, 6, pads=(1, 1, 1, 1), name="conv2"))
    x = toy.pool(x, name="pool1")
    x = toy.unary(toy.norm(toy.conv(x, 8, pads=(1, 1, 1, 1), name="conv3")))
    x = toy.pool(x, name="pool2")
    return toy.finish(toy.classifier(x))


def residual(rng: np.random.Generator, height: int = 24, width: int = 10) -> onnx.ModelProto:
    """A stem, an identity block (`a1`, `a2`), a projected block of stride 2 (`b1`, `b2`, `b_skip`), a classifier."""
    toy = ToyModel(rng, 3, height, width)
    same = (1, 1, 1, 1)
    x = toy.unary(toy.norm(toy.conv(toy.image, 4, pads=same, name="stem")))
    y = toy.unary(toy.conv(x, 4, pads=same, name="a1"))
    x = toy.unary(toy.binary(toy.norm(toy.conv(y, 4, pads=same, name="a2")), x, name="a_add"))
    y = toy.unary(toy.conv(x, 8, stride=2, pads=same, name="b1"))
    y = toy.conv(y, 8, pads=same, name="b2")
    x = toy.unary(toy.binary(y, toy.conv(x, 8, kernel=(1, 1), stride=2, name="b_skip"), name="b_add"))
    return toy.finish(toy.classifier(x))


def save_model(model: onnx.ModelProto, folder: Path) -> Path:
    """Write the model to `folder / "toy.onnx"`; returns that path."""
    path = folder / "toy.onnx"
    onnx.save(model, path)
    return path


def _windowed(
    tensor: str,
    channels: int,
    x: Feature,
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    pads: tuple[int, int, int, int],
    ceil: bool,
) -> Feature:
    """What a convolution or pooling makes of `x`."""
    sizes = []
    for size, k, before, after in zip((x.height, x.width), kernel, pads[:2], pads[2:], strict=True):
        spare = size + before + after - (k - 1) * dilation - 1
        rows = (-(-spare // stride) if ceil else spare // stride) + 1
        sizes.append(rows - 1 if ceil and (rows - 1) * stride >= size + before else rows)
    return Feature(tensor, channels, sizes[0], sizes[1])
