"""The heads that SSD detectors of 300x300 images share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_BOXES = (4, 6, 6, 6, 4, 4)
"""Default boxes at each place of the six feature maps: 8732 in all on 38, 19, 10, 5, 3 and 1 rows and columns."""


class Head(nn.Module):
    """3x3 convolutions `loc` and `conf` that tell a feature map's boxes and their class scores."""

    def __init__(self, channels: int, boxes: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.loc = nn.Conv2d(channels, boxes * 4, 3, padding=1)
        self.conf = nn.Conv2d(channels, boxes * classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, C, H, W) to (1, boxes, 4) and (1, boxes, classes), row after row."""
        loc = self.loc(x).permute(0, 2, 3, 1).reshape(1, -1, 4)
        conf = self.conf(x).permute(0, 2, 3, 1).reshape(1, -1, self.classes)
        return loc, conf


def add_heads(model: nn.Module, channels: Sequence[int], classes: int) -> None:
    """Add `head1` .. `head6` to `model`, for feature maps of these channels."""
    for i, (width, boxes) in enumerate(zip(channels, _BOXES, strict=True), start=1):
        model.add_module(f"head{i}", Head(width, boxes, classes))


def detect(model: nn.Module, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 8732, 4) boxes and (1, 8732, classes) scores of all heads, from their feature maps."""
    found = [model.get_submodule(f"head{i}")(x) for i, x in enumerate(maps, start=1)]
    return torch.cat([loc for loc, _ in found], dim=1), torch.cat([conf for _, conf in found], dim=1)
