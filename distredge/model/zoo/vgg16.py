"""VGG-16 (configuration D)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from distredge.model.zoo import ZooEntry
from distredge.model.zoo.weights import initialised

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage; a 2x2 pooling ends it."""


class VGG16(nn.Module):
    """13 convolutions `conv1_1` .. `conv5_3`, 5 poolings `pool1` .. `pool5`, 3 fully connected layers `fc6` .. `fc8`.

    Dropout does nothing at inference and is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for stage, (width, convs) in enumerate(_STAGES, start=1):
            for i in range(1, convs + 1):
                self.add_module(f"conv{stage}_{i}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            self.add_module(f"pool{stage}", nn.MaxPool2d(2))
        self.fc6 = nn.Linear(512 * 7 * 7, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = image
        for name, module in self.named_children():
            if name.startswith("conv"):
                x = F.relu(module(x))
            elif name.startswith("pool"):
                x = module(x)
        x = F.relu(self.fc6(torch.flatten(x, 1)))
        return self.fc8(F.relu(self.fc7(x)))  # type: ignore[no-any-return]


ENTRY = ZooEntry(
    name="vgg16",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
    build=lambda: initialised(VGG16),
)
