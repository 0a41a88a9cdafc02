"""Published figures of the Jetson Orin Nano and the Raspberry Pi 4B that were found in public sources.

Each is a fact that somebody else measured, with its source; nothing here was measured for this project.
"""

from __future__ import annotations

from published_figures import LayerTiming, Row

from distredge.model.load import load_model

NETSPRESSO = "Nota-NetsPresso/netspresso-trainer@5c32131 docs/benchmarks/device_matrix/tensorrt.md"
EDGE_PROFILER = "fuzzylabs/edge-vision-power-estimation@1184996 (Orin Nano, JetPack 6.1, TensorRT 10.1 FP16)"
NCNN = "Tencent/ncnn issue #3485, section Raspberry Pi 4 Model B 1.5 GHz"

_ORIN_MS = {"resnet18": 1.99792, "resnet34": 3.48368, "resnet50": 4.80201}
"""JetPack 6.0, before the Super modes; heads of 3 classes, a few microseconds less than with 1,000."""

_PI4_MS = {
    "vgg16": 873.71,
    "resnet50": 335.34,
    "resnet18": 176.18,
    "mobilenet_v1": 72.08,
    "mobilenet_v2": 72.62,
    "squeezenet1_1": 58.93,
}
"""Averages of 8 runs on 4 threads; FP32, since a Cortex-A72 has no FP16 arithmetic."""

_ORIN_MOBILENET_V2_US = (
    (43.1, 59.7, 24.2, 63.3, 70.2, 23.4, 35.5, 65.3, 32.4, 34.8, 28.5, 19.0, 20.7, 29.2, 18.2, 19.9, 29.3, 18.1)
    + (20.1, 17.0, 16.9, 18.2, 21.2, 19.4, 17.5, 20.2, 18.2, 17.3, 20.2, 18.0, 17.2, 20.4, 20.1, 28.0, 24.7, 21.8)
    + (25.5, 24.6, 21.7, 25.6, 17.0, 18.9, 23.5, 18.4, 22.0, 21.7, 18.5, 22.2, 21.6, 18.6, 27.6, 31.1)
)
"""MobileNet-v2's 52 convolutions in their order: average_power_and_run_time.csv, microseconds."""


def found_figures() -> list[Row]:
    """Whole models, as `board_calibration.csv` has them."""
    orin = {"board": "jetson-orin-nano", "runtime": "TensorRT, JetPack 6.0", "source": NETSPRESSO}
    pi4 = {"board": "raspberry-pi-4b", "runtime": "ncnn, 4 threads", "source": NCNN}
    rows: list[Row] = []
    for known, figures in ((orin, _ORIN_MS), (pi4, _PI4_MS)):
        for model, latency in figures.items():
            size = "227x227" if model == "squeezenet1_1" else "224x224"
            rows.append({**known, "model": model, "input": size, "latency_ms": str(latency)})
    return rows


def orin_layers() -> list[LayerTiming]:
    """MobileNet-v2's convolutions on an Orin Nano, under TensorRT's profiler."""
    layers = [layer for layer in load_model("mobilenet_v2").layers if layer.op in ("conv", "depthwise")]
    return [
        LayerTiming(layer, layer.height, microseconds / 1e3)
        for layer, microseconds in zip(layers, _ORIN_MOBILENET_V2_US, strict=True)
    ]
