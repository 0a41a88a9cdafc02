"""VoxelNet for cars, from the convolutional middle layers on: its input is the dense grid of voxel features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._conv_chain import Conv, ConvChain
from distredge.model.zoo.weights import initialised

_MIDDLE = ((2, 1), (1, 0), (2, 1))
"""Stride and padding along the depth of each middle layer."""
_BLOCKS = ((128, 3), (128, 5), (256, 5))
"""Channels of each block's convolutions, and how many follow the first, which halves height and width."""
_UPS = ((3, 1, 1), (2, 2, 0), (4, 4, 0))
"""Kernel, stride and padding of the transposed convolution after each block."""


class Middle(nn.Module):
    """3-D convolutions `conv1` .. `conv3`, each with batch norm and ReLU, that leave two layers of depth."""

    def __init__(self) -> None:
        super().__init__()
        channels = 128
        for i, (stride, padding) in enumerate(_MIDDLE, start=1):
            conv = nn.Conv3d(channels, 64, 3, stride=(stride, 1, 1), padding=(padding, 1, 1), bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm3d(64))
            channels = 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 128, 10, H, W) to (1, 128, H, W): the depth that is left becomes channels."""
        for i in range(1, len(_MIDDLE) + 1):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        return x.flatten(1, 2)


class Up(nn.Module):
    """A transposed convolution with batch norm and ReLU."""

    def __init__(self, channels: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(channels, 256, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, 256, H * stride, W * stride)."""
        return F.relu(self.bn(self.deconv(x)))


class VoxelNet(nn.Module):
    """The layers `middle`, and a region proposal network: `block1` .. `block3`, `up1` .. `up3` after each, 2 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = Middle()
        channels = 128
        for i, ((width, more), (kernel, stride, padding)) in enumerate(zip(_BLOCKS, _UPS, strict=True), start=1):
            block = ConvChain(channels, Conv(width, 3, stride=2), *[Conv(width, 3)] * more)
            self.add_module(f"block{i}", block)
            self.add_module(f"up{i}", Up(width, kernel, stride, padding))
            channels = width
        self.score = nn.Conv2d(3 * 256, 2, 1)
        self.regression = nn.Conv2d(3 * 256, 14, 1)

    def forward(self, voxels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 128, 10, 400, 352) to (1, 2, 200, 176) scores and (1, 14, 200, 176) boxes of two anchors per place."""
        x = self.middle(voxels)
        ups = []
        for i in range(1, len(_BLOCKS) + 1):
            x = self.get_submodule(f"block{i}")(x)
            ups.append(self.get_submodule(f"up{i}")(x))
        x = torch.cat(ups, dim=1)
        return self.score(x), self.regression(x)


ENTRY = ZooEntry(
    name="voxelnet",
    task="3-D object detection",
    input_shape=(1, 128, 10, 400, 352),
    paper="Zhou and Tuzel, VoxelNet: End-to-End Learning for Point Cloud Based 3D Object Detection, CVPR 2018",
    build=lambda: initialised(VoxelNet),
)
