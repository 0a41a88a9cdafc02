"""SSD300 on VGG-16, for the 20 classes of VOC and the background."""

from __future__ import annotations

import torch
from torch import nn

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._ssd import add_heads, detect
from distredge.model.zoo._vgg import add_convs, run_chain
from distredge.model.zoo.weights import initialised

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of VGG-16's stages."""
_EXTRAS = ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))
"""Channels of the 1x1 and 3x3 convolution of `conv8` .. `conv11`, and the latter's stride."""


class L2Norm(nn.Module):
    """Scales each place's channels to length 1 and each channel by a learnt factor."""

    epsilon: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.register_buffer("epsilon", torch.empty(()))  # no number, which would be exported as a node of its own

    def reset_parameters(self) -> None:
        """The scale that training begins with, and what keeps zeros from being divided by zero."""
        nn.init.constant_(self.scale, 20.0)
        nn.init.constant_(self.epsilon, 1e-10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to the same shape."""
        length: torch.Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x / (length + self.epsilon) * self.scale


class SSDVGG16(nn.Module):
    """VGG-16 to `conv5_3`, its fully connected layers as `conv6` and `conv7`, `conv8_1` .. `conv11_2`, 6 heads."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for stage, (width, convs) in enumerate(_STAGES, start=1):
            add_convs(self, stage, channels, [width] * convs)
            if stage < len(_STAGES):
                self.add_module(f"pool{stage}", nn.MaxPool2d(2, ceil_mode=stage == 3))
            channels = width
        self.pool5 = nn.MaxPool2d(3, stride=1, padding=1)
        self.conv6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.conv7 = nn.Conv2d(1024, 1024, 1)
        channels = 1024
        for i, (reduced, out, stride) in enumerate(_EXTRAS, start=8):
            self.add_module(f"conv{i}_1", nn.Conv2d(channels, reduced, 1))
            self.add_module(f"conv{i}_2", nn.Conv2d(reduced, out, 3, stride=stride, padding=stride - 1))
            channels = out
        self.norm4_3 = L2Norm(512)
        add_heads(self, (512, 1024, 512, 256, 256, 256), classes=21)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 3, 300, 300) to (1, 8732, 4) boxes and (1, 8732, 21) class scores."""
        outputs = run_chain(self, image)
        maps = [outputs[name] for name in ("conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")]
        return detect(self, [self.norm4_3(outputs["conv4_3"]), *maps])


ENTRY = ZooEntry(
    name="ssd_vgg16",
    task="object detection",
    input_shape=(1, 3, 300, 300),
    paper="Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016",
    build=lambda: initialised(SSDVGG16),
)
