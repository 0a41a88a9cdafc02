"""MobileNet v2, width 1.0."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo.weights import initialised, residual_end

_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, output channels, blocks and stride of each stage."""


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter by a depthwise 3x3 one, project linearly; add the input if shapes agree."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        self.adds = stride == 1 and channels == out
        self.expand: nn.Sequential | None = None
        if expansion != 1:
            self.expand = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.depthwise = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, out, 1, bias=False)
        self.bn2 = residual_end(nn.BatchNorm2d(out)) if self.adds else nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, out, H / stride, W / stride)."""
        y: torch.Tensor = x if self.expand is None else self.expand(x)
        y = F.relu6(self.bn1(self.depthwise(y)))
        y = self.bn2(self.project(y))
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """A convolution, 17 inverted residual blocks `block1` .. `block17`, a 1x1 convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.blocks = 0
        channels = 32
        for expansion, out, blocks, stride in _STAGES:
            for i in range(blocks):
                self.blocks += 1
                block = InvertedResidual(channels, out, stride if i == 0 else 1, expansion)
                self.add_module(f"block{self.blocks}", block)
                channels = out
        self.conv2 = nn.Conv2d(channels, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = F.relu6(self.bn1(self.conv1(image)))
        for i in range(1, self.blocks + 1):
            x = self.get_submodule(f"block{i}")(x)
        x = F.relu6(self.bn2(self.conv2(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


ENTRY = ZooEntry(
    name="mobilenet_v2",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
    build=lambda: initialised(MobileNetV2),
)
