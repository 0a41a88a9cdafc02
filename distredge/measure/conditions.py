"""What state a device is in: clocks, governors, temperatures, throttling, power mode, free memory, load.

One small script for the POSIX shell asks the device, whichever it is and wherever it stands; whatever of that is not
there, or not allowed, is left out.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone

from distredge.profiles.measured import Conditions

TIME_LIMIT_S = 30.0
"""That the script may take here; a GPU's driver that sleeps needs seconds."""

SCRIPT = r"""
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin:/opt/vc/bin"
show() { [ -r "$2" ] && value=$(cat "$2" 2>/dev/null) && echo "$1|$value"; }
echo "time|$(date -u +%Y-%m-%dT%H:%M:%S+00:00)"
for cpu in /sys/devices/system/cpu/cpu[0-9]*/cpufreq; do
    show cpu_khz "$cpu/scaling_cur_freq"
    show governor "$cpu/scaling_governor"
done
for device in /sys/class/devfreq/*; do show "devfreq_hz|${device##*/}" "$device/cur_freq"; done
for zone in /sys/class/thermal/thermal_zone*; do
    show "temperature_mc|$(cat "$zone/type" 2>/dev/null)" "$zone/temp"
done
for cooler in /sys/class/thermal/cooling_device*; do
    show "cooling|$(cat "$cooler/type" 2>/dev/null)" "$cooler/cur_state"
done
show load /proc/loadavg
[ -r /proc/meminfo ] && echo "memory_kb|$(sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo)"
if command -v nvpmodel >/dev/null; then nvpmodel -q 2>/dev/null | sed 's/^/nvpmodel|/'; fi
if command -v jetson_clocks >/dev/null; then
    if [ "$(id -u)" = 0 ]; then jetson_clocks --show; else sudo -n jetson_clocks --show; fi 2>/dev/null |
        sed 's/^/jetson_clocks|/'
fi
if command -v vcgencmd >/dev/null; then echo "pi|$(vcgencmd get_throttled 2>/dev/null)"
else show pi /sys/devices/platform/soc/soc:firmware/get_throttled; fi
if command -v nvidia-smi >/dev/null; then
    for reasons in clocks_event_reasons clocks_throttle_reasons; do
        found=$(nvidia-smi -i 0 --format=csv,noheader,nounits \
            --query-gpu=clocks.sm,clocks.mem,temperature.gpu,$reasons.active 2>/dev/null) && break
    done
    echo "nvidia_smi|$found"
fi
:
"""
"""Prints lines `kind|value` or `kind|name|value`."""

PI_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Of `vcgencmd get_throttled`; 16 higher: it has happened since the start. Source: Raspberry Pi documentation."""

NVIDIA_BITS = {
    2: "power cap",
    3: "hardware slowdown",
    5: "thermal slowdown",
    6: "hardware thermal slowdown",
    7: "power brake",
}
"""Of `nvidia-smi`'s reasons for lower clocks; the others are no trouble: idle, clocks that were asked for."""

_GPU = re.compile(r"gpu|gm20b|gp10b|gv11b|ga10b|gb10b")  # as the Jetsons' kernels call it
_SLOWS = re.compile(r"cpufreq|devfreq|throttle|balanced")  # cooling by lower clocks, not by a fan
_FAKE_SENSORS = {"PMIC-Die"}  # always 100 degrees on Nano, TX2 and Xavier


def local_conditions() -> Conditions:
    """The state of this machine."""
    return read_conditions(_run_here)


def read_conditions(run: Callable[[str], str]) -> Conditions:
    """The state of the machine on which `run` has a shell script run; it returns what that prints."""
    return parse_conditions(run(SCRIPT))


