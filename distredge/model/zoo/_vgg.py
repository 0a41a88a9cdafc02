"""What VGG-16, VGG-19 and the detectors built on them share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def add_convs(model: nn.Module, stage: int, channels: int, widths: Sequence[int]) -> None:
    """Add the 3x3 convolutions `conv<stage>_1`, `conv<stage>_2`, .. of these output channels to `model`."""
    for i, width in enumerate(widths, start=1):
        model.add_module(f"conv{stage}_{i}", nn.Conv2d(channels, width, 3, padding=1))
        channels = width


def run_chain(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each of the model's children `conv*` (with ReLU) and `pool*` gives, one fed by the other, by name."""
    outputs = {}
    for name, module in model.named_children():
        if name.startswith("conv"):
            outputs[name] = x = F.relu(module(x))
        elif name.startswith("pool"):
            outputs[name] = x = module(x)
    return outputs


class VGG(nn.Module):
    """Convolutions `conv1_1` .. in 5 stages, poolings `pool1` .. `pool5`, fully connected layers `fc6` .. `fc8`.

    `stages` holds the channels and convolutions of each stage; a 2x2 pooling ends it. Dropout does nothing at
    inference and is left out.
    """

    def __init__(self, stages: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        channels = 3
        for stage, (width, convs) in enumerate(stages, start=1):
            add_convs(self, stage, channels, [width] * convs)
            self.add_module(f"pool{stage}", nn.MaxPool2d(2))
            channels = width
        self.fc6 = nn.Linear(512 * 7 * 7, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, 224, 224) to (1, 1000) class scores."""
        x = run_chain(self, image)["pool5"]
        x = F.relu(self.fc6(torch.flatten(x, 1)))
        return self.fc8(F.relu(self.fc7(x)))  # type: ignore[no-any-return]
