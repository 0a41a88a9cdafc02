#!/usr/bin/env python3
"""Calibrate the board profiles on published figures and write `profiles/BOARD.yaml`.

    python scripts/fit_boards.py --data DIR [--out profiles]

DIR holds the published figures as CSV: `board_calibration.csv` (whole models), and layer timings in
`tx1_conv_layers_by_batch.csv`, `xavier_trt_fp16_googlenet_layers.csv` and `tophub_conv.csv`.

Three figures cannot fix a board's parameters. So layer timings of the same board, or of the nearest one, give each
parameter a prior, and the whole-model figures move it from there: a maximum a posteriori estimate in logarithms,
where the residual of a figure counts in units of `FIGURE_SIGMA` and the step away from a prior in units of its sigma.
The same figures give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from scipy.optimize import least_squares

from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer, LayerInput, Window
from distredge.model.load import load_model
from distredge.profiles.board import BoardFile, BoardProfile, Figure, Parameter, undivided_ms
from distredge.profiles.speed import CpuSpeed, GpuSpeed, Speed
from distredge.resources import write_atomically

Array = npt.NDArray[np.float64]
Row = Mapping[str, str]

FIGURE_SIGMA = 0.05
"""How far a published latency may be from what its board repeats, as a logarithm."""

LAYER_SIGMA = 0.2
"""Scale of a layer's residual, as a logarithm, beyond which it counts less (an algorithm that the model lacks)."""

TX1_TRT = "dividiti/ck-caffe-nvidia-tx1@6c10e9f (TX1, TensorRT FP16, 28 conv layers at batch 2..16)"
XAVIER_TRT = "ismetdagli/HaX-CoNN@98593b6 (AGX Xavier, TensorRT FP16, layers of GoogLeNet)"
TOPHUB = "tlc-pack/tophub@f05376e (TVM FP32, tuned conv kernels)"


@dataclass(frozen=True)
class Prior:
    """A fitted parameter's value before the whole-model figures, and the spread of its logarithm."""

    value: float
    sigma: float
    origin: str


@dataclass(frozen=True)
class Fixed:
    """A parameter that is read from a document or from evidence, not fitted."""

    value: float
    origin: str


@dataclass(frozen=True)
class Board:
    """What is known of a board before its whole-model figures are seen."""

    name: str
    device: str
    precision: str
    model: type[GpuSpeed] | type[CpuSpeed]
    parameters: dict[str, Prior | Fixed]
    step_evidence: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LayerTiming:
    """One layer's published latency; `rows` output rows."""

    layer: Layer
    rows: int
    published_ms: float


MEANINGS = {
    "peak_gflops": ("GFLOP/s", "peak arithmetic rate of the CUDA cores at this precision"),
    "spatial_share": ("of peak", "rate of k x k convolutions on full tiles; above 1 by Winograd or tensor cores"),
    "pointwise_share": ("of peak", "rate of 1 x 1 convolutions on full tiles; above 1 by tensor cores"),
    "depthwise_share": ("of peak", "rate of depthwise convolutions"),
    "dram_gbps": ("GB/s", "bandwidth of the memory"),
    "bandwidth_share": ("of dram_gbps", "bandwidth that kernels reach"),
    "conv_launch_us": ("us", "fixed time of a convolution: launch, filling and draining its pipeline"),
    "other_launch_us": ("us", "fixed time of any other kernel"),
    "tile_pixels": ("pixels", "output pixels that one tile of a convolution covers"),
    "tile_channels": ("channels", "output channels that one tile covers"),
    "tiles_in_flight": ("tiles", "tiles that the GPU computes at the same time: one wave"),
    "input_channel_quantum": ("channels", "input channels are padded to a multiple of this"),
    "direct_gflops": ("GFLOP/s", "rate of direct convolutions (1 x 1, strided, few channels)"),
    "winograd_gflops": ("GFLOP/s", "rate of 3 x 3 convolutions in operations of the direct form, transforms apart"),
    "transform_gbps": ("GB/s", "maps read and written by a Winograd convolution, per second of its transforms"),
    "launch_us": ("us", "fixed time of a kernel: start and join of the threads"),
    "winograd_rows": ("rows", "output rows of a Winograd tile"),
}


