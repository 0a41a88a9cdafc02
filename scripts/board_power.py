"""What boards draw and how much memory split-parts may use: each number with where it was taken from."""

from __future__ import annotations

from distredge.profiles.board import BoardPower, Parameter

_MEANINGS = {
    "idle_w": ("W", "the whole board while it waits"),
    "active_w": ("W", "the whole board while it computes"),
    "radio_w": ("W", "what the Wi-Fi radio adds while it sends or receives"),
    "memory_mb": ("MB", "memory that split-parts may use: the board's, less what the system takes"),
}

_MIMO = (
    2.1,
    "measured, another radio: Halperin et al., HotPower 2010, 1.: a laptop's 802.11n radio with MIMO, high rates",
)
_SINGLE = (
    1.0,
    "stand-in: ATWILC3000A data sheet 8.2.2: 304 mA of 3.3 V, one antenna, sending; the Pi's chip not found",
)
_PI3_PAGE = "medium.com/@fguerraz, Raspberry Pi 3 model B power consumption"
_ENVS = "assumption of envs/README.md"

_KNOWN: dict[str, dict[str, tuple[float, str]]] = {
    "jetson-nano": {
        "idle_w": (1.6, "single samples: middle of four public tegrastats lines, POM_5V_IN 1.02, 1.39, 1.75, 2.00"),
        "active_w": (10, "documented, an upper limit: nvpmodel's MAXN budget"),
        "radio_w": _MIMO,
        "memory_mb": (3900, f"{_ENVS}: 4 GB less 100 MB"),
    },
    "jetson-tx2": {
        "idle_w": (3.06, "single sample: tegrastats VDD_IN in a test of DataDog/datadog-agent"),
        "active_w": (
            15,
            "documented, an upper limit: huggingface.co/hardware/jetson-tx2; 7.4 was seen with the CPU alone",
        ),
        "radio_w": _MIMO,
        "memory_mb": (7800, f"{_ENVS}: 8 GB less 200 MB"),
    },
    "jetson-agx-xavier": {
        "idle_w": (8.9, "measured: MLPerf v1.0 and v1.1, NVIDIA AGX_Xavier_TRT_MaxQ, middle of 8.1 to 9.6 at the wall"),
        "active_w": (22.9, "measured, INT8: MLPerf v1.1, same system, SSD-ResNet34 SingleStream; ResNet-50 takes 15.5"),
        "radio_w": _MIMO,
        "memory_mb": (31000, f"{_ENVS}: 32 GB less 1000 MB"),
    },
    "jetson-orin-nano": {
        "idle_w": (4.2, "measured: fuzzylabs/edge-vision-power-estimation@f90c694 idling_power.json, clocks locked"),
        "active_w": (
            14.1,
            "measured in a faster mode, an upper estimate: hokwangchoi/jetson-orin-nano-benchmarks@b7d1815, "
            "YOLOv8n FP16 under TensorRT in MAXN_SUPER",
        ),
        "radio_w": _MIMO,
        "memory_mb": (
            6700,
            "measured: gwonxhj/jetson-orin-nano-internal-lab@c513629 jetson_system_snapshot.md: 7620 MB less the "
            "877 in use at idle, rounded down",
        ),
    },
    "raspberry-pi-3b": {
        "idle_w": (1.3, f"unverified table (igamesnews.com); {_PI3_PAGE}: 1.22"),
        "active_w": (3.65, f"unverified table (igamesnews.com), its maximum; {_PI3_PAGE}: 3.95 with the SD card"),
        "radio_w": _SINGLE,
        "memory_mb": (900, f"{_ENVS}: 1 GB less 100 MB"),
    },
    "raspberry-pi-4b": {
        "idle_w": (2.8, "measured: MLPerf v2.0 Krai, at the wall"),
        "active_w": (5.37, "measured: MLPerf v2.0 Krai rpi4-armnn-v21.11, ResNet-50 FP32 on 4 threads, at the wall"),
        "radio_w": _SINGLE,
        "memory_mb": (3800, "assumption, by the Pi 3B's measure: the 4 GB board, 200 MB for the system"),
    },
}


def _parameter(board: str, name: str) -> Parameter:
    unit, meaning = _MEANINGS[name]
    value, origin = _KNOWN[board][name]
    return Parameter(value=value, unit=unit, meaning=meaning, origin=origin)


def power(board: str) -> BoardPower:
    """What a board draws."""
    return BoardPower(**{name: _parameter(board, name) for name in BoardPower.model_fields})


def memory(board: str) -> Parameter:
    """Memory that split-parts may use."""
    return _parameter(board, "memory_mb")
