"""Reads published timings from CSV files; `scripts/fit_boards.py` calibrates on them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distredge.model.layer import Layer, LayerInput
from distredge.model.rows import Window

Row = Mapping[str, str]


@dataclass(frozen=True)
class LayerTiming:
    """One layer's published latency; `rows` output rows."""

    layer: Layer
    rows: int
    published_ms: float


def read(folder: Path, file: str, **equal: str) -> list[Row]:
    """Rows of a CSV whose columns have the given values."""
    with (folder / file).open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if all(row[k] == v for k, v in equal.items())]


def convolution(
    cin: int, size: tuple[int, int], cout: int, out: tuple[int, int], kernel: int, stride: int, groups: int
) -> Layer:
    """A layer as a published table describes it; `size` and `out` are (height, width)."""
    taps = kernel * kernel * cin // groups
    return Layer(
        name="published",
        op="depthwise" if groups == cin > 1 else "conv",
        inputs=(LayerInput("input", Window(kernel, stride, 1, kernel // 2)),),
        in_shape=(cin, *size),
        out_shape=(cout, *out),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        groups=groups,
        macs=out[0] * out[1] * cout * taps,
        params=cout * taps,
        nodes=(),
        tensor="",
    )


def tx1_layers(folder: Path) -> list[LayerTiming]:
    """TX1 layers; a batch of b maps counts as one map b times as high."""
    timings = []
    for row in read(folder, "tx1_conv_layers_by_batch.csv", runtime="tensorrt1.0ea-fp16"):
        if "|" in row["layer"]:  # several convolutions timed as one
            continue
        cin, size, cout, out, batch = (int(row[k]) for k in ("C_in", "H_in", "C_out", "OH", "batch"))
        kernel, stride, groups = (int(row[k]) for k in ("K", "stride", "groups"))
        layer = convolution(cin, (size * batch, size), cout, (out * batch, out), kernel, stride, groups)
        timings.append(LayerTiming(layer, out * batch, float(row["median_ms"])))
    return timings


def xavier_layers(folder: Path) -> list[LayerTiming]:
    """Xavier's convolution layers that most of the engines had."""
    timings = []
    for row in read(folder, "xavier_trt_fp16_googlenet_layers.csv", kind="conv"):
        if int(row["n_engines"]) < 10:
            continue
        cin, size, cout, kernel, stride = (int(row[k]) for k in ("C_in", "H_in", "C_out_total", "K", "stride"))
        out = size // stride
        layer = convolution(cin, (size, size), cout, (out, out), kernel, stride, 1)
        timings.append(LayerTiming(layer, out, float(row["median_ms"])))
    return timings


def tophub_layers(folder: Path, board: str, algorithms: Sequence[str]) -> list[LayerTiming]:
    """Square convolutions tuned for a board, weights not counted; 3x3 ones of stride 1 by Winograd only."""
    timings = []
    for row in read(folder, "tophub_conv.csv", model=board, err="0"):
        cin, height, width, cout, kernel, stride = (int(row[k]) for k in ("C_in", "H", "W", "C_out", "KH", "stride"))
        dense_3x3 = kernel == 3 and stride == 1 and row["algo"] == "direct" and cin >= 16
        if row["algo"] not in algorithms or row["KW"] != row["KH"] or height == 1 or dense_3x3:
            continue
        out = (int(row["OH"]), int(row["OW"]))
        layer = convolution(cin, (height, width), cout, out, kernel, stride, int(row["groups"]))
        timings.append(LayerTiming(replace(layer, params=0), out[0], float(row["time_ms"])))
    return timings
