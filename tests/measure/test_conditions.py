"""The state of a device: one shell script, whatever the device, and what is made of what it prints."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from distredge.measure.conditions import SCRIPT, local_conditions, parse_conditions, read_conditions
from distredge.profiles.measured import Conditions

RECORDED = Path(__file__).parent / "recorded"


def recorded(board: str) -> Conditions:
    return parse_conditions((RECORDED / f"conditions-{board}.txt").read_text())


def test_jetson_nano() -> None:
    assert recorded("jetson-nano") == Conditions(
        at="2026-11-25T09:00:00+00:00",
        clocks_mhz={"cpu slowest": 921.6, "cpu fastest": 1428.0, "gpu": 230.4, "emc": 1600.0},
        governors=("schedutil",),
        temperatures_c={
            "AO-therm": 39.5, "CPU-therm": 32.0, "GPU-therm": 28.0, "PLL-therm": 30.0, "thermal-fan-est": 29.8
        },
        throttled=None,
        power_mode="MAXN",
        free_memory_mb=2359.8,
        load=0.54,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("board", "mode", "gpu_mhz", "throttled"),
    [
        ("jetson-tx2", "MAXP_CORE_ARM", 1300.5, "cooled by gpu-balanced"),
        ("jetson-agx-xavier", "MODE_15W_6CORE", 1377.0, None),
        ("jetson-orin-nano", "25W", 306.0, None),
    ],
)
def test_other_jetsons(board: str, mode: str, gpu_mhz: float, throttled: str | None) -> None:
    found = recorded(board)
    assert found.power_mode == mode
    assert found.clocks_mhz["gpu"] == gpu_mhz
    assert found.throttled == throttled
    assert all(0 < degrees < 100 for degrees in found.temperatures_c.values())


def test_raspberry_pis_say_why_they_are_slow() -> None:
    assert recorded("raspberry-pi-3").throttled == (
        "under-voltage now, throttled now, under-voltage earlier, throttled earlier"
    )
    assert recorded("raspberry-pi-4").throttled == "soft temperature limit earlier"  # from the kernel's file
    assert recorded("raspberry-pi-4").governors == ("performance",)


ALL_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("0x0", None),
        ("0x2", "frequency capped now"),
        ("0x20000", "frequency capped earlier"),
        ("0xf000f", ", ".join([*(f"{bit} now" for bit in ALL_BITS), *(f"{bit} earlier" for bit in ALL_BITS)])),
        ("VCHI initialization failed", None),
    ],
)
def test_each_bit_of_a_pi(mask: str, words: str | None) -> None:
    assert parse_conditions(f"pi|throttled={mask}").throttled == words


def test_a_pc_with_a_gpu() -> None:
    found = recorded("pc-gpu")
    assert found.clocks_mhz == {"cpu slowest": 800.1, "cpu fastest": 4400.0, "gpu": 1410.0, "gpu memory": 5001.0}
    assert found.temperatures_c == {"acpitz": 29.8, "x86_pkg_temp": 52.0, "gpu": 83.0}
    assert found.throttled == "power cap, thermal slowdown"


def test_nothing_has_to_be_there() -> None:
    for text in ("", "\n\n", "nvidia_smi|NVIDIA-SMI has failed because it couldn't communicate\n", "pi|\nload|\n"):
        found = parse_conditions(text)
        assert found == Conditions(at=found.at)
        assert datetime.fromisoformat(found.at).tzinfo is not None


def test_this_machine() -> None:
    found = local_conditions()
    assert abs(datetime.fromisoformat(found.at).timestamp() - datetime.now().timestamp()) < 60
    if Path("/proc/loadavg").exists():
        assert found.load is not None and found.load >= 0
        assert found.free_memory_mb is not None and found.free_memory_mb > 0


def test_the_script_asks_what_is_installed(tmp_path: Path) -> None:
    programs = {
        "nvpmodel": "echo 'NV Power Mode: 15W'; echo 2",
        "vcgencmd": "echo throttled=0x4",
        # An older driver: it knows the reasons by another name.
        "nvidia-smi": 'case "$*" in *clocks_event*) echo invalid field; exit 2;; esac; echo "900, 2000, 61, 0x40"',
        "jetson_clocks": "echo 'GPU MinFreq=1 MaxFreq=3 CurrentFreq=2000000'; echo 'EMC MinFreq=1 CurrentFreq=4000000'",
        "sudo": 'shift; exec "$@"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(script: str) -> str:
        path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(["sh", "-c", script], env=path, text=True, capture_output=True, check=True).stdout

    found = read_conditions(run)
    assert found.power_mode == "15W"
    assert found.throttled == "throttled now, hardware thermal slowdown"
    assert found.clocks_mhz["gpu"] == 900.0
    assert found.clocks_mhz["emc"] == 4.0
    assert found.temperatures_c["gpu"] == 61.0


def test_the_script_says_nothing_of_what_is_missing() -> None:
    """It prints no errors, and ends well, so that it serves over ssh as it is."""
    ran = subprocess.run(["sh", "-c", SCRIPT], text=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    assert (ran.returncode, ran.stderr) == (0, "")
