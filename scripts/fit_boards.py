#!/usr/bin/env python3
"""Calibrate the board profiles on published figures and write `profiles/BOARD.yaml`.

    python scripts/fit_boards.py --data DIR [--out profiles] [--steps]

DIR holds the published figures as CSV: `board_calibration.csv` (whole models), and layer timings in
`tx1_conv_layers_by_batch.csv`, `xavier_trt_fp16_googlenet_layers.csv` and `tophub_conv.csv`.

Three figures cannot fix a board's parameters. So layer timings of the same board, or of the nearest one, give each
parameter a prior, and the whole-model figures move it from there: a maximum a posteriori estimate in logarithms,
where the residual of a figure counts in units of `FIGURE_SIGMA` and the step away from a prior in units of its sigma.
The same figures give the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from published_figures import LayerTiming, Row, read, tophub_layers, tx1_layers, xavier_layers
from scipy.optimize import least_squares

from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.board import BoardFile, BoardProfile, Figure, Parameter, undivided_ms
from distredge.profiles.speed import CpuSpeed, GpuSpeed, Speed
from distredge.resources import write_atomically

Array = npt.NDArray[np.float64]

FIGURE_SIGMA = 0.05
"""How far a published latency may be from what its board repeats, as a logarithm."""

LAYER_SIGMA = 0.2
"""Scale of a layer's residual, as a logarithm, beyond which it counts less (an algorithm that the model lacks)."""

TX1_TRT = "dividiti/ck-caffe-nvidia-tx1@6c10e9f (TX1, TensorRT FP16, conv layers at batch 2..16)"
XAVIER_TRT = "ismetdagli/HaX-CoNN@98593b6 (AGX Xavier, TensorRT 7.1.3 FP16, layers of GoogLeNet)"
TOPHUB = "tlc-pack/tophub@f05376e (TVM FP32, tuned conv kernels)"

GPU_STEPS = (
    f"{TX1_TRT}: inception 5b/5x5 (7 px, 128 channels) takes .24 ms up to 490 pixels and .38 ms from 588 on: a wave "
    "of 512 pixels x 128 channels on 2 multiprocessors, that is 8 tiles of 128 x 64, 4 a multiprocessor. Of 180 "
    "combinations of tile, wave and channel quantum this one fits the 352 layer timings best (--steps)",
    f"{XAVIER_TRT}: of the same 180 the 12 best all have tiles of 128 pixels, 32 or 64 channels and 2 to 8 in flight "
    "(costs 7.9 to 9.2); 128 x 32 with 8 in flight (9.1) is the one with a tile for each of the 8 multiprocessors",
    f"{TOPHUB}: tuned kernels take 49, 98, 112 or 196 pixels a thread block on TX2 and Nano: all 7 rows of a 7 px "
    "map, 7 or 14 of 14 px, 4 or 7 of 28 px, 2 of 56 px",
)
CPU_STEPS = (
    f"{TOPHUB}: Winograd kernels compute output tiles of 2, 4 or 6 rows on ARM boards; 4 is taken here. Direct kernels "
    "take rows one at a time: latency is affine in rows within 1.2 % (median), 3.3 % (90th percentile)",
)


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


Parameters = Mapping[str, Prior | Fixed]


@dataclass(frozen=True)
class Board:
    """What is known of a board before its whole-model figures are seen."""

    name: str
    device: str
    precision: str
    model: type[GpuSpeed] | type[CpuSpeed]
    parameters: Parameters
    step_evidence: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Tiles:
    """A GPU's step sizes: pixels and channels of a tile, tiles in flight, quantum of input channels."""

    pixels: int
    channels: int
    in_flight: int
    quantum: int


MAXWELL_TILES, VOLTA_TILES = Tiles(128, 64, 8, 4), Tiles(128, 32, 8, 4)


@dataclass(frozen=True)
class LayerFit:
    """Parameters fitted to layer timings, the robust cost that is left, and the errors in words."""

    values: dict[str, float]
    cost: float
    quality: str


def fitted(
    start: Mapping[str, Prior], residuals: Callable[[dict[str, float]], Array], robust: bool
) -> dict[str, float]:
    """Values at which squared residuals and squared steps away from the priors are least."""
    names = sorted(start)
    centre = np.log([start[n].value for n in names])
    sigma = np.array([start[n].sigma for n in names])

    def values(x: Array) -> dict[str, float]:
        return dict(zip(names, np.exp(centre + sigma * x).tolist(), strict=True))

    loss = "soft_l1" if robust else "linear"
    solution = least_squares(
        lambda x: np.concatenate([residuals(values(x)), x]), np.zeros(len(names)), loss=loss, diff_step=1e-3
    )
    return values(solution.x)


