"""Random toy models that several tensors cross: a skip around the trunk, early outputs, a head that joins branches."""

from __future__ import annotations

import numpy as np
import onnx

from distredge.testing.toy_models import Feature, ToyModel


def branchy_model(rng: np.random.Generator) -> onnx.ModelProto:
    """A trunk, wide and narrow in turn, around which its first tensor is carried to the concatenation at its end.

    Now and then the trunk goes on at half the size, and a transposed convolution makes up for it before that.

    Two side branches leave the trunk on the way: the head flattens and joins them, with what the trunk ends in now and
    then; or there is no head and they are outputs themselves. One more output is a feature map, made anywhere. Now and
    then the image, too, is carried to the end or to a side branch, and a tensor has two destinations.
    """
    toy = ToyModel(rng, int(rng.integers(1, 4)), int(rng.integers(8, 33)), int(rng.integers(3, 8)))
    stem = toy.unary(_same(toy, toy.image, int(rng.integers(2, 4))))
    halved = bool(rng.random() < 0.4)
    trunk = [toy.pool(stem) if halved else stem]
    for i in range(int(rng.integers(4, 7))):
        channels = int(rng.integers(5, 8)) if i % 2 else int(rng.integers(1, 4))
        trunk.append(toy.unary(_same(toy, trunk[-1], channels)))
    carried = [stem, toy.image] if rng.random() < 0.3 else [stem]
    end = _doubled(toy, trunk[-1], stem) if halved else trunk[-1]
    last = toy.unary(_same(toy, toy.concat([end, *carried]), 3))
    first, second = sorted(rng.choice(np.arange(1, len(trunk)), 2, replace=False))
    joined = not halved and rng.random() < 0.3
    sides = [_side(toy, toy.concat([trunk[first], toy.image]) if joined else trunk[first]), _side(toy, trunk[second])]
    feature = (_side(toy, last), last, trunk[int(rng.integers(1, len(trunk)))])[int(rng.integers(3))]
    outputs: list[Feature | str] = [feature]
    if rng.random() < 0.25:
        outputs += sides
    else:
        if rng.random() < 0.3:
            outputs.append(sides[0])
        outputs.append(_head(toy, [*sides, last] if rng.random() < 0.5 else sides))
    if last.tensor != feature.tensor:
        outputs.append(last)
    return toy.finish(*outputs)


def _same(toy: ToyModel, x: Feature, channels: int) -> Feature:
    """A convolution of stride 1 that keeps the size."""
    half = int(toy.rng.integers(3))
    return toy.conv(x, channels, kernel=(2 * half + 1, 3), pads=(half, 1, half, 1))


def _doubled(toy: ToyModel, x: Feature, like: Feature) -> Feature:
    """A transposed convolution of stride 2 to the size of `like`."""
    kernel = (2 + like.height % 2, 2 + like.width % 2)
    weight = toy.constant((x.channels, x.channels, *kernel), spread=0.5)
    tensor = toy.node("ConvTranspose", [x.tensor, weight], kernel_shape=kernel, strides=[2, 2])
    return like._replace(tensor=tensor, channels=x.channels)


def _side(toy: ToyModel, x: Feature) -> Feature:
    """A convolution to few rows or many."""
    return toy.conv(x, 2, kernel=(3, 3), stride=int(toy.rng.integers(1, 5)), pads=(1, 1, 1, 1))


def _head(toy: ToyModel, parts: list[Feature]) -> str:
    """The parts flattened and joined, with a fully connected layer behind them now and then."""
    flat = toy.node("Concat", [toy.node("Flatten", [part.tensor], axis=1) for part in parts], axis=1)
    if toy.rng.random() < 0.5:
        return flat
    features = sum(part.channels * part.height * part.width for part in parts)
    weight = toy.constant((4, features), spread=(3.0 / features) ** 0.5)
    return toy.node("Gemm", [flat, weight, toy.constant((4,))], "fc", transB=1)
