"""SqueezeNet 1.1."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo.weights import initialised

_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Squeezed channels and channels of each expansion, `fire2` .. `fire9`."""


class Fire(nn.Module):
    """A 1x1 convolution that squeezes the channels, then a 1x1 and a 3x3 one side by side that expand them."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, 2 * expanded, H, W)."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


class SqueezeNet(nn.Module):
    """A convolution, 8 fire modules with 3 poolings among them, and a 1x1 convolution as classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 64
        for i, (squeezed, expanded) in enumerate(_FIRES, start=2):
            self.add_module(f"fire{i}", Fire(channels, squeezed, expanded))
            channels = 2 * expanded
            if i in (3, 5):
                self.add_module(f"pool{i}", nn.MaxPool2d(3, stride=2, ceil_mode=True))
        self.conv10 = nn.Conv2d(channels, 1000, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = self.pool1(F.relu(self.conv1(image)))
        for name, module in self.named_children():
            if name.startswith(("fire", "pool")) and name != "pool1":
                x = module(x)
        return torch.flatten(self.avgpool(F.relu(self.conv10(x))), 1)


ENTRY = ZooEntry(
    name="squeezenet1_1",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016 (version 1.1)",
    build=lambda: initialised(SqueezeNet),
)
