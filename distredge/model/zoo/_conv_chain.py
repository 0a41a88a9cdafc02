"""Convolutions with batch norm and ReLU one after the other, of which several models are made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Conv(NamedTuple):
    """A convolution of a chain: output channels, kernel, stride, and whether half the kernel is padded around."""

    out: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True


class ConvChain(nn.Module):
    """Convolutions `conv1`, `conv2`, .. each with its batch norm `bn1`, .. and ReLU; before them `pool` if given."""

    def __init__(self, channels: int, *convs: Conv, pool: nn.Module | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        self.pool = pool
        self.convs = len(convs)
        for i, (out, kernel, stride, padded) in enumerate(convs, start=1):
            height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
            padding = (height // 2, width // 2) if padded else 0
            conv = nn.Conv2d(channels, out, (height, width), stride=stride, padding=padding, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(out, eps=eps))
            channels = out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to the channels of the last convolution; H and W divided by the strides."""
        if self.pool is not None:
            x = self.pool(x)
        for i in range(1, self.convs + 1):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        return x


class Branches(nn.Module):
    """Modules side by side, named as given, whose channels are concatenated."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) to the branches' channels in order."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)
