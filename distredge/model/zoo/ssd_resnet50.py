"""SSD300 on ResNet-50, for the 80 classes of COCO and the background (NVIDIA's SSD300 v1.1)."""

from __future__ import annotations

import torch

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._conv_chain import Conv, ConvChain
from distredge.model.zoo._resnet import Bottleneck, Trunk
from distredge.model.zoo._ssd import add_heads, detect
from distredge.model.zoo.weights import initialised

_EXTRAS = ((256, 512, 2), (256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))
"""Channels of the 1x1 and 3x3 convolution of `extra1` .. `extra5`, and the latter's stride."""


class SSDResNet50(Trunk):
    """ResNet-50 to `layer3`, which keeps its height and width, 5 pairs of convolutions `extra1` .. and 6 heads."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, (3, 4, 6), (1, 2, 1))
        widths = [self.channels]
        for i, (reduced, out, stride) in enumerate(_EXTRAS, start=1):
            extra = ConvChain(widths[-1], Conv(reduced), Conv(out, 3, stride=stride, padded=stride == 2))
            self.add_module(f"extra{i}", extra)
            widths.append(out)
        add_heads(self, widths, classes=81)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 3, 300, 300) to (1, 8732, 4) boxes and (1, 8732, 81) class scores."""
        maps = [self.features(image)]
        for i in range(1, len(_EXTRAS) + 1):
            maps.append(self.get_submodule(f"extra{i}")(maps[-1]))
        return detect(self, maps)


ENTRY = ZooEntry(
    name="ssd_resnet50",
    task="object detection",
    input_shape=(1, 3, 300, 300),
    paper="Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016 (on ResNet-50: NVIDIA's SSD300 v1.1)",
    build=lambda: initialised(SSDResNet50),
)
