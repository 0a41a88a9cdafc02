"""Random small CNNs with every row-wise operator, every awkward border, and what cannot be split by rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

from distredge.testing.toy_models import Feature, ToyModel


def random_model(rng: np.random.Generator, head: bool | None = None) -> onnx.ModelProto:
    """A random small CNN of 5 to 40 rows, maybe with a passthrough or a second output; `head` None: maybe with one."""
    toy = ToyModel(rng, int(rng.integers(1, 5)), int(rng.integers(5, 41)), int(rng.integers(4, 11)))
    x = toy.image
    steps = (_conv, _conv, _conv, _pool, _pool, _elementwise, _residual, _branches, *_OTHERS)
    first = int(rng.integers(0, 3))
    made: list[Feature] = []
    for i in range(int(rng.integers(first + 1, 7))):
        step = _conv if i == first or x.height > 60 else steps[int(rng.integers(len(steps)))]
        x = step(toy, x)
        made.append(x)
    x = _passthrough(toy, made) if rng.random() < 0.3 else x
    with_head = rng.random() < 0.5 if head is None else head
    outputs = [toy.classifier(x, pooled=bool(rng.random() < 0.5)) if with_head else x]
    side = made[int(rng.integers(len(made)))]
    if rng.random() < 0.3 and side.tensor not in outputs and side.tensor != x.tensor:
        outputs.append(_side_output(toy, side))
    return toy.finish(*outputs)


def _fits(x: Feature, kernel: tuple[int, int], dilation: int, pads: tuple[int, int, int, int]) -> bool:
    """Whether a window fits at least once."""
    return all(
        size + before + after > (k - 1) * dilation
        for size, k, before, after in zip((x.height, x.width), kernel, pads[:2], pads[2:], strict=True)
    )


def _begins_beyond(x: Feature, kernel: tuple[int, int], stride: int, pads: tuple[int, int, int, int]) -> bool:
    """Whether ceil mode would begin a window in the padding at the end.

    That window does not count, but the shape inference with which ONNX Runtime loads a model counts it, and
    refuses what does not fit the wrong shape.
    """
    return any(
        -(-(size + before + after - k) // stride) * stride >= size + before
        for size, k, before, after in zip((x.height, x.width), kernel, pads[:2], pads[2:], strict=True)
    )


def _pick(rng: np.random.Generator, *values: int) -> int:
    return int(values[int(rng.integers(len(values)))])


def _conv(toy: ToyModel, x: Feature) -> Feature:
    """Any convolution: strided, dilated, grouped, padded unevenly, now and then by more than its kernel."""
    rng = toy.rng
    kernel = (_pick(rng, 1, 2, 3, 3, 4, 5), _pick(rng, 1, 3))
    stride, dilation = _pick(rng, 1, 1, 1, 2, 3), _pick(rng, 1, 1, 2)
    limit = kernel[0] + 2 if rng.random() < 0.1 else kernel[0]
    pads = (int(rng.integers(limit)), _pick(rng, 0, 1), int(rng.integers(limit)), _pick(rng, 0, 1))
    if not _fits(x, kernel, dilation, pads):
        kernel, stride, dilation, pads = (3, 3), 1, 1, (1, 1, 1, 1)
    groups = x.channels if rng.random() < 0.25 else 1
    y = toy.conv(x, x.channels * _pick(rng, 1, 2), kernel, stride, dilation, groups, pads)
    if rng.random() < 0.4:
        y = toy.norm(y)
    return toy.unary(y, ("Relu", "Sigmoid", "HardSwish")[int(rng.integers(3))]) if rng.random() < 0.6 else y


def _pool(toy: ToyModel, x: Feature) -> Feature:
    """A pooling, with ceil mode and padding now and then."""
    rng = toy.rng
    kernel, stride = (_pick(rng, 2, 3), _pick(rng, 1, 2)), _pick(rng, 1, 2, 2, 3)
    pads = (int(rng.integers(kernel[0])), 0, int(rng.integers(kernel[0])), 0)
    if not _fits(x, kernel, 1, pads):
        return _conv(toy, x)
    ceil = bool(rng.random() < 0.5) and not _begins_beyond(x, kernel, stride, pads)
    if rng.random() < 0.5:
        return toy.pool(x, "MaxPool", kernel, stride, pads, ceil)
    return toy.pool(
        x, "AveragePool", kernel, stride, pads, ceil, count_include_pad=int(not ceil and rng.random() < 0.5)
    )


def _elementwise(toy: ToyModel, x: Feature) -> Feature:
    """Operators that join the layer before them, or make one of their own on the image."""
    choices: tuple[Callable[[], Feature], ...] = (
        lambda: toy.unary(x, "LeakyRelu", alpha=0.1),
        lambda: toy.norm(x),
        lambda: toy.binary(x, toy.constant((x.channels, 1, 1)), "Mul"),
        lambda: toy.binary(x, toy.constant((x.width,))),
        lambda: x._replace(tensor=toy.node("PRelu", [x.tensor, toy.constant((x.channels, 1, 1))])),
        lambda: toy.binary(x, x),
    )
    return choices[int(toy.rng.integers(len(choices)))]()


def _residual(toy: ToyModel, x: Feature) -> Feature:
    """A block around which its input is added or multiplied, projected now and then."""
    rng = toy.rng
    op = ("Add", "Add", "Mul")[int(rng.integers(3))]
    stride = _pick(rng, 1, 1, 2)
    y = toy.unary(toy.conv(x, x.channels, stride=stride, pads=(1, 1, 1, 1)))
    y = toy.conv(y, x.channels, kernel=(3, 1), pads=(2, 0, 0, 0)) if rng.random() < 0.5 else y
    skip = toy.conv(x, x.channels, kernel=(1, 1), stride=stride) if stride > 1 or rng.random() < 0.3 else x
    pair = (y, skip) if rng.random() < 0.5 else (skip, y)
    z = toy.binary(*pair, op)
    return toy.unary(z) if rng.random() < 0.5 else z


def _branches(toy: ToyModel, x: Feature) -> Feature:
    """Two or three branches side by side, joined along the channels."""
    rng = toy.rng
    stride = _pick(rng, 1, 1, 2)
    parts = [
        toy.unary(toy.conv(x, 2, kernel=(1, 1), stride=stride)),
        toy.conv(x, 3, kernel=(3, 3), stride=stride, pads=(1, 1, 1, 1)),
    ]
    if rng.random() < 0.4:
        parts.append(toy.pool(x, "MaxPool", (3, 3), stride, (1, 1, 1, 1)))
    elif stride == 1 and rng.random() < 0.5:
        parts.append(x)
    return toy.concat(parts)


def _deconv(toy: ToyModel, x: Feature) -> Feature:
    """A transposed convolution, its stride now and then over its kernel."""
    rng = toy.rng
    kernel, stride = _pick(rng, 1, 2, 3, 4), _pick(rng, 1, 2, 2, 3)
    pad = int(rng.integers(0, kernel))
    if (min(x.height, x.width) - 1) * stride + kernel <= 2 * pad:
        pad = 0
    return toy.deconv(x, _pick(rng, 1, 2, 3), kernel, stride, pad, int(rng.integers(0, stride)))


def _resize(toy: ToyModel, x: Feature) -> Feature:
    """Nearest, linear or cubic, to a size or by a scale, in any of the ways to count coordinates."""
    rng = toy.rng
    mode = ("nearest", "nearest", "linear", "cubic")[int(rng.integers(4))]
    ways = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    attributes = {"mode": mode, "coordinate_transformation_mode": ways[int(rng.integers(len(ways)))]}
    if mode == "nearest":
        attributes["nearest_mode"] = ("floor", "ceil", "round_prefer_floor")[int(rng.integers(3))]
    height, width = (max(2, round(size * float(rng.uniform(0.6, 2.2)))) for size in (x.height, x.width))
    sizes = toy.numbers([1, x.channels, height, width])
    return Feature(toy.node("Resize", [x.tensor, "", "", sizes], **attributes), x.channels, height, width)


def _pad(toy: ToyModel, x: Feature) -> Feature:
    """Constants, the border or a reflection around the map."""
    rng = toy.rng
    mode = ("constant", "constant", "edge", "reflect")[int(rng.integers(4 if min(x.height, x.width) > 2 else 3))]
    top, left, bottom, right = (int(n) for n in rng.integers(0, 3, 4))
    sizes = toy.numbers([0, 0, top, left, 0, 0, bottom, right])
    inputs = [x.tensor, sizes] + ([toy.constant(())] if mode == "constant" else [])
    tensor = toy.node("Pad", inputs, mode=mode)
    return Feature(tensor, x.channels, x.height + top + bottom, x.width + left + right)


def _blocks(toy: ToyModel, x: Feature) -> Feature:
    """Rows into channels, or channels into rows."""
    if x.height % 2 == 0 and x.width % 2 == 0:
        tensor = toy.node("SpaceToDepth", [x.tensor], blocksize=2)
        return toy.conv(Feature(tensor, x.channels * 4, x.height // 2, x.width // 2), 3, kernel=(1, 1))
    deep = toy.conv(x, 8, kernel=(1, 1))
    tensor = toy.node("DepthToSpace", [deep.tensor], blocksize=2, mode="CRD" if toy.rng.random() < 0.5 else "DCR")
    return Feature(tensor, 2, x.height * 2, x.width * 2)


def _shuffle(toy: ToyModel, x: Feature) -> Feature:
    """Channels in another order, by reshaping and transposing."""
    x = toy.conv(x, 6, kernel=(1, 1))
    apart = toy.node("Reshape", [x.tensor, toy.numbers([1, 2, 3, x.height, x.width])])
    mixed = toy.node("Transpose", [apart], perm=[0, 2, 1, 3, 4])
    return x._replace(tensor=toy.node("Reshape", [mixed, toy.numbers([1, 6, x.height, x.width])]))


def _gate(toy: ToyModel, x: Feature) -> Feature:
    """Squeeze and excite: every row depends on all rows."""
    squeezed = Feature(toy.node("GlobalAveragePool", [x.tensor]), x.channels, 1, 1)
    gate = toy.unary(toy.conv(squeezed, x.channels, kernel=(1, 1)), "Sigmoid")
    return toy.binary(x, gate, "Mul")


def _normalised(toy: ToyModel, x: Feature) -> Feature:
    """Statistics over the whole map."""
    size = (x.channels,)
    return x._replace(tensor=toy.node("InstanceNormalization", [x.tensor, toy.constant(size, 1.0), toy.constant(size)]))


def _split(toy: ToyModel, x: Feature) -> Feature:
    """Channels apart, one half changed, and together again."""
    x = toy.conv(x, 4, kernel=(1, 1))
    toy.nodes.append(helper.make_node("Split", [x.tensor], [f"{x.tensor}_{i}" for i in "ab"], f"{x.tensor}_split",
                                      axis=1, num_outputs=2))  # fmt: skip
    halves = [x._replace(tensor=f"{x.tensor}_{i}", channels=2) for i in "ab"]
    return toy.concat([halves[1], toy.conv(halves[0], 2, pads=(1, 1, 1, 1))])


def _every_second(toy: ToyModel, x: Feature) -> Feature:
    """Slices of the rows: every second, joined along the channels."""
    if x.height < 6 or x.height % 2:
        return _conv(toy, x)
    ends, axes, steps = toy.numbers([x.height]), toy.numbers([2]), toy.numbers([2])
    parts = [
        Feature(toy.node("Slice", [x.tensor, toy.numbers([i]), ends, axes, steps]), x.channels, x.height // 2, x.width)
        for i in range(2)
    ]
    return toy.conv(toy.concat(parts), 3, kernel=(1, 1))


def _by_row(toy: ToyModel, x: Feature) -> Feature:
    """A constant that differs from row to row."""
    return toy.binary(x, toy.constant((x.height, 1)))


def _softmax(toy: ToyModel, x: Feature) -> Feature:
    """Over the channels, or over the width."""
    return toy.unary(x, "Softmax", axis=1 if toy.rng.random() < 0.5 else 3)


_OTHERS = (_deconv, _resize, _pad, _blocks, _shuffle, _gate, _normalised, _split, _every_second, _by_row, _softmax)


def _passthrough(toy: ToyModel, made: Sequence[Feature]) -> Feature:
    """The last feature map joined with an earlier one that is brought to its size."""
    x, early = made[-1], made[int(toy.rng.integers(len(made)))]
    if early.tensor == x.tensor:
        return x
    sizes = toy.numbers([1, early.channels, x.height, x.width])
    return toy.concat([x, early._replace(tensor=toy.node("Resize", [early.tensor, "", "", sizes], mode="nearest"))])


def _side_output(toy: ToyModel, x: Feature) -> Feature | str:
    """A detector's output of a feature map, as it is or flattened."""
    x = toy.conv(x, 2, pads=(1, 1, 1, 1))
    if toy.rng.random() < 0.5:
        return x
    return toy.node("Flatten", [toy.node("Transpose", [x.tensor], perm=[0, 2, 3, 1])])
