"""`distredge train`: an agent for one model on one scenario, trained, tuned, resumed, with one seed or several."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, progress_bar, table
from distredge.cli.planning import Budget, ScenarioName, warn
from distredge.errors import InputError, needing
from distredge.model.graph import LayerGraph
from distredge.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from distredge.agents.settings import Settings
    from distredge.agents.tuning import Tuned
    from distredge.planners.training import Job, Trained
    from distredge.simulate.kernel import IntArray
    from distredge.simulate.simulator import Simulator


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    model: Model,
    scenario: ScenarioName,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs, the agent and the best plan.")],
    preset: Annotated[
        str, typer.Option(help="default: what learns well; paper: to the letter; or a YAML file.")
    ] = "default",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as actor.learning_rate=3e-4."),
    ] = None,
    budget_s: Budget = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Train so many seeds side by side, keep the best.")] = 1,
    tune: Annotated[
        int | None, typer.Option(min=1, help="Instead of training, try so many settings; writes the best as a preset.")
    ] = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Train OSDS, the agent that splits layer-volumes; logs for TensorBoard are in the folder.

    Example: distredge train vgg16 --scenario db-50 --out runs/db-50 --budget-s 60
    """
    from distredge.agents.settings import load_settings

    settings = load_settings(preset, changes or [])
    graph, chosen = load(model, input_shape), load_scenario(scenario)
    warn(chosen, graph)
    if tune is not None:
        if budget_s is not None or seeds > 1:
            raise InputError("--tune goes with neither --budget-s nor --seeds: its trials do a fixed amount of work")
        _show_tuned(as_json, _tune(graph, chosen, settings, tune, seed, out), out)
        return
    words = ["distredge", "train", model, "--scenario", scenario, "--preset", preset]
    words += [word for change in changes or () for word in ("--set", change)]
    words += [] if input_shape is None else ["--input-shape", input_shape]
    words += [] if budget_s is None else ["--budget-s", f"{budget_s:g}"]
    method = "osds-paper" if preset == "paper" else "osds"
    found = _train(_job(graph, chosen, settings, method, shlex.join(words), budget_s), seed, seeds, out, resume)
    _show_trained(as_json, found, out, f"OSDS on {graph.name}, {chosen.name}")


def _job(
    graph: LayerGraph, scenario: Scenario, settings: Settings, method: str, command: str, budget_s: float | None
) -> Job:
    from distredge.agents.watch import Watch
    from distredge.planners.training import Job

    watch = Watch(_gold_ms(graph, scenario), _draw if find_spec("matplotlib") else None)
    return Job(graph, scenario, settings, method, command, budget_s, watch)


def _train(job: Job, seed: int, seeds: int, out: Path, resume: bool) -> list[Trained]:
    from distredge.planners.training import train_seed, train_seeds

    with progress_bar(f"training OSDS ({job.method})") as progress:
        if seeds == 1:
            found = [train_seed(job, seed, out, resume, progress)]
        else:
            found = train_seeds(job, range(seed, seed + seeds), out, resume, progress)
    if any(trained.interrupted for trained in found):
        errors.print("interrupted: kept what was found; --resume goes on from there")
    return found


def _tune(graph: LayerGraph, scenario: Scenario, settings: Settings, trials: int, seed: int, out: Path) -> Tuned:
    """On the scheme of LC-PSS, the providers in the scenario's order."""
    from distredge.api import partition
    from distredge.simulate.simulator import Simulator

    with needing("tuning", "tune"):
        from distredge.agents.tuning import tune
    simulator = Simulator(graph, scenario, partition(graph, scenario, seed=seed))
    with progress_bar(f"{trials} trials") as progress:
        return tune(simulator, settings, trials, seed, out, progress)


def _gold_ms(graph: LayerGraph, scenario: Scenario) -> float | None:
    """The best latency known of a shipped scenario, if one is."""
    from distredge.experiments.gold import references

    known = {(r.model, r.scenario): r.latency_ms for r in references().references}
    return known.get((graph.name, scenario.name))


def _draw(simulator: Simulator, cuts: IntArray, path: Path) -> None:
    from distredge.planners.base import Strategy, draft
    from distredge.plots import draw_plan
    from distredge.simulate.timeline import trace

    scenario = simulator.scenario
    plan = draft(Strategy(simulator.scheme, scenario, cuts, 0.0), scenario, "osds", 0)
    draw_plan(plan, trace(plan.bind(simulator.graph), scenario, simulator.costs), path)


def _show_trained(as_json: bool, found: list[Trained], out: Path, title: str) -> None:
    from distredge.agents.actor_file import POLICY
    from distredge.planners.training import PLAN

    best = min(found, key=lambda trained: trained.best_latency_ms)
    figures = ("policy_latency_ms", "best_latency_ms", "episodes", "seconds")
    rows = [{"seed": t.seed, **{name: getattr(t, name) for name in figures}} for t in found]
    data = {"plan": str(out / PLAN), "agent": str(out / POLICY), **{name: getattr(best, name) for name in figures}}
    data |= {"seeds": rows}

    def show() -> None:
        table(title, ["seed", *(name.replace("_", " ") for name in figures)], [list(row.values()) for row in rows])
        console.print(f"wrote {data['plan']} and {data['agent']}" + f" of seed {best.seed}" * (len(found) > 1))

    emit(as_json, data, show)


def _show_tuned(as_json: bool, tuned: Tuned, out: Path) -> None:
    from distredge.agents.tuning import TUNED

    data = {"preset": str(out / TUNED), **{k: v for k, v in tuned._asdict().items() if k != "settings"}}

    def show() -> None:
        table(
            f"best of {tuned.trials} trials", ["setting", "value"], [[k, f"{v:.4g}"] for k, v in tuned.changes.items()]
        )
        console.print(
            f"mean latency over a training: {tuned.first_ms:.2f} ms as given, {tuned.best_ms:.2f} ms with these"
        )
        console.print(f"wrote {data['preset']}: use it with --preset")

    emit(as_json, data, show)