def _run_here(script: str) -> str:
    try:
        ran = subprocess.run(
            ["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIME_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired):  # conditions are good to know, and no reason to stop measuring
        return ""
    return ran.stdout


def parse_conditions(text: str) -> Conditions:
    """What `SCRIPT` printed; lines that are not understood are left out."""
    lines = [line.split("|") for line in text.splitlines()]
    found: dict[str, list[list[str]]] = {}
    for kind, *values in lines:
        found.setdefault(kind, []).append([value.strip() for value in values])
    smi = _nvidia_smi(found)
    memory_kb = _first(_numbers(found, "memory_kb"))
    return Conditions(
        at=_time(found),
        clocks_mhz=_clocks(found, smi),
        governors=tuple(dict.fromkeys(values[-1] for values in found.get("governor", []))),
        temperatures_c=_temperatures(found, smi),
        throttled=", ".join((*_pi(found), *_cooling(found), *_nvidia(smi))) or None,
        power_mode=_power_mode(found),
        free_memory_mb=None if memory_kb is None else round(memory_kb * 1024 / 1e6, 1),
        load=_first(_numbers(found, "load")),
    )


_Found = dict[str, list[list[str]]]


def _time(found: _Found) -> str:
    told = found.get("time", [[""]])[0][-1]
    return told or datetime.now(timezone.utc).isoformat(timespec="seconds")


def _clocks(found: _Found, smi: list[str]) -> dict[str, float]:
    cpus = [khz / 1e3 for khz in _numbers(found, "cpu_khz")]
    clocks = {"cpu slowest": min(cpus), "cpu fastest": max(cpus)} if cpus else {}
    for name, hz in _named(found, "devfreq_hz"):
        clocks["gpu" if _GPU.search(name) else name] = hz / 1e6
    for line in found.get("jetson_clocks", []):
        shown = re.match(r"(GPU|EMC) .*CurrentFreq=(\d+)", line[-1])
        if shown:
            clocks[shown[1].lower()] = int(shown[2]) / 1e6
    for name, value in zip(("gpu", "gpu memory"), smi, strict=False):
        if _number(value):
            clocks[name] = float(value)
    return {name: round(mhz, 1) for name, mhz in clocks.items()}


def _temperatures(found: _Found, smi: list[str]) -> dict[str, float]:
    warmest: dict[str, float] = {}
    for name, milli in _named(found, "temperature_mc"):
        if name not in _FAKE_SENSORS and -40e3 < milli < 200e3:  # sensors without power tell nonsense
            warmest[name] = max(warmest.get(name, -273.0), round(milli / 1e3, 1))
    if len(smi) > 2 and _number(smi[2]) is not None:
        warmest["gpu"] = float(smi[2])
    return warmest


def _power_mode(found: _Found) -> str | None:
    for line in (*found.get("nvpmodel", []), *found.get("jetson_clocks", [])):
        _, told, mode = line[-1].partition("NV Power Mode: ")
        if told:
            return mode.strip()
    return None


def _pi(found: _Found) -> Iterator[str]:
    told = found.get("pi", [[""]])[0][-1].removeprefix("throttled=")
    mask = int(told, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]+", told) else 0
    yield from (f"{word} now" for bit, word in PI_BITS.items() if mask >> bit & 1)
    yield from (f"{word} earlier" for bit, word in PI_BITS.items() if mask >> bit + 16 & 1)


def _cooling(found: _Found) -> Iterator[str]:
    for name, state in _named(found, "cooling"):
        if state > 0 and _SLOWS.search(name):
            yield f"cooled by {name}"


def _nvidia_smi(found: _Found) -> list[str]:
    """Clock of the GPU, clock of its memory, temperature, reasons for low clocks; empty without nvidia-smi."""
    line = found.get("nvidia_smi", [[""]])[0][-1]
    return [value.strip() for value in line.split(",")] if line else []


def _nvidia(smi: list[str]) -> Iterator[str]:
    if len(smi) > 3 and re.fullmatch(r"0x[0-9a-fA-F]+", smi[3]):
        yield from (word for bit, word in NVIDIA_BITS.items() if int(smi[3], 16) >> bit & 1)


def _named(found: _Found, kind: str) -> Iterator[tuple[str, float]]:
    for values in found.get(kind, []):
        number = _number(values[-1])
        if len(values) == 2 and values[0] and number is not None:
            yield values[0], number


def _numbers(found: _Found, kind: str) -> list[float]:
    """First number of each line of a kind."""
    told = (_number((values[-1].split() or [""])[0]) for values in found.get(kind, []) if values)
    return [number for number in told if number is not None]


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


def _first(numbers: Iterable[float]) -> float | None:
    return next(iter(numbers), None)
