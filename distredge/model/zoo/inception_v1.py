"""Inception v1 (GoogLeNet) with batch norm, as trained nowadays: no auxiliary classifiers, 3x3 in place of 5x5."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._conv_chain import Branches, Conv, ConvChain
from distredge.model.zoo.weights import initialised

_BLOCKS = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
"""Channels of the four branches of each block: 1x1; reduced and 3x3, twice; after the pooling."""

_Chain = partial(ConvChain, eps=1e-3)


class InceptionV1(nn.Module):
    """Three convolutions, 9 blocks `inception_3a` .. `inception_5b`, 4 poolings among them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = _Chain(3, Conv(64, 7, stride=2))
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.stem2 = _Chain(64, Conv(64), Conv(192, 3))
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 192
        for name, (single, (reduced3, out3), (reduced5, out5), pooled) in _BLOCKS.items():
            block = Branches(
                branch1=_Chain(channels, Conv(single)),
                branch2=_Chain(channels, Conv(reduced3), Conv(out3, 3)),
                branch3=_Chain(channels, Conv(reduced5), Conv(out5, 3)),
                branch4=_Chain(channels, Conv(pooled), pool=nn.MaxPool2d(3, stride=1, padding=1)),
            )
            self.add_module(f"inception_{name}", block)
            channels = single + out3 + out5 + pooled
            if name == "3b":
                self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            elif name == "4e":
                self.pool4 = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = image
        for name, module in self.named_children():
            if name != "fc":
                x = module(x)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


ENTRY = ZooEntry(
    name="inception_v1",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Szegedy et al., Going Deeper with Convolutions, CVPR 2015",
    build=lambda: initialised(InceptionV1),
)
