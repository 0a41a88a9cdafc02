"""`distredge partition`, `plan`, `simulate`: from a model and a scenario to a plan and what it promises.

What needs Numba is imported by the command that uses it, so that `distredge provider` starts quickly on a small device.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from distredge.cli.goals import (
    Deadline,
    Exclude,
    MaxCost,
    MaxEnergy,
    MaxRedundant,
    Minimise,
    MinReliability,
    Pin,
    RawTo,
    goals_of,
)
from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, progress_bar, table
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.partitioning.lcpss import ALPHA, SAMPLES, greedy, scorer
from distredge.planners import METHODS, planner
from distredge.plans.plan import Plan
from distredge.plans.scheme import PartitionScheme
from distredge.resources import check_writable
from distredge.scenario import Scenario, load_scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.memory import check_memory
from distredge.simulate.quality import Quality
from distredge.simulate.timeline import Timeline, trace

ScenarioName = Annotated[
    str, typer.Option("--scenario", "-s", metavar="SCENARIO", help="A shipped name or a YAML file.")
]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.")]
Budget = Annotated[
    float | None, typer.Option("--budget-s", min=0.1, help="Seconds to spend; without it a fixed amount of work.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("partition")(partition)
    app.command("plan")(plan)
    app.command("simulate")(simulate)


def partition(
    model: Model,
    scenario: ScenarioName,
    alpha: Annotated[float, typer.Option(help="Weight of transmission against operations, 0 to 1.")] = ALPHA,
    samples: Annotated[int, typer.Option(help="Random split decisions to average over.")] = SAMPLES,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Cut a model into layer-volumes with LC-PSS.

    Example: distredge partition vgg16 --scenario db-50
    """
    graph, chosen = load(model, input_shape), load_scenario(scenario)
    warn(chosen, graph)
    started = time.perf_counter()
    score = scorer(graph, len(chosen.providers), alpha, samples, np.random.default_rng(seed))
    scheme = greedy(score)
    seconds = time.perf_counter() - started
    data = {
        "volumes": [{"layers": list(names)} for names in scheme.volumes],
        "score": score.scheme(scheme.locations),
        "seconds": seconds,
    }

    def show() -> None:
        rows = [[v + 1, len(names), f"{names[0]} .. {names[-1]}"] for v, names in enumerate(scheme.volumes)]
        table(f"{graph.name} in {len(rows)} layer-volumes", ["volume", "layers", "from .. to"], rows)
        console.print(f"score {data['score']:.4f} (alpha {alpha}), {seconds * 1000:.0f} ms")

    emit(as_json, data, show)


def plan(
    model: Model,
    scenario: ScenarioName,
    method: Annotated[str, typer.Option("--method", "-m", help=", ".join(METHODS))] = "osds",
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|general",
            help="Let a trained agent decide: the policy.safetensors of a training, or the one for any cluster.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the plan is written.")] = None,
    budget_s: Budget = None,
    minimise: Minimise = None,
    deadline_ms: Deadline = None,
    max_energy_j: MaxEnergy = None,
    max_cost: MaxCost = None,
    max_redundant: MaxRedundant = None,
    min_reliability: MinReliability = None,
    exclude: Exclude = None,
    pin: Pin = None,
    raw_to: RawTo = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Plan how the providers of a scenario share a model.

    Example: distredge plan vgg16 --scenario db-50 --method osds --out plan.json
    """
    from distredge.api import make_task
    from distredge.planners.base import lower_bound_ms, make_plan, plan_quality
    from distredge.planners.trained import trained

    chosen_method = planner(method) if agent is None else trained(agent)
    goals = goals_of(
        minimise, deadline_ms, max_energy_j, max_cost, max_redundant, min_reliability, exclude, pin, raw_to
    )
    graph, chosen = load(model, input_shape), load_scenario(scenario)
    warn(chosen, graph)
    if out is not None:
        check_writable(out)
    with progress_bar(f"planning with {chosen_method.name}") as progress:
        started = time.perf_counter()
        task = make_task(graph, chosen, seed, budget_s, progress, goals)
        strategy = chosen_method.plan(task)
        seconds = time.perf_counter() - started
    made = make_plan(task, strategy, chosen_method.name, seed)
    if not (goals.latency_only or chosen_method.weighs):
        errors.print(f"note: '{chosen_method.name}' does not look for these goals; its plan keeps to them")
    if out is not None:
        made.save(out)
    found, bound_ms = plan_quality(task, made), lower_bound_ms(task, strategy.scheme)
    extras = {"seconds": seconds, "quality": dataclasses.asdict(found), "lower_bound_ms": bound_ms}
    data = {**made.model_dump(mode="json"), **extras}

    def show() -> None:
        show_plan(made)
        assert made.predicted is not None
        promised = f"{made.predicted.latency_ms:.2f} ms, {made.predicted.ips:.2f} images/s"
        console.print(f"predicted {promised}; planned in {seconds:.1f} s")
        console.print(f"no split decisions for these volumes can beat {bound_ms:.2f} ms")
        show_quality(found)
        console.print(calibration_note(chosen))
        if out is not None:
            console.print(f"wrote {out}")

    emit(as_json, data, show)


def simulate(
    plan_file: PlanFile,
    scenario: ScenarioName,
    model: Annotated[str | None, typer.Option(help="The model, if the plan's is not in the zoo.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the plan and its timeline into this PNG.")] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Predict what a plan does: latency, and every provider's part in every volume.

    Example: distredge simulate plan.json --scenario db-50 --plot plan.png
    """
    from distredge.simulate.simulator import Simulator

    if plot is not None:
        check_writable(plot)
    made, chosen = Plan.load(plan_file), load_scenario(scenario)
    graph = model_of(made, model)
    warn(chosen, graph)
    bound = made.bind(graph)
    check_memory(bound, chosen)
    timeline = trace(bound, chosen)
    scheme = PartitionScheme(graph, tuple(volume.start for volume in bound.volumes))
    bound_ms = Simulator(graph, chosen, scheme, VolumeCosts(graph, chosen.profiles)).lower_bound_ms()
    if plot is not None:
        from distredge.plots import draw_plan

        draw_plan(made, timeline, plot)
    data = explain(made, timeline, bound_ms)

    def show() -> None:
        show_timeline(made, timeline)
        console.print(f"latency {timeline.latency_ms:.2f} ms, {1000 / timeline.latency_ms:.2f} images/s")
        console.print(f"no split decisions for these volumes can beat {bound_ms:.2f} ms")
        console.print(calibration_note(chosen))
        if plot is not None:
            console.print(f"wrote {plot}")

    emit(as_json, data, show)


