"""DenseNet-121."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo.weights import initialised

_BLOCKS = (6, 12, 24, 16)
"""Layers of each dense block."""
_GROWTH = 32
"""Channels that a layer adds."""


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, each after batch norm and ReLU, whose output is concatenated to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * _GROWTH, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * _GROWTH)
        self.conv2 = nn.Conv2d(4 * _GROWTH, _GROWTH, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, C + 32, H, W): the output carries all that earlier layers of the block made."""
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        return torch.cat([x, y], dim=1)


class Transition(nn.Module):
    """A 1x1 convolution that halves the channels, and a pooling that halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, C / 2, H / 2, W / 2)."""
        return self.pool(self.conv(F.relu(self.bn(x))))  # type: ignore[no-any-return]


class DenseNet121(nn.Module):
    """A convolution, a pooling, 58 layers `dense1.layer1` .. `dense4.layer16`, 3 transitions, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for i, layers in enumerate(_BLOCKS, start=1):
            block = nn.Sequential()
            for j in range(1, layers + 1):
                block.add_module(f"layer{j}", DenseLayer(channels))
                channels += _GROWTH
            self.add_module(f"dense{i}", block)
            if i < len(_BLOCKS):
                self.add_module(f"transition{i}", Transition(channels))
                channels //= 2
        self.bn5 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(image))))
        for name, module in self.named_children():
            if name.startswith(("dense", "transition")):
                x = module(x)
        x = self.avgpool(F.relu(self.bn5(x)))
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


ENTRY = ZooEntry(
    name="densenet121",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
    build=lambda: initialised(DenseNet121),
)
