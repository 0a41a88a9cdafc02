"""OpenPose's body model of 18 parts (COCO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._vgg import add_convs, run_chain
from distredge.model.zoo.weights import initialised

_BACKBONE = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 256, 128))
"""Channels of VGG-19's first ten convolutions and of the two that follow them."""
_FEATURES, _PAFS, _HEATMAPS = 128, 38, 19
_FIRST = ((128, 3), (128, 3), (128, 3), (512, 1))
_LATER = ((128, 7), (128, 7), (128, 7), (128, 7), (128, 7), (128, 1))
"""Channels and kernels of a branch's convolutions but the last, in the first stage and in the later ones."""
_STAGES = 6


class Branch(nn.Module):
    """Convolutions `conv1`, `conv2`, .. each with ReLU, and a 1x1 one without."""

    def __init__(self, channels: int, convs: Sequence[tuple[int, int]], out: int) -> None:
        super().__init__()
        self.last = len(convs) + 1
        for i, (width, kernel) in enumerate((*convs, (out, 1)), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, width, kernel, padding=kernel // 2))
            channels = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, out, H, W)."""
        for i in range(1, self.last):
            x = F.relu(self.get_submodule(f"conv{i}")(x))
        return self.get_submodule(f"conv{self.last}")(x)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A branch `paf` for the limbs' affinity fields and a branch `heatmap` for the parts' confidences.

    From the second on, a stage sees what the stage before it found, beside the features.
    """

    def __init__(self, channels: int, convs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.paf = Branch(channels, convs, _PAFS)
        self.heatmap = Branch(channels, convs, _HEATMAPS)

    def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps of (1, any, H, W), concatenated, to (1, 38, H, W) and (1, 19, H, W)."""
        x = torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]
        return self.paf(x), self.heatmap(x)


class OpenPose(nn.Module):
    """Convolutions `conv1_1` .. `conv4_4`, poolings `pool1` .. `pool3` and `stage1` .. `stage6`."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for i, widths in enumerate(_BACKBONE, start=1):
            add_convs(self, i, channels, widths)
            if i < len(_BACKBONE):
                self.add_module(f"pool{i}", nn.MaxPool2d(2))
            channels = widths[-1]
        self.stage1 = Stage(_FEATURES, _FIRST)
        for i in range(2, _STAGES + 1):
            self.add_module(f"stage{i}", Stage(_PAFS + _HEATMAPS + _FEATURES, _LATER))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 3, 368, 368) to (1, 38, 46, 46) affinity fields and (1, 19, 46, 46) confidences of the last stage."""
        features = run_chain(self, image)["conv4_4"]
        pafs, heatmaps = self.stage1(features)
        for i in range(2, _STAGES + 1):
            pafs, heatmaps = self.get_submodule(f"stage{i}")(pafs, heatmaps, features)
        return pafs, heatmaps


ENTRY = ZooEntry(
    name="openpose",
    task="pose detection",
    input_shape=(1, 3, 368, 368),
    paper="Cao et al., Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields, CVPR 2017",
    build=lambda: initialised(OpenPose),
)