def explain(made: Plan, timeline: Timeline, lower_bound_ms: float) -> dict[str, object]:
    """A timeline as JSON-ready data, by volume and provider."""
    volumes = [{"layers": list(v.layers), "providers": {}} for v in made.volumes]
    head: dict[str, object] = {"provider": made.head_provider, "providers": {}}
    for work in timeline.work:
        entry = {
            "receive_ms": work.receive_ms,
            "compute_ms": work.compute_ms,
            "wait_ms": work.wait_ms,
            "rows": work.rows.size,
            "redundant_rows": work.redundant_rows,
            "bytes_in": work.bytes_in,
            "start_ms": work.start_ms,
        }
        target = volumes[work.volume] if work.volume < len(volumes) else head
        shares = target["providers"]
        assert isinstance(shares, dict)
        shares[work.provider] = entry
    return {
        "latency_ms": timeline.latency_ms,
        "ips": 1000.0 / timeline.latency_ms,
        "lower_bound_ms": lower_bound_ms,
        "volumes": volumes,
        "head": head,
    }


def show_plan(made: Plan) -> None:
    """The rows of each provider, by volume."""
    rows = [
        [
            f"{v.layers[0]} .. {v.layers[-1]}",
            *(f"{a}-{b}" if b > a else "" for a, b in zip(v.cuts[:-1], v.cuts[1:], strict=True)),
        ]
        for v in made.volumes
    ]
    table(f"{made.model.name} on {made.scenario} by {made.method}: rows [from-to)", ["volume", *made.providers], rows)
    console.print(f"head on {made.head_provider}")


FIGURES: tuple[tuple[str, Callable[[Quality], str]], ...] = (
    ("energy J", lambda q: "" if q.energy_j is None else f"{q.energy_j:.4g}"),
    ("idle J", lambda q: "" if q.idle_j is None else f"{q.idle_j:.4g}"),
    ("cost", lambda q: "" if q.cost is None else f"{q.cost:.4g}"),
    ("reliability", lambda q: "" if q.reliability is None else f"{q.reliability:.6g}"),
    ("redundant %", lambda q: f"{100 * q.redundant_share:.1f}"),
    ("memory MB", lambda q: ", ".join(f"{name} {mb:.0f}" for name, mb in q.memory_mb.items())),
)
"""What a frame costs, in words; empty where it is not known."""


def show_quality(found: Quality) -> None:
    """What a frame costs, as far as it is known."""
    console.print("a frame: " + "; ".join(f"{name} {text}" for name, write in FIGURES if (text := write(found))))


def show_timeline(made: Plan, timeline: Timeline) -> None:
    """Who does what when."""
    names = [f"{v.layers[0]} .. {v.layers[-1]}" for v in made.volumes] + ["head"]
    rows = [
        [
            names[w.volume],
            w.provider,
            w.rows.size,
            w.redundant_rows,
            w.bytes_in / 1000,
            w.receive_ms,
            w.wait_ms,
            w.compute_ms,
            w.stop_ms,
        ]
        for w in timeline.work
    ]
    columns = ["volume", "provider", "rows", "redundant", "kB in", "receive ms", "wait ms", "compute ms", "done at ms"]
    table(f"{made.model.name} on {made.scenario} by {made.method}", columns, rows)


def calibration_note(scenario: Scenario) -> str:
    """What kind of figures the prediction rests on."""
    calibrated = sorted({p.name for p in scenario.profiles if p.kind == "calibrated"})
    if not calibrated:
        return "profiles: measured"
    return f"profiles {', '.join(calibrated)}: calibrated from published figures, not measured"


def warn(scenario: Scenario, graph: LayerGraph) -> None:
    """Say on stderr what should be known before a scenario's profiles are used for a model."""
    for profile in dict.fromkeys(scenario.profiles):
        for words in profile.cautions(graph):
            errors.print(f"warning: {words}")


def model_of(made: Plan, model: str | None) -> LayerGraph:
    """The graph that a plan is for, at its image's sizes: the one named, else the zoo's."""
    return load_model(model or made.model.name, made.model.input_shape)
