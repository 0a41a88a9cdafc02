"""Networks as PyTorch's two exporters write them, in old and new operator sets: imported, cut anywhere, and exact."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from distredge.engine.onnxruntime import RuntimeEngine, Undivided
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.testing.engine_suite import TOLERANCE, image
from distredge.testing.stitching import Stitched, difference, random_bounds, random_cuts

torch = pytest.importorskip("torch")
nn = torch.nn


class SqueezeExcite(nn.Module):
    """Global pooling in mid-network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.SiLU(), nn.Conv2d(2, channels, 1), nn.Hardsigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class ChannelsLast(nn.Module):
    """ConvNeXt's block: normalisation and linear layers over the channels, which stand last meanwhile."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Every place looks at every place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        weights = torch.softmax(self.query(tokens) @ self.key(tokens).transpose(1, 2) / 3, -1)
        return x + (weights @ tokens).transpose(1, 2).reshape(x.shape)


class Focus(nn.Module):
    """YOLOv5's stem: every second row and column."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = [x[..., i::2, j::2] for j in range(2) for i in range(2)]
        return torch.cat(quarters, 1)


class UNet(nn.Module):
    """Skips over the whole depth, transposed convolution and bilinear resizing, a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.d, self.e = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(12, 2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.a(x).relu()
        b = self.b(a).relu()
        c = self.c(b).relu()
        d = self.d(torch.cat([self.up(c), b], 1))
        d = nn.functional.interpolate(d, scale_factor=2, mode="bilinear", align_corners=False)
        return self.e(torch.cat([d, a], 1)), c.mean((2, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "squeeze-excite": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), SqueezeExcite(8), nn.Conv2d(8, 8, 3, padding=1), SqueezeExcite(8),
        nn.Conv2d(8, 4, 3, 2),
    ),
    "channels-last": lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelsLast(8), ChannelsLast(8)),
    "attention": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Attention(8), nn.Conv2d(8, 8, 3, padding=1)),
    "focus": lambda: nn.Sequential(
        Focus(), nn.Conv2d(12, 8, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1)
    ),
    "u-net": UNet,
    "pixel-shuffle": lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2), nn.PixelUnshuffle(2),
        nn.Conv2d(12, 5, 3, padding=1, padding_mode="replicate"),
    ),
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3), nn.Flatten(),
        nn.Linear(4 * 7 * 5, 3),
    ),
}  # fmt: skip

EXPORTERS = [("script", 9), ("script", 11), ("script", 13), ("script", 20), ("dynamo", 18), ("dynamo", 23)]


def exported(network: nn.Module, exporter: str, opset: int, folder: Path) -> LayerGraph:
    path = folder / "network.onnx"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (torch.zeros(1, 3, 32, 24),), path, dynamo=exporter == "dynamo", opset_version=opset
            )
    finally:
        logging.disable(logging.NOTSET)
    return load_model(path)


@pytest.mark.parametrize(("exporter", "opset"), EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_are_exact_wherever_they_are_cut(
    name: str, exporter: str, opset: int, tmp_path: Path
) -> None:
    if (name, opset) == ("focus", 9):
        pytest.skip("this exporter has no strided slices in operator set 9")
    torch.manual_seed(0)
    graph = exported(NETWORKS[name](), exporter, opset, tmp_path)
    rng = np.random.default_rng(0)
    x = image(graph, rng)
    want = Undivided(graph).run(x)
    for make in (None, lambda volume, source: RuntimeEngine(volume, source=source)):
        for _ in range(3):
            bounds = random_bounds(rng, graph)
            cuts = random_cuts(rng, graph, bounds, providers=4)
            assert difference(Stitched(graph, bounds, make).run(cuts, x), want) <= TOLERANCE, (bounds, cuts)


@pytest.mark.parametrize("name", ["attention", "channels-last", "focus", "pixel-shuffle", "u-net"])
def test_only_what_looks_everywhere_is_whole(name: str, tmp_path: Path) -> None:
    graph = exported(NETWORKS[name](), "dynamo", 18, tmp_path)
    whole = [layer.op for layer in graph.layers if layer.whole]
    assert whole == (["matmul", "matmul"] if name == "attention" else [])
