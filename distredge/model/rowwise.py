"""Which nodes of an ONNX graph work row by row, and which rows they read.

Some dimension of each feature map holds its rows: height in (1, channels, height, width). It is followed from the image
through every operator that keeps it recognisable, reshapes and transpositions included; each rule says where the rows
are in the output and which input rows they read. What no rule covers is not row-wise: it takes and gives whole tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from distredge.model.operators import WINDOWED, Tensors, attribute, window
from distredge.model.row_matrix import Matrix, row_matrix
from distredge.model.rows import EVERYTHING, ROW_BY_ROW, Listed, RowMap, Spread, Window

ELEMENTWISE = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization Cast Ceil Celu Clip Cos Cosh DequantizeLinear Div "
    "Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu "
    "Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor".split()
)
"""Operators whose output elements depend on the same elements of their inputs, broadcast where they are smaller."""

REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
    .split()
)  # fmt: skip

LAYOUT = frozenset("Reshape Flatten Squeeze Unsqueeze Transpose".split())
"""Operators that move elements only."""


class RowWise(NamedTuple):
    """A node that works row by row: the dimension of its output's rows, and what it reads of each activation."""

    axis: int
    reads: dict[str, RowMap]


@dataclass(frozen=True)
class RowAnalysis:
    """What is known of the rows of a graph's tensors and nodes.

    `axis` gives the dimension of the rows of each tensor that has one; `nodes` the row-wise nodes by name; `matrices`,
    by node name, the matrix (output rows, input rows) by which a resizing or a padding makes its rows.
    """

    axis: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, RowWise] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)


def analyse(nodes: Iterable[onnx.NodeProto], tensors: Tensors, image: str, axis: int, opset: int) -> RowAnalysis:
    """Follow the rows of the image, its dimension `axis`, through nodes in topological order.

    A feature map that a node makes which is not row-wise is taken to have its rows in the last dimension but one.
    """
    found = RowAnalysis(axis={image: axis})
    for node in nodes:
        if not tensors.activations(node):
            continue
        rule = RULES.get(node.op_type)
        made = rule(_Facts(node, tensors, found, opset)) if rule and _is_plain(node, tensors) else None
        if made is not None:
            found.nodes[node.name] = made
            found.axis[node.output[0]] = made.axis
            continue
        for name in node.output:
            shape = tensors.shapes.get(name, ())
            if len(shape) >= 4 and shape[-2] > 1:
                found.axis[name] = len(shape) - 2
    return found


def _is_plain(node: onnx.NodeProto, tensors: Tensors) -> bool:
    """Whether one output is used, and all shapes are known and not empty."""
    names = [*tensors.activations(node), node.output[0]]
    return not any(name in tensors.used for name in node.output[1:]) and all(
        name in tensors.shapes and min(tensors.shapes[name], default=1) > 0 for name in names
    )


@dataclass(frozen=True)
class _Facts:
    """A node and what is known around it."""

    node: onnx.NodeProto
    tensors: Tensors
    analysis: RowAnalysis
    opset: int

    def rows(self, position: int = 0) -> int | None:
        """The dimension of the rows of an input, None if it has none or is constant."""
        return self.analysis.axis.get(self.node.input[position]) if len(self.node.input) > position else None

    def shape(self, position: int = 0) -> tuple[int, ...]:
        return self.tensors.shapes.get(self.node.input[position], ())

    @property
    def out(self) -> tuple[int, ...]:
        return self.tensors.shapes[self.node.output[0]]

    def get(self, name: str, default: Any) -> Any:
        return attribute(self.node, name, default)

    def argument(self, position: int, name: str) -> npt.NDArray[Any] | None:
        return self.tensors.argument(self.node, position, name)

    def one(self, axis: int, reads: RowMap = ROW_BY_ROW) -> RowWise | None:
        """Row-wise in the first input; None if another one is no constant."""
        first = self.node.input[0]
        return RowWise(axis, {first: reads}) if self.tensors.activations(self.node) == [first] else None


def _normal(axes: Iterable[int], rank: int) -> list[int]:
    return [int(axis) % rank for axis in axes]


def _spatial(facts: _Facts) -> int | None:
    """Which of a convolution's or pooling's spatial dimensions holds the rows."""
    axis = facts.rows()
    if axis is None or axis < 2 or facts.get("kernel_shape", None) is None or facts.get("pads", None) is None:
        return None
    return axis - 2


