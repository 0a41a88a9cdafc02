"""What failures cost a stream on a real network: each fault at each moment, with so many providers.

Every run is `distredge run` in a test-bed of network namespaces, with real computation and float32 on the wire,
compared image by image with the undivided model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from distredge.errors import DistrEdgeError, RunError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan, ModelRef, Plan, VolumePlan
from distredge.resources import write_atomically
from distredge.runtime.testbed.bed import Testbed
from distredge.scenario import Provider, Scenario

MBPS = 100.0

AWAY_S = 4.0
"""After so long what was done to a provider is undone."""

SLOW_SHARE = 0.1
"""Of a core: a provider that has so little left is about five times as slow, or more, at these stages."""

_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Fault:
    """What is done to a provider, and how it is undone."""

    name: str
    harm: Callable[[Testbed, str], None]
    heal: Callable[[Testbed, str], None]


FAULTS = (
    Fault("killed", lambda bed, name: bed.kill(name), lambda bed, name: bed.restart(name)),
    Fault("frozen", lambda bed, name: bed.freeze(name), lambda bed, name: bed.thaw(name)),
    Fault("cut off", lambda bed, name: bed.cut(name), lambda bed, name: bed.mend(name)),
    Fault("slowed", lambda bed, name: bed.slow(name, SLOW_SHARE), lambda bed, name: bed.unslow(name)),
)


@dataclass(frozen=True)
class Outcome:
    """How a stream of `images` went through a fault; `lost` of them had no result, or not the right one.

    `pause_ms` is the longest time between two results, `usual_ms` the median; `plans` says which providers shared the
    work, one plan after the other, `reasons` why they followed each other. `is_back`: the harmed provider had a part in
    the last plan.
    """

    fault: str
    moment: float
    providers: int
    images: int
    lost: int
    in_order: bool
    max_abs_diff: float
    pause_ms: float
    usual_ms: float
    plans: str
    reasons: str
    is_back: bool


def matrix(graph: LayerGraph, counts: Sequence[int], moments: Sequence[float], images: int) -> Iterator[Outcome]:
    """Each fault, at each moment (a share of the stream), with so many providers; one that is harmed has a part."""
    for count in counts:
        scenario = star_scenario(count)
        bound = even_plan(graph, scenario)
        for fault, moment in itertools.product(FAULTS, moments):
            with Testbed(scenario) as bed:
                yield outcome(bed, bound, fault, moment, images)


def outcome(bed: Testbed, bound: BoundPlan, fault: Fault, moment: float, images: int) -> Outcome:
    """Run a stream and harm its second provider in the middle of it."""
    victim = bed.scenario.provider_names[1]
    stream = Stream(bed, bound, images)
    stream.wait_for(round(moment * images))
    fault.harm(bed, victim)
    stream.wait(AWAY_S)
    fault.heal(bed, victim)
    report = stream.finish()
    times = [line["t_s"] for line in stream.lines]
    gaps = np.diff(times) * 1000.0
    right = report["max_abs_diff"] is not None and report["max_abs_diff"] <= 1e-4
    indices = [line["index"] for line in stream.lines]
    plans = [epoch["providers"] for epoch in report["epochs"]]
    reasons = [epoch["reason"] for epoch in report["epochs"]]
    return Outcome(
        fault=fault.name,
        moment=moment,
        providers=len(bed.scenario.providers),
        images=images,
        lost=images - len({*indices}) if right else images,
        in_order=indices == list(range(images)),
        max_abs_diff=report["max_abs_diff"],
        pause_ms=float(gaps.max()),
        usual_ms=float(np.median(gaps)),
        plans=" > ".join("".join(name.removeprefix("p") for name in plan) for plan in plans),
        reasons=", ".join(reasons[1:]),
        is_back=victim in plans[-1],
    )


class Stream:
    """A `distredge run` on a test-bed whose results can be followed. `lines` are those noted so far."""

    def __init__(
        self, bed: Testbed, bound: BoundPlan, images: int, options: Sequence[str] = ("--verify",), inflight: int = 2
    ) -> None:
        plan_file, self._frames = bed.folder / "faults.json", bed.folder / "frames.jsonl"
        self._frames.unlink(missing_ok=True)
        bound.plan.save(plan_file)
        command = bed.run_command(
            plan_file,
            ["--json", "--images", str(images), "--frames", str(self._frames), "--inflight", str(inflight),
             "--model", str(bound.graph.path), *options],
        )  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []

    def wait_for(self, index: int) -> None:
        """Wait until an image's result is there; raises `RunError` if the run ends before."""
        deadline = time.monotonic() + _PATIENCE_S
        while len(self._read()) <= index:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the stream ended at image {len(self.lines)}: {self._complaint()}")
            time.sleep(0.005)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the stream has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def stop(self) -> list[dict[str, Any]]:
        """End the run at once; the results that were noted."""
        self.process.kill()
        self.process.communicate()
        return self._read()

    def finish(self) -> dict[str, Any]:
        """What the run reports at its end; raises `RunError` if it failed."""
        said, complaint = self.process.communicate(timeout=_PATIENCE_S)
        if self.process.returncode:
            raise RunError(f"the stream failed: {complaint.strip().splitlines()[-1:]}")
        self._read()
        report: dict[str, Any] = json.loads(said)
        return report

    def _read(self) -> list[dict[str, Any]]:
        if self._frames.exists():
            whole, _, _ = self._frames.read_text().rpartition("\n")
            self.lines = [json.loads(line) for line in whole.splitlines()]
        return self.lines

    def _complaint(self) -> str:
        self.process.kill()
        return " ".join((self.process.communicate()[1] or "").split())[-300:]


