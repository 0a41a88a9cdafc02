"""What is known of each board before its whole-model figures are seen: rates, sizes of steps, and their evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fitting import Fixed, LayerFit, Parameters, Prior, fit_layers, narrowed
from found_figures import EDGE_PROFILER, orin_layers
from published_figures import tophub_layers, tx1_layers, xavier_layers

from distredge.profiles.speed import CpuSpeed, GpuSpeed

TX1_TRT = "dividiti/ck-caffe-nvidia-tx1@6c10e9f (TX1, TensorRT FP16, conv layers at batch 2..16)"
XAVIER_TRT = "ismetdagli/HaX-CoNN@98593b6 (AGX Xavier, TensorRT 7.1.3 FP16, layers of GoogLeNet)"
TOPHUB = "tlc-pack/tophub@f05376e (TVM FP32, tuned conv kernels)"
SBC_BENCH = "ThomasKaiser/sbc-bench@53f7951"

GPU_STEPS = (
    f"{TX1_TRT}: inception 5b/5x5 (7 px, 128 channels) takes .24 ms up to 490 pixels and .38 ms from 588 on: a wave "
    "of 512 pixels x 128 channels on 2 multiprocessors, that is 8 tiles of 128 x 64, 4 a multiprocessor. Of 180 "
    "combinations of tile, wave and channel quantum this one fits the 352 layer timings best (--steps)",
    f"{XAVIER_TRT}: of the same 180 the 12 best all have tiles of 128 pixels, 32 or 64 channels and 2 to 8 in flight "
    "(costs 7.9 to 9.2); 128 x 32 with 8 in flight (9.1) is the one with a tile for each of the 8 multiprocessors",
    f"{TOPHUB}: tuned kernels take 49, 98, 112 or 196 pixels a thread block on TX2 and Nano: all 7 rows of a 7 px "
    "map, 7 or 14 of 14 px, 4 or 7 of 28 px, 2 of 56 px",
)
ORIN_STEPS = (
    "fuzzylabs/edge-vision-power-estimation@3f3c454 resnet18_trt_engine_info.json (Orin Nano, TensorRT 10.1 FP16): "
    "the kernels' names have tiles of 256 x 64 (pixels x channels) on maps of 56 px, 128 x 128 on 28 px, 128 x 64 on "
    "14 px and 64 x 64 on 7 px, and channels in multiples of 8. 128 x 64 is taken for all",
    "one tile for each of the 8 multiprocessors: by analogy with AGX Xavier; no timing by rows of an Ampere was found",
)
CPU_STEPS = (
    f"{TOPHUB}: Winograd kernels compute output tiles of 2, 4 or 6 rows on ARM boards; 4 is taken here. Direct kernels "
    "take rows one at a time: latency is affine in rows within 1.2 % (median), 3.3 % (90th percentile)",
)
PI4_STEPS = (
    *CPU_STEPS,
    "the same is taken for ncnn, by analogy: which of its Winograd tiles it used is not published with the figures",
)


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


MAXWELL_TILES, VOLTA_TILES, AMPERE_TILES = Tiles(128, 64, 8, 4), Tiles(128, 32, 8, 4), Tiles(128, 64, 8, 8)
XAVIER_MHZ = 1377


def gpu_parameters(cores: int, mhz: float, dram: Fixed, tiles: Tiles, in_flight: str) -> Parameters:
    """A GPU's parameters before any figure is seen; launches take so many cycles, as on AGX Xavier."""
    wide = "no prior knowledge"
    slower = XAVIER_MHZ / mhz
    scaled = f", for its clock of {mhz:g} MHz" if mhz != XAVIER_MHZ else ""
    return {
        "peak_gflops": Fixed(
            float(f"{4e-3 * cores * mhz:.4g}"), f"computed: 2 x 2 x cores x clock, {cores} cores at {mhz:g} MHz"
        ),
        "spatial_share": Prior(1.0, 1.0, wide),
        "pointwise_ratio": Prior(0.8, 0.5, wide),
        "group_us": Prior(0.01, 2.0, wide),
        "dram_gbps": dram,
        "bandwidth_share": Prior(0.75, 0.15, "what streaming kernels reach of a memory's documented bandwidth"),
        "conv_launch_us": Prior(17.5 * slower, 0.5, f"{XAVIER_TRT}: no convolution takes less than 15-20 us{scaled}"),
        "other_launch_us": Prior(5.0 * slower, 0.3, f"{XAVIER_TRT}: copies and small poolings take 4-7 us{scaled}"),
        "tile_pixels": Fixed(tiles.pixels, "step_evidence"),
        "tile_channels": Fixed(tiles.channels, "step_evidence"),
        "tiles_in_flight": Fixed(tiles.in_flight, in_flight),
        "input_channel_quantum": Fixed(tiles.quantum, "step_evidence"),
    }


