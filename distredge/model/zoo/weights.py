"""Seeded weights for models that come untrained: as lively as trained ones, and the same bytes everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

_SEED = 20220214


def initialised(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that `build` makes, with its weights, in evaluation mode.

    Convolutions and fully connected layers get He's variance, drawn uniformly: uniform numbers are scaled
    exactly, so that the bytes depend on no processor's way of making normal ones. Batch norms get statistics
    and scales near the identity; one that ends a residual branch (`residual_end`) is scaled down so that the
    sums over many blocks stay bounded. Any other module with parameters of its own must fill them in its
    `reset_parameters`.
    """
    with torch.device("meta"):  # PyTorch's own initial weights would be thrown away
        model = build()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(_SEED)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)):
            _fill(module.weight, 0.0, math.sqrt(6.0 / _products(module)), generator)
            if module.bias is not None:
                _fill(module.bias, 0.0, 0.1, generator)
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            _fill(module.weight, 0.3 if getattr(module, "residual_end", False) else 1.0, 0.1, generator)
            _fill(module.bias, 0.0, 0.1, generator)
            _fill(module.running_mean, 0.0, 0.1, generator)
            _fill(module.running_var, 1.0, 0.2, generator)
        elif next(module.parameters(recurse=False), None) is not None:
            module.reset_parameters()  # type: ignore[operator]
    return model.eval()


def residual_end(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Mark the batch norm that ends a residual branch; returns it."""
    norm.residual_end = True  # type: ignore[assignment]
    return norm


def _products(module: nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear) -> float:
    """How many products an output element sums up."""
    if isinstance(module, nn.ConvTranspose2d):  # an input element meets each output channel once per kernel element,
        return module.weight.numel() / module.out_channels / math.prod(module.stride)  # which the stride thins out
    return module.weight[0].numel()


def _fill(tensor: torch.Tensor | None, centre: float, spread: float, generator: torch.Generator) -> None:
    """Fill with uniform values in `[centre - spread, centre + spread)`."""
    assert tensor is not None
    with torch.no_grad():
        tensor.copy_(torch.rand(tensor.shape, generator=generator).mul_(2.0).sub_(1.0).mul_(spread).add_(centre))
