"""`distredge quickstart`: from a CNN and photographs to a distributed run, in one command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, errors, progress_bar, table
from distredge.cli.planning import calibration_note
from distredge.cli.running import check_difference, run_up
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import planner
from distredge.plans.plan import Plan
from distredge.plots import draw_plan
from distredge.resources import check_writable, write_atomically
from distredge.runtime.run import RunOptions
from distredge.scenario import Scenario, load_scenario
from distredge.simulate.timeline import trace

METHODS = {"offload": "single best device", "equal": "equal split", "search": "search", "osds": "OSDS (DDPG agent)"}
"""What is compared, by method."""

VERIFIED = 3
"""Photographs whose distributed result is compared with the undivided model's."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quickstart")(quickstart)


def quickstart(
    model: Annotated[str, typer.Option(help="A zoo name or an .onnx file.")] = "vgg16",
    scenario: Annotated[str, typer.Option(help="A shipped name or a YAML file.")] = "da-50",
    images: Annotated[int, typer.Option(min=1, help="Photographs in each timed run.")] = 30,
    out: Annotated[Path, typer.Option(help="Where plans, pictures and the table are written.")] = Path(
        "quickstart-results"
    ),
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Plan how four unequal devices share a CNN, run it on four processes, and compare with what was predicted.

    Example: distredge quickstart
    """
    check_writable(out / "results.json")
    errors.print(f"loading {model} (the first time it is exported to ONNX)")
    graph, chosen = load_model(model), load_scenario(scenario)
    rows, written = [], []
    for method in METHODS:
        made, seconds = _plan(graph, chosen, method, seed)
        plan_file, picture = out / f"plan-{method}.json", out / f"plan-{method}.png"
        made.save(plan_file)
        draw_plan(made, trace(made.bind(graph), chosen), picture)
        written += [plan_file, picture]
        rows.append({"method": method, "plan_s": seconds, **_measure(made, graph, chosen, images)})
    result = {"model": model, "scenario": scenario, "images": images, "rows": rows}
    write_atomically(out / "results.json", json.dumps(result, indent=2) + "\n")
    written.append(out / "results.json")
    data = {**result, "files": [str(path) for path in written]}
    emit(as_json, data, lambda: _show(graph, chosen, rows, written))


def _plan(graph: LayerGraph, scenario: Scenario, method: str, seed: int) -> tuple[Plan, float]:
    from distredge.api import make_task
    from distredge.planners.base import make_plan

    errors.print(f"planning: {METHODS[method]}")
    started = time.perf_counter()
    with progress_bar(f"planning with {method}") as progress:
        task = make_task(graph, scenario, seed, None, progress)
        made = make_plan(task, planner(method).plan(task), method, seed)
    return made, time.perf_counter() - started


def _measure(made: Plan, graph: LayerGraph, scenario: Scenario, images: int) -> dict[str, object]:
    """Run the plan twice: computing, to verify it; emulated, to time it."""
    from distredge.runtime.images import load_images

    errors.print("  running it on provider processes")
    bound = made.bind(graph)
    verified = run_up(bound, scenario, load_images(VERIFIED, graph), RunOptions(verify=True))
    check_difference(verified)
    timed = run_up(bound, scenario, load_images(images, graph), RunOptions(emulate=True))
    latency = timed["latency_ms"]
    assert isinstance(latency, dict)
    return {
        "predicted_ms": timed["predicted_ms"],
        "measured_ms": latency["p50"],
        "ips": timed["ips"],
        "max_abs_diff": verified["max_abs_diff"],
    }


def _show(graph: LayerGraph, scenario: Scenario, rows: list[dict[str, object]], written: list[Path]) -> None:
    devices = ", ".join(f"{p.name} {p.bandwidth_mbps:g} Mbit/s" for p in scenario.providers)
    cells = [
        [
            METHODS[str(r["method"])],
            r["predicted_ms"],
            r["measured_ms"],
            r["ips"],
            f"{r['max_abs_diff']:.1e}",
            r["plan_s"],
        ]
        for r in rows
    ]
    columns = ["plan", "predicted ms", "measured ms", "images/s", "difference", "planned in s"]
    table(f"{graph.name} on {scenario.name}: {devices}", columns, cells)
    console.print(
        "measured: median over TCP between processes of this machine, each split-part held for its board's time and"
        " each link shaped to its rate (emulated); difference: largest, of the output's scale, when the same plan"
        " really computes"
    )
    console.print(calibration_note(scenario))
    console.print("wrote " + ", ".join(str(path) for path in written))