def star_scenario(count: int) -> Scenario:
    """Providers p0, p1, ... on like links."""
    providers = tuple(Provider(name=f"p{i}", profile="jetson-nano", bandwidth_mbps=MBPS) for i in range(count))
    return Scenario(name="faults", providers=providers)


def even_plan(graph: LayerGraph, scenario: Scenario) -> BoundPlan:
    """Four volumes, each cut into equal parts; the first provider runs the head, the second has a part in all."""
    points = graph.partition_points
    starts = [0, *sorted({points[len(points) * k // 4] for k in (1, 2, 3)} - {0})]
    names, volumes = scenario.provider_names, []
    for a, b in itertools.pairwise([*starts, len(graph.layers)]):
        height = graph.layers[b - 1].height
        cuts = tuple(i * height // len(names) for i in range(len(names) + 1))
        volumes.append(VolumePlan(layers=graph.names(a, b), cuts=cuts))
    model = ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape)
    plan = Plan(
        method="equal", model=model, scenario=scenario.name, providers=names, volumes=tuple(volumes),
        head_provider=names[0],
    )  # fmt: skip
    return plan.bind(graph)


COLUMNS = ("fault", "at", "providers", "lost", "pause ms", "usual ms", "providers, plan after plan", "because")

AIM_PAUSE_MS = 1500.0


def table_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """For printing: one row an outcome."""
    return [
        [o.fault, f"{o.moment:.0%}", str(o.providers), str(o.lost), f"{o.pause_ms:.0f}", f"{o.usual_ms:.0f}", o.plans,
         o.reasons]
        for o in outcomes
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix, write `faults.json` and `faults.md`; 1 if an image was lost or a pause was too long."""
    parser = argparse.ArgumentParser(description="What failures cost a stream on a real network; needs root.")
    parser.add_argument("--providers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--moments", type=float, nargs="+", default=[0.05, 0.4, 0.7])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--model", default="squeezenet1_1")
    parser.add_argument("--out", type=Path, default=Path("faults"))
    chosen = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    print("\n".join(lines), flush=True)
    for found in matrix(load_model(chosen.model), chosen.providers, chosen.moments, chosen.images):
        outcomes.append(found)
        lines += ["| " + " | ".join(row) + " |" for row in table_rows([found])]
        print(lines[-1], flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_atomically(chosen.out / "faults.json", json.dumps([asdict(o) for o in outcomes], indent=2) + "\n")
    write_atomically(chosen.out / "faults.md", "\n".join(lines) + "\n")
    return int(any(o.lost or not o.in_order or o.pause_ms > AIM_PAUSE_MS for o in outcomes))


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Leave with what `main` returns; an error is one line."""
    try:
        sys.exit(main())
    except DistrEdgeError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    exit_with(main)
