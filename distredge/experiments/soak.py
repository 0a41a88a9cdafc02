"""A long stream with random faults, on a real network: nothing may be lost, and nothing may grow."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from distredge.experiments.faults import FAULTS, even_plan, exit_with, star_scenario
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.resources import write_atomically
from distredge.runtime.testbed.bed import Testbed
from distredge.scenario import REQUESTER

SETTLED_S = 60.0
"""What a process takes is compared with what it took by then."""

GROWTH_MB = 25.0
"""A process that has grown by more, or by more than `GROWTH_FILES` files, leaks."""

GROWTH_FILES = 8

MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Sample:
    """What a process had at a moment: resident memory in MB, open files."""

    t_s: float
    name: str
    pid: int
    memory_mb: float
    files: int


@dataclass
class Soak:
    """What happened. Times in seconds from the beginning; `results` as `soak_stream` notes them."""

    results: list[dict[str, Any]] = field(default_factory=list)
    faults: list[tuple[float, float, str, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    began_s: float = 0.0

    def summary(self) -> dict[str, object]:
        """Figures of the stream, and how much each process that lived through it has grown."""
        times = np.array([result["t_s"] for result in self.results])
        gaps = np.diff(times) * 1000.0
        indices = [result["index"] for result in self.results]
        return {
            "seconds": float(times[-1] - times[0]),
            "images": len(indices),
            "in_order_and_once": indices == list(range(len(indices))),
            "wrong": sum(result["difference"] > MAX_DIFFERENCE for result in self.results),
            "plans": len({result["epoch"] for result in self.results}),
            "faults": {name: sum(fault[2] == name for fault in self.faults) for name in _names()},
            "longest_pause_ms": float(gaps.max()),
            "p99_pause_ms": float(np.percentile(gaps, 99)),
            "median_pause_ms": float(np.median(gaps)),
            "growth": self._growth(),
        }

    def _growth(self) -> dict[str, dict[str, float]]:
        """Of each process that was there for long: MB and files at the end over those when it had settled."""
        found = {}
        for pid in {sample.pid for sample in self.samples}:
            own = [sample for sample in self.samples if sample.pid == pid]
            settled = [sample for sample in own if sample.t_s >= own[0].t_s + SETTLED_S]
            if len(settled) < 20:
                continue
            first, last = settled[:10], settled[-10:]
            found[f"{own[0].name} ({own[-1].t_s - own[0].t_s:.0f} s)"] = {
                "memory_mb": float(np.median([s.memory_mb for s in last]) - np.median([s.memory_mb for s in first])),
                "files": float(np.median([s.files for s in last]) - np.median([s.files for s in first])),
            }
        return found


def _names() -> list[str]:
    return [fault.name for fault in FAULTS]


def soak(graph: LayerGraph, seconds: float, providers: int, seed: int, tell: Callable[[str], None]) -> Soak:
    """Stream for so long and harm a random provider every now and then; the first one, with the head, too."""
    rng, scenario = np.random.default_rng(seed), star_scenario(providers)
    found = Soak()
    with Testbed(scenario) as bed:
        plan_file = bed.folder / "soak.json"
        even_plan(graph, scenario).plan.save(plan_file)
        at = [f"{name}={address}" for name, address in bed.addresses.items()]
        stream = [sys.executable, "-m", "distredge.experiments.soak_stream", str(plan_file), str(bed.scenario_file)]
        command = bed.command_at(REQUESTER, [*stream, str(bed.keys), str(seconds), *at])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        reader = Thread(target=_read, args=(process, found), daemon=True)
        reader.start()
        while not found.results and process.poll() is None:
            time.sleep(0.1)
        found.began_s = time.monotonic()
        _harm(bed, process, found, rng, seconds, tell)
        process.wait()
        reader.join()
    return found


def _read(process: subprocess.Popen[str], found: Soak) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            found.results.append(json.loads(line))


def _harm(
    bed: Testbed,
    process: subprocess.Popen[str],
    found: Soak,
    rng: np.random.Generator,
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Harm a provider, heal it, wait, until the stream is over; sample all processes meanwhile."""
    names = bed.scenario.provider_names
    while process.poll() is None and time.monotonic() - found.began_s < seconds - 15.0:
        fault, victim = FAULTS[int(rng.integers(len(FAULTS)))], names[int(rng.integers(len(names)))]
        begun = time.monotonic() - found.began_s
        fault.harm(bed, victim)
        _sample_for(bed, process, found, float(rng.uniform(1.0, 6.0)))
        fault.heal(bed, victim)
        found.faults.append((begun, time.monotonic() - found.began_s, fault.name, victim))
        tell(f"{begun:4.0f} s: {victim} {fault.name}, {len(found.results)} images so far")
        _sample_for(bed, process, found, float(rng.uniform(4.0, 10.0)))
    while process.poll() is None:
        _sample_for(bed, process, found, 1.0)