def divided(parameters: Parameters) -> tuple[dict[str, float], dict[str, Prior]]:
    """Values of the fixed parameters, and the priors of the others."""
    constants = {name: known.value for name, known in parameters.items() if isinstance(known, Fixed)}
    return constants, {name: known for name, known in parameters.items() if isinstance(known, Prior)}


def fit_layers(
    model: type[GpuSpeed] | type[CpuSpeed], parameters: Parameters, timings: Sequence[LayerTiming], element_bytes: int
) -> LayerFit:
    """Fit the parameters that are not fixed to layer timings."""
    constants, priors = divided(parameters)

    def logs(values: dict[str, float]) -> Array:
        speed: Speed = model(**constants, **values)
        times = [speed.layer_ms(t.layer, np.array([t.rows]), element_bytes)[0] for t in timings]
        return np.log(np.array(times) / [t.published_ms for t in timings])

    values = fitted(priors, lambda v: logs(v) / LAYER_SIGMA, robust=True)
    left = logs(values)
    cost = float(np.sum(np.sqrt(1 + (left / LAYER_SIGMA) ** 2) - 1))
    median, p90 = np.quantile(np.abs(np.expm1(left)), [0.5, 0.9])
    return LayerFit(values, cost, f"{len(timings)} layers, error median {median:.0%}, 90th percentile {p90:.0%}")


def narrowed(parameters: Parameters, layer_fit: LayerFit, sigmas: Mapping[str, float], source: str) -> Parameters:
    """The parameters, with priors at the values that layer timings gave where `sigmas` names them."""
    origin = f"{source}: {layer_fit.quality}"
    return {**parameters, **{name: Prior(layer_fit.values[name], sigma, origin) for name, sigma in sigmas.items()}}


def gpu_parameters(peak: Fixed, dram: Fixed, tiles: Tiles, in_flight: str) -> Parameters:
    """A GPU's parameters before any figure is seen."""
    wide = "no prior knowledge"
    return {
        "peak_gflops": peak,
        "spatial_share": Prior(1.0, 1.0, wide),
        "pointwise_share": Prior(0.7, 1.0, wide),
        "depthwise_share": Prior(0.05, 1.0, wide),
        "dram_gbps": dram,
        "bandwidth_share": Prior(0.75, 0.15, "what streaming kernels reach of a memory's documented bandwidth"),
        "conv_launch_us": Prior(15.0, 0.5, f"{XAVIER_TRT}: no convolution takes less than 15-20 us"),
        "other_launch_us": Prior(5.0, 0.3, f"{XAVIER_TRT}: copies and small poolings take 4-7 us"),
        "tile_pixels": Fixed(tiles.pixels, "step_evidence"),
        "tile_channels": Fixed(tiles.channels, "step_evidence"),
        "tiles_in_flight": Fixed(tiles.in_flight, in_flight),
        "input_channel_quantum": Fixed(tiles.quantum, "step_evidence"),
    }


def depthwise_prior(folder: Path) -> Prior:
    """Median rate of tuned depthwise kernels as a share of the FP32 peak; FP16 kernels of TensorRT may differ much."""
    shares = [
        2e-6 * t.layer.macs / t.published_ms / peak
        for board, peak in (("tx2", 666.0), ("jetson-nano", 236.0))
        for t in tophub_layers(folder, board, ("depthwise",))
    ]
    return Prior(float(f"{np.median(shares):.2g}"), 1.0, f"{TOPHUB}: median of {len(shares)} on TX2 and Nano; wide")


def tx1_parameters(tiles: Tiles) -> Parameters:
    """What is known of a TX1; its launch times are those of an old TensorRT, and are not carried over."""
    parameters = gpu_parameters(Fixed(1022, "TX1"), Fixed(25.6, "TX1"), tiles, "TX1")
    return {**parameters, "conv_launch_us": Prior(50.0, 0.5, "TensorRT 1")}


def xavier_parameters(tiles: Tiles) -> Parameters:
    """What is known of an AGX Xavier."""
    return gpu_parameters(
        Fixed(2820, "computed: 2 x 2 x cores x clock, 512 cores at 1377 MHz; tensor cores come on top"),
        Fixed(137, "Jetson AGX Xavier, LPDDR4x documentation"),
        tiles,
        "1 a multiprocessor, 8 multiprocessors: step_evidence",
    )


