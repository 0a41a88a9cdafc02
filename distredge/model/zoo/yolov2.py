"""YOLOv2 for the 80 classes of COCO."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo.weights import initialised

_STAGES = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
"""Channels of each stage's convolutions, 3x3 and 1x1 in turn; a pooling stands between two stages."""
_BOXES, _CLASSES = 5, 80


class ConvNorm(nn.Module):
    """A convolution `conv` without bias, batch norm `bn` and leaky ReLU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, out, H, W)."""
        return F.leaky_relu(self.bn(self.conv(x)), 0.1)


class Reorg(nn.Module):
    """Moves each 2x2 square of places into the channels, in the order of ONNX's and TensorFlow's space-to-depth."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, 4 * C, H / 2, W / 2)."""
        _, channels, height, width = x.shape
        x = x.reshape(1, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(1, 4 * channels, height // 2, width // 2)


class YOLOv2(nn.Module):
    """Darknet-19's 18 convolutions `conv1_1` .. `conv6_5`, two more, a passthrough of `conv5_5`, and the detector."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for stage, widths in enumerate(_STAGES, start=1):
            for i, width in enumerate(widths, start=1):
                self.add_module(f"conv{stage}_{i}", ConvNorm(channels, width, 3 if i % 2 else 1))
                channels = width
            if stage < len(_STAGES):
                self.add_module(f"pool{stage}", nn.MaxPool2d(2))
        self.conv7_1 = ConvNorm(1024, 1024, 3)
        self.conv7_2 = ConvNorm(1024, 1024, 3)
        self.passthrough = ConvNorm(512, 64, 1)
        self.reorg = Reorg()
        self.conv8 = ConvNorm(4 * 64 + 1024, 1024, 3)
        self.detect = nn.Conv2d(1024, _BOXES * (5 + _CLASSES), 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 416, 416) to (1, 425, 13, 13): for each of 5 boxes its place, its confidence and class scores."""
        x = fine = image
        for name, module in self.named_children():
            if name == "passthrough":
                break
            x = module(x)
            if name == "conv5_5":
                fine = x
        fine = self.reorg(self.passthrough(fine))
        return self.detect(self.conv8(torch.cat([fine, x], dim=1)))  # type: ignore[no-any-return]


ENTRY = ZooEntry(
    name="yolov2",
    task="object detection",
    input_shape=(1, 3, 416, 416),
    paper="Redmon and Farhadi, YOLO9000: Better, Faster, Stronger, CVPR 2017",
    build=lambda: initialised(YOLOv2),
)