def read(folder: Path, file: str, **equal: str) -> list[Row]:
    """Rows of a CSV whose columns have the given values."""
    with (folder / file).open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if all(row[k] == v for k, v in equal.items())]


def convolution(
    cin: int, height: int, width: int, cout: int, out: tuple[int, int], kernel: int, stride: int, groups: int
) -> Layer:
    """A layer as a published table describes it."""
    op = "depthwise" if groups == cin > 1 else "conv"
    taps = kernel * kernel * cin // groups
    return Layer(
        name="published",
        op=op,
        inputs=(LayerInput("input", Window(kernel, stride, 1, kernel // 2)),),
        in_shape=(cin, height, width),
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
        layer = convolution(cin, size * batch, size, cout, (out * batch, out), kernel, stride, groups)
        timings.append(LayerTiming(layer, out * batch, float(row["median_ms"])))
    return timings


def xavier_layers(folder: Path) -> list[LayerTiming]:
    """Xavier's convolution layers that most of the engines had."""
    timings = []
    for row in read(folder, "xavier_trt_fp16_googlenet_layers.csv", kind="conv"):
        if int(row["n_engines"]) < 10:
            continue
        cin, size, cout, kernel, stride = (int(row[k]) for k in ("C_in", "H_in", "C_out_total", "K", "stride"))
        layer = convolution(cin, size, size, cout, (size // stride, size // stride), kernel, stride, 1)
        timings.append(LayerTiming(layer, size // stride, float(row["median_ms"])))
    return timings


def tophub_layers(folder: Path, board: str, algorithms: Sequence[str]) -> list[LayerTiming]:
    """Square convolutions tuned for a board; 3x3 ones of stride 1 by Winograd only, if that is among them."""
    timings = []
    for row in read(folder, "tophub_conv.csv", model=board, err="0"):
        cin, height, width, cout, kernel, stride = (int(row[k]) for k in ("C_in", "H", "W", "C_out", "KH", "stride"))
        dense_3x3 = kernel == 3 and stride == 1 and row["algo"] == "direct" and cin >= 16
        if row["algo"] not in algorithms or row["KW"] != row["KH"] or height == 1 or dense_3x3:
            continue
        out = (int(row["OH"]), int(row["OW"]))
        layer = convolution(cin, height, width, cout, out, kernel, stride, int(row["groups"]))
        timings.append(LayerTiming(replace(layer, params=0), out[0], float(row["time_ms"])))  # weights at hand
    return timings


def fitted(
    start: Mapping[str, Prior], residuals: Callable[[dict[str, float]], Array], robust: bool
) -> dict[str, float]:
    """Values at which squared residuals and squared steps away from the priors are least."""
    names = sorted(start)
    centre = np.log([start[n].value for n in names])
    sigma = np.array([start[n].sigma for n in names])

    def cost(x: Array) -> Array:
        values = dict(zip(names, np.exp(centre + sigma * x).tolist(), strict=True))
        return np.concatenate([residuals(values), x])

    loss = "soft_l1" if robust else "linear"
    solution = least_squares(cost, np.zeros(len(names)), loss=loss, diff_step=1e-3)
    return dict(zip(names, np.exp(centre + sigma * solution.x).tolist(), strict=True))


def fit_layers(
    model: type[GpuSpeed] | type[CpuSpeed],
    parameters: Mapping[str, Prior | Fixed],
    timings: Sequence[LayerTiming],
    element_bytes: int,
) -> tuple[dict[str, float], str]:
    """The parameters fitted to layer timings, and the spread of the residuals in words."""
    constants = {n: p.value for n, p in parameters.items() if isinstance(p, Fixed)}
    priors = {n: p for n, p in parameters.items() if isinstance(p, Prior)}

    def logs(values: dict[str, float]) -> Array:
        speed: Speed = model(**constants, **values)
        times = [speed.layer_ms(t.layer, np.array([t.rows]), element_bytes)[0] for t in timings]
        return np.log(np.array(times) / [t.published_ms for t in timings])

    values = fitted(priors, lambda v: logs(v) / LAYER_SIGMA, robust=True)
    error = np.abs(np.expm1(logs(values)))
    return (
        values,
        f"{len(timings)} layers, error median {np.median(error):.0%}, 90th percentile {np.quantile(error, 0.9):.0%}",
    )


def narrowed(
    parameters: Mapping[str, Prior | Fixed], values: Mapping[str, float], sigmas: Mapping[str, float], why: str
) -> dict[str, Prior | Fixed]:
    """The parameters with priors at the values that layer timings gave, where `sigmas` names them."""
    return {
        name: Prior(values[name], sigmas[name], why) if isinstance(p, Prior) and name in sigmas else p
        for name, p in parameters.items()
    }


def gpu_parameters(peak: Fixed, dram: Fixed, in_flight: Fixed) -> dict[str, Prior | Fixed]:
    """A GPU's parameters before any figure is seen."""
    wide = "no prior knowledge"
    return {
        "peak_gflops": peak,
        "dram_gbps": dram,
        "tiles_in_flight": in_flight,
        "tile_pixels": Fixed(128, "step_evidence"),
        "tile_channels": Fixed(64, "step_evidence"),
        "input_channel_quantum": Fixed(4, "step_evidence"),
        "spatial_share": Prior(1.0, 1.0, wide),
        "pointwise_share": Prior(0.7, 1.0, wide),
        "depthwise_share": Prior(0.06, 1.0, f"median of {TOPHUB}, depthwise on TX2 and Nano, wide"),
        "bandwidth_share": Prior(0.75, 0.15, "what streaming kernels reach of a memory's documented bandwidth"),
        "conv_launch_us": Prior(15.0, 0.5, f"{XAVIER_TRT}: no convolution takes less than 15-20 us"),
        "other_launch_us": Prior(5.0, 0.3, f"{XAVIER_TRT}: copies and small poolings take 4-7 us"),
    }


GPU_STEPS = (
    f"{TX1_TRT}: inception 5b/5x5 (7 px, 128 channels) takes .24 ms up to 490 pixels and .38 ms from 588 on: a wave "
    "of 512 pixels x 128 channels on 2 multiprocessors, that is 8 tiles of 128 x 64, 4 a multiprocessor. Of 60 "
    "combinations of tile and wave sizes this one fits the layers best",
    f"{XAVIER_TRT}: among the same combinations tiles of 128 pixels are best again, 4 or 8 in flight on 8 multiprocessors; "
    "padding input channels to 4 explains that the first convolution reaches half the rate of the others",
    f"{TOPHUB}: tuned kernels take 49, 98, 112 or 196 pixels a thread block on TX2 and Nano: all 7 rows of a 7 px map, "
    "7 or 14 of 14 px, 4 or 7 of 28 px, 2 of 56 px",
)


def boards(folder: Path) -> list[Board]:
    """The four boards, with priors from the layer timings."""
    return [*maxwell_pascal(folder), xavier(folder), raspberry(folder)]


def maxwell_pascal(folder: Path) -> list[Board]:
    """Nano and TX2: their GPUs are of the TX1's build, so the TX1's layers give the shares of the peak."""
    tx1 = gpu_parameters(Fixed(1022, "TX1"), Fixed(25.6, "TX1"), Fixed(8, "TX1"))
    tx1["conv_launch_us"] = Prior(50.0, 0.5, "TensorRT 1 on TX1; not carried over")
    values, quality = fit_layers(GpuSpeed, tx1, tx1_layers(folder), element_bytes=2)
    why = f"{TX1_TRT}: {quality}"
    sigmas = {"spatial_share": 0.3, "pointwise_share": 0.3}
    dividing = "computed: 2 x 2 x cores x clock"
    nano = gpu_parameters(
        Fixed(472, f"{dividing}, 128 cores at 921.6 MHz"),
        Fixed(25.6, "Jetson Nano, LPDDR4 documentation"),
        Fixed(4, "4 a multiprocessor as on TX1, 1 multiprocessor"),
    )
    tx2 = gpu_parameters(
        Fixed(1331, f"{dividing}, 256 cores at 1300 MHz"),
        Fixed(59.7, "Jetson TX2, LPDDR4 documentation"),
        Fixed(8, "4 a multiprocessor as on TX1, 2 multiprocessors"),
    )
    note = "TX1 gives the prior of the conv shares; its TensorRT is older, hence a spread of 0.3"
    return [
        Board(
            "jetson-nano",
            "NVIDIA Jetson Nano, 128-core Maxwell GPU",
            "FP16",
            GpuSpeed,
            narrowed(nano, values, sigmas, why),
            GPU_STEPS,
            (note, "no figure with depthwise convolutions: depthwise_share stays at its prior"),
        ),
        Board(
            "jetson-tx2",
            "NVIDIA Jetson TX2, 256-core Pascal GPU",
            "FP16",
            GpuSpeed,
            narrowed(tx2, values, sigmas, why),
            GPU_STEPS,
            (
                note,
                "depthwise_share rests on MobileNet-v1 alone, under an early TensorRT whose depthwise kernels were slow",
            ),
        ),
    ]


def xavier(folder: Path) -> Board:
    """AGX Xavier: layer timings of the same board give priors to rates and launch times."""
    wide = gpu_parameters(
        Fixed(2820, "computed: 2 x 2 x cores x clock, 512 cores at 1377 MHz; tensor cores come on top"),
        Fixed(137, "Jetson AGX Xavier, LPDDR4x documentation"),
        Fixed(8, "1 a multiprocessor, 8 multiprocessors: step_evidence"),
    )
    values, quality = fit_layers(GpuSpeed, wide, xavier_layers(folder), element_bytes=2)
    sigmas = {"spatial_share": 0.2, "pointwise_share": 0.2, "conv_launch_us": 0.3}
    return Board(
        "jetson-agx-xavier",
        "NVIDIA Jetson AGX Xavier, 512-core Volta GPU with tensor cores",
        "FP16",
        GpuSpeed,
        narrowed(wide, values, sigmas, f"{XAVIER_TRT}: {quality}"),
        GPU_STEPS,
        ("layers were timed under TensorRT's profiler, which adds to each: hence the spread of the launch time",),
    )


def raspberry(folder: Path) -> Board:
    """Raspberry Pi 3B: tuned kernels of the same board give priors to the rates."""
    wide: dict[str, Prior | Fixed] = {
        "direct_gflops": Prior(12.0, 1.0, "no prior knowledge"),
        "winograd_gflops": Prior(35.0, 1.0, "no prior knowledge"),
        "transform_gbps": Prior(0.3, 1.0, "no prior knowledge"),
        "dram_gbps": Prior(1.1, 0.2, "ThomasKaiser/sbc-bench@53f7951: memcpy 1.11 GB/s, memset 1.70 GB/s"),
        "launch_us": Prior(25.0, 0.5, "smallest kernels of tophub"),
        "winograd_rows": Fixed(4, "step_evidence"),
    }
    values, quality = fit_layers(
        CpuSpeed, wide, tophub_layers(folder, "bcm2837", ("direct", "winograd", "depthwise")), 4
    )
    sigmas = {"direct_gflops": 0.1, "winograd_gflops": 0.1, "transform_gbps": 0.1, "launch_us": 0.5}
    return Board(
        "raspberry-pi-3b",
        "Raspberry Pi 3B, 4 x Cortex-A53 at 1.2 GHz",
        "FP32",
        CpuSpeed,
        narrowed(wide, values, sigmas, f"{TOPHUB}, bcm2837: {quality}"),
        (
            f"{TOPHUB}: Winograd kernels for this board compute output tiles of 4 rows (2 on the smallest maps, 6 on "
            "its successor); direct kernels take rows one at a time, latency is affine in them within 1.2 % (median)",
        ),
        (
            "kernels were tuned with their weights at hand; in a whole model the weights come from memory each time, "
            "which the model adds and does not overlap",
        ),
    )


def calibrate(board: Board, figures: Sequence[Row], graphs: Mapping[str, LayerGraph]) -> BoardFile:
    """The board's file: parameters, and each figure with what is predicted, with it and without it in the fit."""
    values = fit_board(board, figures, graphs)
    without = [
        predicted(board, fit_board(board, [f for f in figures if f is not figure], graphs), graphs[figure["model"]])
        for figure in figures
    ]
    file = board_file(board, values, [figures[0]["runtime"]])
    rows = []
    for figure, left_out in zip(figures, without, strict=True):
        published, now = float(figure["latency_ms"]), undivided_ms(BoardProfile(file), graphs[figure["model"]])
        rows.append(
            Figure(
                model=figure["model"],
                input=figure["input"],
                runtime=figure["runtime"],
                source=figure["source"],
                published_ms=published,
                predicted_ms=round(now, 3),
                residual=round(now / published - 1, 4),
                leave_one_out_ms=round(left_out, 3),
                leave_one_out=round(left_out / published - 1, 4),
            )
        )
    return file.model_copy(update={"figures": tuple(rows)})


def fit_board(board: Board, figures: Sequence[Row], graphs: Mapping[str, LayerGraph]) -> dict[str, float]:
    """All parameters, rounded to 4 digits, with the priors moved by these whole-model figures."""
    priors = {n: p for n, p in board.parameters.items() if isinstance(p, Prior)}
    constants = {n: p.value for n, p in board.parameters.items() if isinstance(p, Fixed)}

    def residuals(values: dict[str, float]) -> Array:
        now = [predicted(board, constants | values, graphs[f["model"]]) for f in figures]
        return np.log(np.array(now) / [float(f["latency_ms"]) for f in figures]) / FIGURE_SIGMA

    values = constants | fitted(priors, residuals, robust=False)
    return {name: float(f"{values[name]:.4g}") for name in board.parameters}


def predicted(board: Board, values: Mapping[str, float], graph: LayerGraph) -> float:
    """The whole model's latency on a board with these parameters."""
    return undivided_ms(BoardProfile(board_file(board, values, [])), graph)


def board_file(board: Board, values: Mapping[str, float], runtimes: Sequence[str]) -> BoardFile:
    """The board's file, without its figures."""
    parameters = {}
    for name, known in board.parameters.items():
        unit, meaning = MEANINGS[name]
        origin = known.origin
        if isinstance(known, Prior):
            origin = f"fitted; prior {known.value:.3g} (sigma of its logarithm {known.sigma}) from {origin}"
        parameters[name] = Parameter(value=values[name], unit=unit, meaning=meaning, origin=origin)
    return BoardFile.model_validate(
        {
            "schema_version": 1,
            "name": board.name,
            "kind": "calibrated",
            "device": board.device,
            "runtime": "; ".join(runtimes),
            "precision": board.precision,
            "analytic_model": "cpu" if board.model is CpuSpeed else "gpu",
            "parameters": parameters,
            "figures": (),
            "step_evidence": board.step_evidence,
            "notes": board.notes,
        }
    )


def main() -> None:
    """Fit all boards, write their files and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published figures")
    parser.add_argument("--out", type=Path, default=Path("profiles"), help="folder of the YAML files")
    options = parser.parse_args()
    published = read(options.data, "board_calibration.csv")
    graphs = {name: load_model(name) for name in sorted({row["model"] for row in published})}
    for board in boards(options.data):
        file = calibrate(board, [row for row in published if row["board"] == board.name], graphs)
        header = (
            "# Calibrated on published figures, not measured. Written by scripts/fit_boards.py: edit that, not this.\n"
        )
        text = yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False, width=120, allow_unicode=True)
        write_atomically(options.out / f"{board.name}.yaml", header + text)
        for f in file.figures:
            print(
                f"{board.name:18} {f.model:14} {f.published_ms:8.2f} ms  predicted {f.predicted_ms:8.2f} "
                f"({f.residual:+.1%})  left out {f.leave_one_out:+.1%}"
            )


if __name__ == "__main__":
    main()
