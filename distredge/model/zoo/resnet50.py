"""ResNet-50 (version 1.5: the 3x3 convolution of a block carries its stride)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo.weights import initialised, residual_end

_EXPANSION = 4
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels, blocks and stride of each stage."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around which the input is added, projected where its shape differs."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * _EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = residual_end(nn.BatchNorm2d(out))
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to (1, 4 * width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """A 7x7 convolution, a pooling, 16 bottleneck blocks `layer1.0` .. `layer4.2` and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for stage, (width, blocks, stride) in enumerate(_STAGES, start=1):
            layer = nn.Sequential()
            for i in range(blocks):
                layer.append(Bottleneck(channels, width, stride if i == 0 else 1))
                channels = width * _EXPANSION
            self.add_module(f"layer{stage}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(image))))
        for stage in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


ENTRY = ZooEntry(
    name="resnet50",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    build=lambda: initialised(ResNet50),
)