def _conv(facts: _Facts) -> RowWise | None:
    spatial = _spatial(facts)
    if spatial is None:
        return None
    reads = window(facts.node, spatial)
    pads = facts.get("pads", None)
    given = (facts.shape()[spatial + 2] + pads[spatial] + pads[spatial + len(pads) // 2] - reads.extent) // reads.stride
    if given + 1 != facts.out[spatial + 2] or facts.get("ceil_mode", 0):
        return None
    image, *others = facts.tensors.activations(facts.node)
    if image != facts.node.input[0] or any(math.prod(facts.tensors.shapes[name]) != 1 for name in others):
        return None  # weights that are computed; a zero point that is computed is read whole
    return RowWise(spatial + 2, {image: reads, **dict.fromkeys(others, EVERYTHING)})


def _conv_transpose(facts: _Facts) -> RowWise | None:
    spatial = _spatial(facts)
    if spatial is None:
        return None
    reads = window(facts.node, spatial)
    return facts.one(spatial + 2, Spread(reads.extent, reads.stride, reads.pad_top))


def _elementwise(facts: _Facts) -> RowWise | None:
    """Broadcasting: an input of one row, or without the dimension, is read whole by every row."""
    node, out = facts.node, facts.out
    if node.op_type == "BatchNormalization":
        frozen = facts.get("training_mode", 0) == 0 and facts.get("spatial", 1) == 1
        axis = facts.rows()
        return facts.one(axis) if frozen and axis is not None and axis != 1 else None
    if node.op_type == "Dropout" and len(node.input) > 2 and bool(facts.argument(2, "training_mode")):
        return None
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        axis, scale = facts.rows(), facts.shape(1)
        along = facts.get("axis", 1) % max(len(out), 1)
        return facts.one(axis) if axis is not None and (math.prod(scale) == 1 or along != axis) else None
    places = {
        place
        for i in range(len(node.input))
        if (own := facts.rows(i)) is not None
        and facts.shape(i)[own] == out[place := own + len(out) - len(facts.shape(i))]
    }
    if not places:
        return None
    axis = min(places, key=lambda a: (-out[a], a))
    reads: dict[str, RowMap] = {}
    for i, name in enumerate(node.input):
        if not name or name in facts.tensors.constants:
            if name and name not in facts.tensors.shapes:
                return None
            continue
        own = facts.rows(i)
        same = own is not None and own + len(out) - len(facts.shape(i)) == axis
        if same and facts.shape(i)[own or 0] == out[axis]:
            reads[name] = ROW_BY_ROW
        elif _aligned(facts, i, axis) == 1:
            reads[name] = EVERYTHING
        else:
            return None
    return RowWise(axis, reads) if any(isinstance(r, Window) for r in reads.values()) else None


def _aligned(facts: _Facts, position: int, axis: int) -> int:
    """Size of an input where the output has its dimension `axis`; 1 where it has none there."""
    shape = facts.shape(position)
    own = axis - (len(facts.out) - len(shape))
    return shape[own] if own >= 0 else 1


def _concat(facts: _Facts) -> RowWise | None:
    axes = {facts.rows(i) for i, n in enumerate(facts.node.input) if n not in facts.tensors.constants}
    axis = next(iter(axes))
    if len(axes) != 1 or axis is None or facts.get("axis", 1) % len(facts.out) == axis:
        return None
    return RowWise(axis, dict.fromkeys(facts.tensors.activations(facts.node), ROW_BY_ROW))


def _slice(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.shape())
    starts, ends = facts.argument(1, "starts"), facts.argument(2, "ends")
    if axis is None or starts is None or ends is None:
        return None
    given_axes, given_steps = facts.argument(3, "axes"), facts.argument(4, "steps")
    if len(facts.node.input) > 3 and facts.node.input[3] and given_axes is None:
        return None
    axes = _normal(range(len(starts)) if given_axes is None else given_axes, rank)
    steps = [1] * len(axes) if given_steps is None else [int(s) for s in given_steps]
    if axis not in axes:
        return facts.one(axis)
    at, height = axes.index(axis), facts.shape()[axis]
    first, step = int(starts[at]), steps[at]
    if step < 1:
        return None
    first = min(max(first + height if first < 0 else first, 0), height)
    return facts.one(axis, Window(1, step, 1, -first))


def _transpose(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.shape())
    perm = list(facts.get("perm", list(range(rank))[::-1]))
    return None if axis is None or sorted(perm) != list(range(rank)) else facts.one(perm.index(axis))


def _reshape(facts: _Facts) -> RowWise | None:
    """Rows stay rows, become blocks of rows (space to depth), or come apart (depth to space)."""
    axis, before, after = facts.rows(), facts.shape(), facts.out
    if axis is None:
        return None
    height, ahead = before[axis], math.prod(before[:axis])
    places = [b for b in range(len(after)) if math.prod(after[:b]) == ahead]
    for b in places:
        if after[b] == height:
            return facts.one(b)
    for b in places:
        if after[b] > 1 and height % after[b] == 0:
            return facts.one(b, Window(height // after[b], height // after[b]))
        if height > 1 and after[b] % height == 0:
            return facts.one(b, Spread(after[b] // height, after[b] // height))
    return None


def _blocks(facts: _Facts) -> RowWise | None:
    axis, size = facts.rows(), facts.get("blocksize", 1)
    if axis != 2:
        return None
    return facts.one(2, Spread(size, size) if facts.node.op_type == "DepthToSpace" else Window(size, size))


def _resize(facts: _Facts) -> RowWise | None:
    axis = facts.rows()
    if axis is None or facts.get("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        return None
    if facts.get("keep_aspect_ratio_policy", b"stretch") != b"stretch" or facts.shape()[:2] != facts.out[:2]:
        return None
    given = [facts.tensors.value(name) for name in facts.node.input[1:] if name]
    if any(values is None for values in given):
        return None
    return _by_matrix(facts, axis)


def _pad(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.shape())
    pads = facts.argument(1, "pads")
    if axis is None or pads is None:
        return None
    axes = list(range(rank))
    if len(facts.node.input) > 3 and facts.node.input[3]:
        given = facts.tensors.value(facts.node.input[3])
        if given is None:
            return None
        axes = _normal(given, rank)
    top = int(pads[axes.index(axis)]) if axis in axes else 0
    bottom = int(pads[axes.index(axis) + len(axes)]) if axis in axes else 0
    if facts.get("mode", b"constant") == b"constant" or (top == 0 and bottom == 0):
        return facts.one(axis, Window(1, 1, 1, top))
    return _by_matrix(facts, axis)


def _by_matrix(facts: _Facts, axis: int) -> RowWise | None:
    """Read off the operator itself how it makes its rows."""
    matrix = row_matrix(facts.node, facts.tensors, axis, facts.opset)
    if matrix is None or matrix.shape != (facts.out[axis], facts.shape()[axis]):
        return None
    facts.analysis.matrices[facts.node.name] = matrix
    first, last = [], []
    for row in matrix:
        taken = np.flatnonzero(row)
        first.append(int(taken[0]) if len(taken) else 0)
        last.append(int(taken[-1]) if len(taken) else 0)
    return facts.one(axis, Listed(tuple(first), tuple(last)))


def _softmax(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.out)
    along = facts.get("axis", -1 if facts.opset >= 13 else 1) % rank
    if axis is None or axis == along or (facts.opset < 13 and axis > along):
        return None
    return facts.one(axis)


def _layer_norm(facts: _Facts) -> RowWise | None:
    axis = facts.rows()
    return facts.one(axis) if axis is not None and axis < facts.get("axis", -1) % len(facts.out) else None


def _reduce(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.shape())
    given = facts.argument(1, "axes")
    if axis is None or given is None or axis in (axes := _normal(np.ravel(given), rank)):
        return None
    return facts.one(axis if facts.get("keepdims", 1) else axis - sum(a < axis for a in axes))


def _arg(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.shape())
    along = facts.get("axis", 0) % rank
    if axis is None or axis == along:
        return None
    return facts.one(axis if facts.get("keepdims", 1) else axis - (along < axis))


def _matmul(facts: _Facts) -> RowWise | None:
    """A product with a constant matrix on the right."""
    axis = facts.rows()
    right = len(facts.shape(1)) == 2 and facts.node.input[1] in facts.tensors.constants
    return facts.one(axis) if axis is not None and right and axis < len(facts.shape()) - 1 else None


def _gather(facts: _Facts) -> RowWise | None:
    axis, rank = facts.rows(), len(facts.shape())
    along, indices = facts.get("axis", 0) % rank, len(facts.shape(1))
    if axis is None or axis == along or facts.node.input[1] not in facts.tensors.shapes:
        return None
    return facts.one(axis if axis < along else axis + indices - 1)


def _expand(facts: _Facts) -> RowWise | None:
    axis = facts.rows()
    if axis is None or facts.tensors.value(facts.node.input[1]) is None:
        return None
    place = axis + len(facts.out) - len(facts.shape())
    return facts.one(place) if facts.out[place] == facts.shape()[axis] else None


def _tile(facts: _Facts) -> RowWise | None:
    axis = facts.rows()
    repeats = facts.argument(1, "repeats")
    return facts.one(axis) if axis is not None and repeats is not None and int(repeats[axis]) == 1 else None


def _lrn(facts: _Facts) -> RowWise | None:
    axis = facts.rows()
    return facts.one(axis) if axis is not None and axis != 1 else None


RULES: dict[str, Callable[[_Facts], RowWise | None]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(WINDOWED, _conv),
    **dict.fromkeys(LAYOUT - {"Transpose"}, _reshape),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "Concat": _concat,
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Gather": _gather,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Slice": _slice,
    "Tile": _tile,
    "Transpose": _transpose,
}
