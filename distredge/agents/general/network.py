"""The policy's network in torch, for training: `policy.py` holds the same in numpy."""

from __future__ import annotations

import torch
from torch import nn

from distredge.agents.general import features
from distredge.agents.general.settings import Network


class AxialAttention(nn.Module):
    """Pre-norm self-attention along one axis of a grid (batch, volumes, providers, width)."""

    def __init__(self, width: int, heads: int, axis: int) -> None:
        super().__init__()
        self.heads, self.axis = heads, axis
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """The grid with what was attended to added."""
        moved = self.mix(self.norm(grid)).movedim(self.axis, 2)
        batch, others, length, _ = moved.shape
        q, k, v = moved.reshape(batch, others, length, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        added: torch.Tensor = self.out(found.transpose(2, 3).flatten(3))
        return grid + added.movedim(2, self.axis)


class Block(nn.Module):
    """Attention over the providers of a volume, over the volumes of a provider, then each token by itself."""

    def __init__(self, settings: Network) -> None:
        super().__init__()
        self.providers = AxialAttention(settings.width, settings.heads, axis=2)
        self.volumes = AxialAttention(settings.width, settings.heads, axis=1)
        self.norm = nn.LayerNorm(settings.width)
        self.rise = nn.Linear(settings.width, settings.hidden)
        self.fall = nn.Linear(settings.hidden, settings.width)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Another grid of the same shape."""
        grid = self.volumes(self.providers(grid))
        added: torch.Tensor = self.fall(torch.relu(self.rise(self.norm(grid))))
        return grid + added


class GeneralNetwork(nn.Module):
    """Tokens (batch, volumes, providers, WIDTH) to two answers for each (batch, volumes, providers, 2).

    What they mean: `features.moved`.
    """

    def __init__(self, settings: Network) -> None:
        super().__init__()
        self.enter = nn.Linear(5 * features.WIDTH, settings.width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)
        self.leave = nn.Linear(settings.width, 2)
        with torch.no_grad():
            self.leave.weight *= 0.01
            self.leave.bias.zero_()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """See the class."""
        grid = torch.relu(self.enter(with_neighbours(tokens)))
        for block in self.blocks:
            grid = block(grid)
        found: torch.Tensor = self.leave(self.norm(grid))
        return found


def with_neighbours(tokens: torch.Tensor) -> torch.Tensor:
    """Each token followed by those of the volumes before and after it and of the providers at both sides, or zeros."""
    batch, volumes, providers, width = tokens.shape
    framed = nn.functional.pad(tokens, (0, 0, 1, 1, 1, 1))
    places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return torch.cat([framed[:, v : v + volumes, p : p + providers] for v, p in places], dim=3)