def _sample_for(bed: Testbed, process: subprocess.Popen[str], found: Soak, seconds: float) -> None:
    """Wait so long, and note each second what every process has."""
    until = time.monotonic() + seconds
    while process.poll() is None and (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        pids = {REQUESTER: process.pid, **{name: bed.pid(name) for name in bed.scenario.provider_names}}
        for name, pid in pids.items():
            if sample := _sample(time.monotonic() - found.began_s, name, pid):
                found.samples.append(sample)


def _sample(t_s: float, name: str, pid: int) -> Sample | None:
    folder = Path("/proc") / str(pid)
    try:
        resident = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return Sample(t_s, name, pid, int(resident.split()[1]) / 1000.0, len([*(folder / "fd").iterdir()]))
    except (OSError, StopIteration):
        return None


def leaks(summary: dict[str, object]) -> list[str]:
    """The processes that have grown too much."""
    growth = summary["growth"]
    assert isinstance(growth, dict)
    return [
        f"{name}: {g['memory_mb']:+.1f} MB, {g['files']:+.0f} files"
        for name, g in growth.items()
        if g["memory_mb"] > GROWTH_MB or g["files"] > GROWTH_FILES
    ]


def draw(found: Soak, path: Path) -> None:
    """Write a PNG: pauses between results with the faults behind them, memory and open files of every process."""
    from distredge.plots import COLOURS, new_figure, save_figure

    figure = new_figure(11, 7)
    pauses, memory, files = figure.subplots(3, 1, sharex=True)
    colours = dict(zip(_names(), COLOURS, strict=False))
    for begun, ended, fault, _ in found.faults:
        for axes in (pauses, memory, files):
            axes.axvspan(begun, ended, color=colours[fault], alpha=0.25, lw=0)
    times = np.array([result["t_s"] for result in found.results]) - found.began_s
    pauses.semilogy(times[1:], np.diff(times) * 1000.0, color="black", lw=0.6)
    pauses.axhline(1500.0, color="black", lw=0.8, ls="--")
    pauses.set(ylabel="ms between two results")
    for name, colour in colours.items():
        pauses.axvspan(0.0, 0.0, color=colour, alpha=0.25, label=name)
    pauses.legend(fontsize=8, ncols=len(colours), loc="upper right", frameon=False)
    for k, name in enumerate(dict.fromkeys(sample.name for sample in found.samples)):
        own = [sample for sample in found.samples if sample.name == name]
        at, colour = [sample.t_s for sample in own], COLOURS[k % len(COLOURS)]
        memory.plot(at, [sample.memory_mb for sample in own], color=colour, lw=1.0, label=name)
        files.plot(at, [sample.files for sample in own], color=colour, lw=1.0)
    memory.set(ylabel="resident MB", ylim=(0, None))
    memory.legend(fontsize=8, ncols=6, loc="lower right", frameon=False)
    files.set(ylabel="open files", xlabel="s", ylim=(0, None))
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, write `soak.json` and `soak.png`, print the summary; 1 if anything was lost, wrong, late or leaked."""
    parser = argparse.ArgumentParser(description="A long stream with random faults on a real network; needs root.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--providers", type=int, default=4)
    parser.add_argument("--model", default="squeezenet1_1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    chosen = parser.parse_args(arguments)
    found = soak(load_model(chosen.model), 60.0 * chosen.minutes, chosen.providers, chosen.seed, print_line)
    result = found.summary()
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_atomically(chosen.out / "soak.json", json.dumps(result, indent=2) + "\n")
    draw(found, chosen.out / "soak.png")
    print(json.dumps(result, indent=2))
    problems = leaks(result)
    problems += [] if result["in_order_and_once"] and not result["wrong"] else ["results were lost or wrong"]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def print_line(text: str) -> None:
    """Progress, at once."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with(main)
