"""Methods on a real network whose links follow traces: a piece of Fig. 11's hour, replayed in a test-bed.

Plans are made for the links as they were in the minute before the piece begins. Then some stay as they are, and one
stream follows its links as `distredge run` does, with a policy that was pre-trained for these devices. Board times are
held, the links are real. What the simulator says that a search at each moment would reach stands beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distredge import api
from distredge.experiments.faults import Stream, exit_with
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.resources import write_atomically
from distredge.runtime.testbed.bed import Testbed
from distredge.runtime.testbed.replay import Trace, read_trace, write_trace
from distredge.scenario import Scenario, load_scenario

MODEL, SCENARIO = "vgg16", "dynamic-nano"

HELD = ("coedge", "aofl", "search")

FROM_S, SECONDS = 1140.0, 120.0
"""About the first of Fig. 11's two changes of the averages, at 1200 s."""

BEFORE_S = 60.0
"""For whose mean rates the first plan is made."""

ORACLE_S = 2.0
"""Budget of the oracle's search at each change of the rates."""

FOLLOWED = "search, following"


@dataclass(frozen=True)
class Replayed:
    """A stream over the piece; latencies of its frames in ms, a frame counting as long as it took."""

    method: str
    frames: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    plans: int


def piece(scenario: Scenario, folder: Path, from_s: float, seconds: float) -> Scenario:
    """The scenario with its traces from a moment on, and as its rates the means of the minute before."""
    folder.mkdir(parents=True, exist_ok=True)
    providers = []
    for p in scenario.providers:
        trace = read_trace(scenario.folder / str(p.trace))
        inside = [t for t in trace.moments_s if from_s < t < from_s + seconds]
        cut = Trace((0.0, *(t - from_s for t in inside)), tuple(trace.rate_at(t) for t in (from_s, *inside)))
        write_trace(cut, folder / f"{p.name}.csv")
        before = np.mean([trace.rate_at(t) for t in np.arange(from_s - BEFORE_S, from_s, 1.0)])
        providers.append(p.model_copy(update={"bandwidth_mbps": float(before), "trace": f"{p.name}.csv"}))
    made = scenario.model_copy(update={"providers": tuple(providers)})
    made._folder = folder
    return made


def replay(graph: LayerGraph, scenario: Scenario, policy: Path, seconds: float) -> Iterator[Replayed]:
    """Each method over the piece, one after the other; then the oracle, by the simulator."""
    plans = {method: api.plan(graph, scenario, method=method, seed=0).bind(graph) for method in HELD}
    with Testbed(scenario) as bed:
        for method in (*HELD, FOLLOWED):
            bound = plans["search" if method == FOLLOWED else method]
            options = ["--policy", str(policy)] if method == FOLLOWED else ["--keep-plan"]
            stream = Stream(bed, bound, 1_000_000, ["--hold", *options], inflight=1)
            stream.wait_for(0)
            with bed.replaying():
                began = time.monotonic()
                stream.wait(seconds)
            lines = [line for line in stream.stop() if began <= line["t_s"] <= began + seconds]
            ms = np.array([line["latency_ms"] for line in lines])
            yield _replayed(method, ms, len({line["epoch"] for line in lines}))
    yield oracle(graph, scenario, seconds)


def oracle(graph: LayerGraph, scenario: Scenario, seconds: float) -> Replayed:
    """What a search at each change of the rates reaches, by the simulator; each latency counts as long as it lasts."""
    traces = [read_trace(scenario.folder / str(p.trace)) for p in scenario.providers]
    moments = sorted({t for trace in traces for t in trace.moments_s if t < seconds})
    ms = []
    for begin, end in zip(moments, [*moments[1:], seconds], strict=True):
        providers = (
            p.model_copy(update={"bandwidth_mbps": trace.rate_at(begin)})
            for p, trace in zip(scenario.providers, traces, strict=True)
        )
        now = scenario.model_copy(update={"providers": tuple(providers)})
        found = api.plan(graph, now, method="search", seed=0, budget_s=ORACLE_S).predicted
        assert found is not None
        ms += [found.latency_ms] * max(1, round(1000.0 * (end - begin) / found.latency_ms))
    return _replayed("oracle (simulated)", np.array(ms), len(moments))


def _replayed(method: str, ms: np.ndarray, plans: int) -> Replayed:
    weighed = np.repeat(ms, np.maximum(1, np.rint(ms)).astype(int))  # what a moment of the piece sees
    p50, p90 = (float(p) for p in np.percentile(weighed, (50, 90)))
    return Replayed(method, len(ms), float(weighed.mean()), p50, p90, plans)


COLUMNS = ("method", "frames", "mean ms", "p50 ms", "p90 ms", "plans")


def row(found: Replayed) -> str:
    """A line of the table."""
    figures = f"{found.mean_ms:.1f} | {found.p50_ms:.1f} | {found.p90_ms:.1f}"
    return f"| {found.method} | {found.frames} | {figures} | {found.plans} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a piece, write `replayed.json` and `replayed.md`."""
    parser = argparse.ArgumentParser(description="Methods on a test-bed whose links follow traces; needs root.")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--scenario", default=SCENARIO, help="each of its providers has a trace")
    parser.add_argument("--policy", type=Path, required=True, help="a file of `distredge pretrain` for them")
    parser.add_argument("--from-s", type=float, default=FROM_S)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, default=Path("replayed"))
    chosen = parser.parse_args(arguments)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    print("\n".join(lines), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scenario = piece(load_scenario(chosen.scenario), Path(folder), chosen.from_s, chosen.seconds)
        for found in replay(load_model(chosen.model), scenario, chosen.policy, chosen.seconds):
            rows.append(asdict(found))
            lines.append(row(found))
            print(lines[-1], flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_atomically(chosen.out / "replayed.json", json.dumps(rows, indent=2) + "\n")
    write_atomically(chosen.out / "replayed.md", "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