def tx1_parameters(tiles: Tiles) -> Parameters:
    """What is known of a TX1; its launch times are those of an old TensorRT, and are not carried over."""
    parameters = gpu_parameters(256, 998, Fixed(25.6, "TX1"), tiles, "TX1")
    return {**parameters, "conv_launch_us": Prior(50.0, 0.5, "TensorRT 1")}


def xavier_parameters(tiles: Tiles) -> Parameters:
    """What is known of an AGX Xavier; tensor cores come on top of its peak."""
    dram = Fixed(137, "Jetson AGX Xavier, LPDDR4x documentation")
    return gpu_parameters(512, XAVIER_MHZ, dram, tiles, "1 a multiprocessor, 8 multiprocessors: step_evidence")


def orin_parameters() -> Parameters:
    """What is known of an Orin Nano in its 15 W mode; tensor cores come on top of its peak."""
    dram = Fixed(68, "hokwangchoi/jetson-orin-nano-benchmarks README: LPDDR5, 8 GB")
    in_flight = "1 a multiprocessor, 8 multiprocessors: step_evidence"
    return gpu_parameters(1024, 625, dram, AMPERE_TILES, in_flight)


def grouped(layer_fit: LayerFit) -> Prior:
    """Prior of the time of a group, for boards without layer timings of depthwise convolutions."""
    return Prior(layer_fit.values["group_us"], 1.0, f"{EDGE_PROFILER}: depthwise convolutions are bound by memory")


_MAXWELL_SIGMAS = {"spatial_share": 0.3, "pointwise_ratio": 0.3}
_TX1_NOTE = "the prior of the conv rates is a TX1's under an older TensorRT, hence its spread of 0.3"


def nano(maxwell: LayerFit, ampere: LayerFit) -> Board:
    """Nano: its GPU is of the TX1's build, so the TX1's layers give the shares of the peak."""
    dram = Fixed(25.6, "Jetson Nano, LPDDR4 documentation")
    tiles = replace(MAXWELL_TILES, in_flight=4)
    known = gpu_parameters(128, 921.6, dram, tiles, "4 a multiprocessor as on TX1, 1 multiprocessor")
    return Board(
        name="jetson-nano",
        device="NVIDIA Jetson Nano, 128-core Maxwell GPU",
        precision="FP16",
        model=GpuSpeed,
        parameters={**narrowed(known, maxwell, _MAXWELL_SIGMAS, TX1_TRT), "group_us": grouped(ampere)},
        step_evidence=GPU_STEPS,
        notes=(
            _TX1_NOTE,
            "no figure here has depthwise convolutions: group_us is an Orin Nano's under a later TensorRT",
        ),
    )


def tx2(maxwell: LayerFit) -> Board:
    """TX2: as the Nano, but its figures are from a TensorRT that ran depthwise convolutions group by group."""
    dram = Fixed(59.7, "Jetson TX2, LPDDR4; bandwidth from memory, no document at hand")
    known = gpu_parameters(256, 1300, dram, MAXWELL_TILES, "4 a multiprocessor as on TX1, 2 multiprocessors")
    launch = known["other_launch_us"].value
    group = Prior(launch, 1.0, "taken: a kernel for each group, as fast as small kernels (other_launch_us)")
    return Board(
        name="jetson-tx2",
        device="NVIDIA Jetson TX2, 256-core Pascal GPU",
        precision="FP16",
        model=GpuSpeed,
        parameters={**narrowed(known, maxwell, _MAXWELL_SIGMAS, TX1_TRT), "group_us": group},
        step_evidence=GPU_STEPS,
        notes=(
            _TX1_NOTE,
            "MobileNet-v1's figure is 4 times what memory and arithmetic explain; 2 us for each of its 4,960 depthwise "
            "channels explain it, which is what starting a kernel takes: this TensorRT (of 2018) seems to have run "
            "them one by one. Then rows do not matter to a depthwise convolution. It rests on that one figure, and a "
            "later TensorRT is much faster",
        ),
    )


def xavier(volta: LayerFit, ampere: LayerFit) -> Board:
    """AGX Xavier: layer timings of the same board give priors to rates and launch times."""
    sigmas = {"spatial_share": 0.2, "pointwise_ratio": 0.2, "conv_launch_us": 0.3}
    known = narrowed(xavier_parameters(VOLTA_TILES), volta, sigmas, XAVIER_TRT)
    return Board(
        name="jetson-agx-xavier",
        device="NVIDIA Jetson AGX Xavier, 512-core Volta GPU with tensor cores",
        precision="FP16",
        model=GpuSpeed,
        parameters={**known, "group_us": grouped(ampere)},
        step_evidence=GPU_STEPS,
        notes=("layers were timed under TensorRT's profiler, which adds to each: hence the launch time's spread",),
    )


