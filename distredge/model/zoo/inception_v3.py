"""Inception v3 without its auxiliary classifier."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._conv_chain import Branches, Conv, ConvChain
from distredge.model.zoo.weights import initialised

_Chain = partial(ConvChain, eps=1e-3)


class Forked(nn.Module):
    """A chain of convolutions after which a 1x3 and a 3x1 one stand side by side."""

    def __init__(self, channels: int, *convs: Conv) -> None:
        super().__init__()
        self.stem = _Chain(channels, *convs)
        self.ends = Branches(wide=_Chain(384, Conv(384, (1, 3))), tall=_Chain(384, Conv(384, (3, 1))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, 768, H, W)."""
        return self.ends(self.stem(x))  # type: ignore[no-any-return]


class InceptionV3(nn.Module):
    """Five convolutions, 11 blocks `mixed_5b` .. `mixed_7c`, 2 poolings among them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = _Chain(3, Conv(32, 3, stride=2, padded=False), Conv(32, 3, padded=False), Conv(64, 3))
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.stem2 = _Chain(64, Conv(80), Conv(192, 3, padded=False))
        self.pool2 = nn.MaxPool2d(3, stride=2)
        self.mixed_5b = _square(192, pooled=32)
        self.mixed_5c = _square(256, pooled=64)
        self.mixed_5d = _square(288, pooled=64)
        self.mixed_6a = Branches(
            branch3x3=_Chain(288, Conv(384, 3, stride=2, padded=False)),
            branch3x3dbl=_Chain(288, Conv(64), Conv(96, 3), Conv(96, 3, stride=2, padded=False)),
            branch_pool=nn.MaxPool2d(3, stride=2),
        )
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            self.add_module(f"mixed_{name}", _factorised(width))
        self.mixed_7a = Branches(
            branch3x3=_Chain(768, Conv(192), Conv(320, 3, stride=2, padded=False)),
            branch7x7x3=_Chain(
                768, Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, stride=2, padded=False)
            ),
            branch_pool=nn.MaxPool2d(3, stride=2),
        )
        self.mixed_7b = _forked(1280)
        self.mixed_7c = _forked(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 299, 299) to (1, 1000) class scores."""
        x = image
        for name, module in self.named_children():
            if name != "fc":
                x = module(x)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def _square(channels: int, pooled: int) -> Branches:
    """A block of square kernels (figure 5 of the paper)."""
    return Branches(
        branch1x1=_Chain(channels, Conv(64)),
        branch5x5=_Chain(channels, Conv(48), Conv(64, 5)),
        branch3x3dbl=_Chain(channels, Conv(64), Conv(96, 3), Conv(96, 3)),
        branch_pool=_Chain(channels, Conv(pooled), pool=_averaging()),
    )


def _factorised(width: int) -> Branches:
    """A block whose 7x7 kernels are factorised into 1x7 and 7x1 ones of `width` channels (figure 6)."""
    wide, tall = Conv(width, (1, 7)), Conv(width, (7, 1))
    return Branches(
        branch1x1=_Chain(768, Conv(192)),
        branch7x7=_Chain(768, Conv(width), wide, Conv(192, (7, 1))),
        branch7x7dbl=_Chain(768, Conv(width), tall, wide, tall, Conv(192, (1, 7))),
        branch_pool=_Chain(768, Conv(192), pool=_averaging()),
    )


def _forked(channels: int) -> Branches:
    """A block whose 3x3 kernels end in 1x3 and 3x1 ones side by side (figure 7)."""
    return Branches(
        branch1x1=_Chain(channels, Conv(320)),
        branch3x3=Forked(channels, Conv(384)),
        branch3x3dbl=Forked(channels, Conv(448), Conv(384, 3)),
        branch_pool=_Chain(channels, Conv(192), pool=_averaging()),
    )


def _averaging() -> nn.AvgPool2d:
    """The pooling that begins a branch; it counts the padding, as in PyTorch's published weights."""
    return nn.AvgPool2d(3, stride=1, padding=1)


ENTRY = ZooEntry(
    name="inception_v3",
    task="image classification",
    input_shape=(1, 3, 299, 299),
    paper="Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016",
    build=lambda: initialised(InceptionV3),
)