def maxwell_pascal(folder: Path) -> list[Board]:
    """Nano and TX2: their GPUs are of the TX1's build, so the TX1's layers give the shares of the peak."""
    layer_fit = fit_layers(GpuSpeed, tx1_parameters(MAXWELL_TILES), tx1_layers(folder), element_bytes=2)
    sigmas = {"spatial_share": 0.3, "pointwise_share": 0.3}
    peak = "computed: 2 x 2 x cores x clock"
    nano = gpu_parameters(
        Fixed(472, f"{peak}, 128 cores at 921.6 MHz"),
        Fixed(25.6, "Jetson Nano, LPDDR4 documentation"),
        replace(MAXWELL_TILES, in_flight=4),
        "4 a multiprocessor as on TX1, 1 multiprocessor",
    )
    tx2 = gpu_parameters(
        Fixed(1331, f"{peak}, 256 cores at 1300 MHz"),
        Fixed(59.7, "Jetson TX2, LPDDR4; bandwidth from memory, no document at hand"),
        MAXWELL_TILES,
        "4 a multiprocessor as on TX1, 2 multiprocessors",
    )
    note = "the prior of the conv shares is a TX1's under an older TensorRT, hence its spread of 0.3"
    titles = (
        ("jetson-nano", "NVIDIA Jetson Nano, 128-core Maxwell GPU", nano, "no figure here has depthwise convolutions"),
        ("jetson-tx2", "NVIDIA Jetson TX2, 256-core Pascal GPU", tx2, "depthwise_share rests on MobileNet-v1 alone"),
    )
    return [
        Board(
            name=name,
            device=device,
            precision="FP16",
            model=GpuSpeed,
            parameters={**narrowed(known, layer_fit, sigmas, TX1_TRT), "depthwise_share": depthwise_prior(folder)},
            step_evidence=GPU_STEPS,
            notes=(note, f"{caveat}: do not rely on it for models with many of them"),
        )
        for name, device, known, caveat in titles
    ]


def xavier(folder: Path) -> Board:
    """AGX Xavier: layer timings of the same board give priors to rates and launch times."""
    wide = xavier_parameters(VOLTA_TILES)
    layer_fit = fit_layers(GpuSpeed, wide, xavier_layers(folder), element_bytes=2)
    sigmas = {"spatial_share": 0.2, "pointwise_share": 0.2, "conv_launch_us": 0.3}
    return Board(
        name="jetson-agx-xavier",
        device="NVIDIA Jetson AGX Xavier, 512-core Volta GPU with tensor cores",
        precision="FP16",
        model=GpuSpeed,
        parameters={**narrowed(wide, layer_fit, sigmas, XAVIER_TRT), "depthwise_share": depthwise_prior(folder)},
        step_evidence=GPU_STEPS,
        notes=("layers were timed under TensorRT's profiler, which adds to each: hence the launch time's spread",),
    )


def raspberry(folder: Path) -> Board:
    """Raspberry Pi 3B: tuned kernels of the same board give priors to the rates."""
    wide: Parameters = {
        "direct_gflops": Prior(12.0, 1.0, "no prior knowledge"),
        "winograd_gflops": Prior(35.0, 1.0, "no prior knowledge"),
        "transform_gbps": Prior(0.3, 1.0, "no prior knowledge"),
        "dram_gbps": Prior(1.1, 0.2, "ThomasKaiser/sbc-bench@53f7951: memcpy 1.11 GB/s, memset 1.70 GB/s"),
        "launch_us": Prior(25.0, 0.5, "no prior knowledge"),
        "winograd_rows": Fixed(4, "step_evidence"),
    }
    timings = tophub_layers(folder, "bcm2837", ("direct", "winograd", "depthwise"))
    layer_fit = fit_layers(CpuSpeed, wide, timings, element_bytes=4)
    sigmas = {"direct_gflops": 0.1, "winograd_gflops": 0.1, "transform_gbps": 0.1, "launch_us": 0.5}
    return Board(
        name="raspberry-pi-3b",
        device="Raspberry Pi 3B, 4 x Cortex-A53 at 1.2 GHz",
        precision="FP32",
        model=CpuSpeed,
        parameters=narrowed(wide, layer_fit, sigmas, f"{TOPHUB}, bcm2837"),
        step_evidence=CPU_STEPS,
        notes=(
            "single kernels run at a rate that does not depend on the size of their weights; whole models are slower "
            "by about what fetching the weights takes, which the model therefore adds and does not overlap",
        ),
    )