def orin_nano(volta: LayerFit, ampere: LayerFit) -> Board:
    """Orin Nano: MobileNet-v2's layers on the same board, and AGX Xavier's rates on tensor cores."""
    rates = narrowed(orin_parameters(), volta, {"spatial_share": 0.5, "pointwise_ratio": 0.3}, XAVIER_TRT)
    sigmas = {"group_us": 1.0, "bandwidth_share": 0.15, "conv_launch_us": 0.3}
    return Board(
        name="jetson-orin-nano",
        device="NVIDIA Jetson Orin Nano 8 GB, 1024-core Ampere GPU with 32 tensor cores, 15 W mode",
        precision="FP16",
        model=GpuSpeed,
        parameters=narrowed(rates, ampere, sigmas, EDGE_PROFILER),
        step_evidence=(*ORIN_STEPS, GPU_STEPS[1]),
        notes=(
            "the figures are of JetPack 6.0, which has no Super mode; that their board ran at the full 625 MHz of its "
            "15 W mode (opencv/opencv_zoo@51d25f9 benchmark/README.md) is taken, not published. In a Super mode it is "
            "about twice as fast: ResNet-18 takes .88 ms in the 25 W mode (trtexec, GPU time; "
            "gwonxhj/jetson-orin-nano-internal-lab@87b6c6d)",
            "the three figures are ResNets: none tells of large fully connected layers or of depthwise convolutions, "
            "which rest on MobileNet-v2's layers, timed under TensorRT's profiler",
        ),
    )


def raspberry_3b(folder: Path) -> Board:
    """Raspberry Pi 3B: tuned kernels of the same board give priors to the rates."""
    wide = cpu_parameters(Prior(1.1, 0.2, f"{SBC_BENCH}: memcpy 1.11 GB/s, memset 1.70 GB/s"))
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
            "single kernels run at a rate that does not depend on the size of their weights, which their caches hold; "
            "whole models are slower by about what fetching the weights takes, which the model therefore adds",
        ),
    )


def raspberry_4b(folder: Path) -> Board:
    """Raspberry Pi 4B: tuned kernels on two Cortex-A72 of an RK3399 give priors to the rates of four."""
    wide = cpu_parameters(Prior(2.33, 0.3, f"{SBC_BENCH}: memcpy 2.33 GB/s, memset 3.12 GB/s"))
    timings = tophub_layers(folder, "rk3399", ("direct", "winograd", "depthwise"))
    layer_fit = fit_layers(CpuSpeed, wide, timings, element_bytes=4)
    more = 4 * 1.5 / (2 * 1.8)
    scaled = replace(
        layer_fit,
        values={name: value * (more if name.endswith("gflops") else 1) for name, value in layer_fit.values.items()},
    )
    source = f"{TOPHUB}, rk3399: 2 x Cortex-A72 at 1.8 GHz, rates for 4 at 1.5 GHz"
    sigmas = {"direct_gflops": 0.3, "winograd_gflops": 0.3, "transform_gbps": 0.6, "launch_us": 2.0}
    return Board(
        name="raspberry-pi-4b",
        device="Raspberry Pi 4B, 4 x Cortex-A72 at 1.5 GHz",
        precision="FP32",
        model=CpuSpeed,
        parameters=narrowed(wide, scaled, sigmas, source),
        step_evidence=PI4_STEPS,
        notes=(
            "ncnn stands for a CPU runtime with Winograd kernels that was tuned for ARM; the priors are another "
            "runtime's (TVM) on another board's two such cores, hence their spreads",
            "its fixed time of a kernel holds what ncnn does around each: padding, packing, starting four threads",
        ),
    )


def cpu_parameters(dram: Prior) -> Parameters:
    """A CPU's parameters before any layer timing is seen."""
    wide = "no prior knowledge"
    return {
        "direct_gflops": Prior(15.0, 1.0, wide),
        "winograd_gflops": Prior(50.0, 1.0, wide),
        "transform_gbps": Prior(0.3, 1.0, wide),
        "dram_gbps": dram,
        "launch_us": Prior(25.0, 0.5, wide),
        "winograd_rows": Fixed(4, "step_evidence"),
    }


def all_boards(folder: Path) -> list[Board]:
    """Every board, from the layer timings in `folder` and those that were found."""
    maxwell = fit_layers(GpuSpeed, tx1_parameters(MAXWELL_TILES), tx1_layers(folder), element_bytes=2)
    volta = fit_layers(GpuSpeed, xavier_parameters(VOLTA_TILES), xavier_layers(folder), element_bytes=2)
    ampere = fit_layers(GpuSpeed, orin_parameters(), orin_layers(), element_bytes=2)
    return [
        nano(maxwell, ampere),
        tx2(maxwell),
        xavier(volta, ampere),
        orin_nano(volta, ampere),
        raspberry_3b(folder),
        raspberry_4b(folder),
    ]
