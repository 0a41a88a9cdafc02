"""What the ResNets and the detector built on one share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo.weights import residual_end

_WIDTHS = (64, 128, 256, 512)
"""Inner channels of the blocks of each stage."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added, projected where its shape differs."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = residual_end(nn.BatchNorm2d(width))
        self.downsample = _projection(channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around which the input is added, projected where its shape differs.

    The 3x3 convolution carries the stride (version 1.5).
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = residual_end(nn.BatchNorm2d(out))
        self.downsample = _projection(channels, out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, 4 * width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Trunk(nn.Module):
    """A 7x7 convolution, a pooling and stages of blocks `layer1.0`, `layer1.1`, ..

    `blocks` and `strides` hold the number of blocks and the stride of each stage.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], blocks: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = len(blocks)
        self.channels = 64
        for stage, (width, count, stride) in enumerate(zip(_WIDTHS, blocks, strides, strict=False), start=1):
            layer = nn.Sequential()
            for i in range(count):
                layer.append(block(self.channels, width, stride if i == 0 else 1))
                self.channels = width * block.expansion
            self.add_module(f"layer{stage}", layer)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) to what the last block gives."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(image))))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x  # type: ignore[no-any-return]


class ResNet(Trunk):
    """Four stages of `blocks` blocks and a classifier."""

    def __init__(self, block: type[BasicBlock | Bottleneck], blocks: Sequence[int]) -> None:
        super().__init__(block, blocks, (1, 2, 2, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        return self.fc(torch.flatten(self.avgpool(self.features(image)), 1))  # type: ignore[no-any-return]


def _projection(channels: int, out: int, stride: int) -> nn.Sequential | None:
    """The 1x1 convolution that gives a block's input the shape of its output; None where it has it."""
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