def calibrate(board: Board, figures: Sequence[Row], graphs: Mapping[str, LayerGraph]) -> BoardFile:
    """The board's file: parameters, and each figure with what is predicted, with it and without it in the fit."""
    file = board_file(board, fit_board(board, figures, graphs), figures[0]["runtime"])
    rows = []
    for figure in figures:
        graph, published = graphs[figure["model"]], float(figure["latency_ms"])
        now = predicted(file, graph)
        without = predicted(
            board_file(board, fit_board(board, [f for f in figures if f is not figure], graphs), ""), graph
        )
        rows.append(
            Figure(
                model=figure["model"],
                input=figure["input"],
                published_ms=published,
                predicted_ms=round(now, 3),
                residual=round(now / published - 1, 4),
                leave_one_out_ms=round(without, 3),
                leave_one_out=round(without / published - 1, 4),
                source=figure["source"],
            )
        )
    return file.model_copy(update={"figures": tuple(rows)})


def fit_board(board: Board, figures: Sequence[Row], graphs: Mapping[str, LayerGraph]) -> dict[str, float]:
    """All parameters, rounded to 4 digits, with the priors moved by these whole-model figures."""
    constants, priors = divided(board.parameters)

    def residuals(values: dict[str, float]) -> Array:
        file = board_file(board, {**constants, **values}, "")
        now = [predicted(file, graphs[f["model"]]) for f in figures]
        return np.log(np.array(now) / [float(f["latency_ms"]) for f in figures]) / FIGURE_SIGMA

    values = {**constants, **fitted(priors, residuals, robust=False)}
    return {name: float(f"{values[name]:.4g}") for name in board.parameters}


def predicted(file: BoardFile, graph: LayerGraph) -> float:
    """The whole model's latency on a board."""
    return undivided_ms(BoardProfile(file), graph)


def board_file(board: Board, values: Mapping[str, float], runtime: str) -> BoardFile:
    """The board's file, without its figures."""
    parameters = {}
    for quantity in fields(board.model):
        known = board.parameters[quantity.name]
        origin = known.origin
        if isinstance(known, Prior):
            origin = f"fitted; prior {known.value:.3g}, sigma of its logarithm {known.sigma}: {origin}"
        parameters[quantity.name] = Parameter(value=values[quantity.name], **quantity.metadata, origin=origin)
    return BoardFile(
        schema_version=1,
        name=board.name,
        kind="calibrated",
        device=board.device,
        runtime=runtime,
        precision="FP16" if board.precision == "FP16" else "FP32",
        analytic_model="cpu" if board.model is CpuSpeed else "gpu",
        parameters=parameters,
        figures=(),
        step_evidence=board.step_evidence,
        notes=board.notes,
    )


def print_steps(folder: Path) -> None:
    """Rank tile and wave sizes by how well the layer timings of TX1 and Xavier are fitted with them."""
    cases = (("TX1", tx1_parameters, tx1_layers(folder)), ("Xavier", xavier_parameters, xavier_layers(folder)))
    for board, parameters, timings in cases:
        ranked = []
        for sizes in itertools.product((32, 64, 128, 256), (32, 64, 128), (2, 4, 8, 16, 32), (1, 4, 8)):
            layer_fit = fit_layers(GpuSpeed, parameters(Tiles(*sizes)), timings, element_bytes=2)
            ranked.append((layer_fit.cost, sizes, layer_fit.quality))
        print(f"{board}: cost, (tile pixels, tile channels, tiles in flight, input channel quantum), errors")
        for cost, sizes, quality in sorted(ranked)[:15]:
            print(f"  {cost:7.2f} {sizes} {quality}")


def main() -> None:
    """Fit all boards, write their files and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published figures")
    parser.add_argument("--out", type=Path, default=Path("profiles"), help="folder of the YAML files")
    parser.add_argument("--steps", action="store_true", help="only rank tile sizes by the layer timings (minutes)")
    options = parser.parse_args()
    if options.steps:
        print_steps(options.data)
        return
    published = read(options.data, "board_calibration.csv")
    graphs = {name: load_model(name) for name in sorted({row["model"] for row in published})}
    for board in [*maxwell_pascal(options.data), xavier(options.data), raspberry(options.data)]:
        file = calibrate(board, [row for row in published if row["board"] == board.name], graphs)
        text = yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False, width=120, allow_unicode=True)
        header = "# Calibrated on published figures, not measured. scripts/fit_boards.py writes this file.\n"
        write_atomically(options.out / f"{board.name}.yaml", header + text)
        for f in file.figures:
            print(
                f"{board.name:18} {f.model:14} {f.published_ms:8.2f} ms  predicted {f.predicted_ms:8.2f} "
                f"({f.residual:+.1%})  left out {f.leave_one_out:+.1%}"
            )


if __name__ == "__main__":
    main()
