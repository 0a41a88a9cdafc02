"""`distredge pretrain`, `decide`: the agent for a moving network, and what it decides under observed conditions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, progress_bar, table
from distredge.cli.planning import Budget, ScenarioName, show_plan, warn
from distredge.errors import InputError, UnknownNameError, needing
from distredge.resources import check_writable
from distredge.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from distredge.agents.moving.header import Header
    from distredge.agents.moving.policy import FloatArray, MovingAgent, WholePlan
    from distredge.planners.moving import Log

REPEATS = 21
"""Decisions that are timed, of which the median is told."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pretrain")(pretrain)
    app.command("decide")(decide)


def pretrain(
    model: Model,
    scenario: ScenarioName,
    out: Annotated[Path, typer.Option(help="The agent's file, .safetensors.")],
    settings: Annotated[str, typer.Option(help="default, or a YAML file.")] = "default",
    mbps: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Where link rates may be; else as the settings say.")
    ] = None,
    budget_s: Budget = None,
    logs: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for TensorBoard's logs.")] = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Train an agent that answers a plan in less than a millisecond while links and devices change speed.

    Example: distredge pretrain vgg16 --scenario db-50 --out db.safetensors --mbps 20:300
    """
    from distredge.agents.moving.file import save_agent
    from distredge.agents.moving.settings import load_moving_settings
    from distredge.api import make_task
    from distredge.planners.moving import pretrain as train

    chosen = load_moving_settings(settings)
    if mbps is not None:
        chosen = chosen.model_copy(update={"ranges": chosen.ranges.model_copy(update={"mbps": _range(mbps)})})
    graph, there = load(model, input_shape), load_scenario(scenario)
    warn(there, graph)
    check_writable(out)
    began = time.perf_counter()
    with progress_bar("pre-training") as progress, _logger(logs) as log:
        agent = train(make_task(graph, there, seed, budget_s, progress), chosen, log)
    save_agent(agent, out)
    data = {
        "agent": str(out),
        "plans": len(agent.library),
        "bytes": out.stat().st_size,
        "seconds": time.perf_counter() - began,
    }
    emit(as_json, data, lambda: table(f"{graph.name} on {there.name}", ["", "value"], [list(i) for i in data.items()]))


def decide(
    agent_file: Annotated[Path, typer.Argument(metavar="AGENT", help="A file that `distredge pretrain` wrote.")],
    scenario: ScenarioName,
    mbps: Annotated[str | None, typer.Option(metavar="NAME=VALUE,..", help="Link rates; else the scenario's.")] = None,
    slowdown: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE,..", help="How many times as slow as usual; else 1.")
    ] = None,
    io_ms: Annotated[
        str | None, typer.Option("--io-ms", metavar="NAME=VALUE,..", help="I/O delay beyond the usual; else 0.")
    ] = None,
    search_ms: Annotated[
        float | None, typer.Option("--search-ms", min=0.1, help="Search for so long from there, on the simulator.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to simulate, if the agent's is not in the zoo.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the plan is written.")] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Answer a plan for conditions as they are now.

    Example: distredge decide db.safetensors --scenario db-50 --mbps xavier-0=80,nano-1=25 --slowdown xavier-1=2
    """
    from distredge.agents.moving.file import load_agent

    agent, there = load_agent(agent_file), load_scenario(scenario)
    agent.header.check_scenario(there)
    if out is not None:
        check_writable(out)
    usual = [np.array([p.bandwidth_mbps for p in there.providers]), *_still(there)]
    options = (("--mbps", mbps, 1e-3), ("--slowdown", slowdown, 1e-3), ("--io-ms", io_ms, 0.0))
    now = [_observed(agent.header, *option, values) for option, values in zip(options, usual, strict=True)]
    _note_ranges(agent.header, now)
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        decision = agent.decide(*now)
        spent.append(1000.0 * (time.perf_counter() - began))
    whole, expected_ms = agent.whole_plan(decision), decision.latency_ms
    if search_ms is not None:
        whole, expected_ms = _searched(agent, there, model, now, search_ms, seed)
    plan = agent.plan(whole).model_copy(update={"scenario": there.name, "seed": seed})
    if out is not None:
        plan.save(out)
    figures = {"decision_ms": statistics.median(spent), "expected_ms": expected_ms, "search_ms": search_ms}

    def show() -> None:
        show_plan(plan)
        searched = "" if search_ms is None else f" and {search_ms:g} ms of search"
        console.print(f"decided in {figures['decision_ms']:.3f} ms{searched}; {expected_ms:.2f} ms expected")
        if out is not None:
            console.print(f"wrote {out}")

    emit(as_json, {**plan.model_dump(mode="json"), **figures}, show)


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        pair = float(low), float(high)
    except ValueError:
        raise InputError(f"--mbps '{text}': give LOW:HIGH in Mbit/s, as in 20:300") from None
    if not 0.0 < pair[0] <= pair[1] < float("inf"):
        raise InputError(f"--mbps '{text}': give LOW:HIGH in Mbit/s, both above 0 and rising, as in 20:300")
    return pair


def _still(there: Scenario) -> tuple[FloatArray, FloatArray]:
    """No slowdown, no delay."""
    return np.ones(len(there.providers)), np.zeros(len(there.providers))


def _observed(header: Header, option: str, text: str | None, least: float, usual: FloatArray) -> FloatArray:
    """`usual` (P,) with what an option says of some providers."""
    found = usual.astype(float)
    for part in filter(None, (text or "").split(",")):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in header.names:
            raise UnknownNameError("provider", name, header.names, f"({option} NAME=VALUE,..)")
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"{option} {part}: give NAME=NUMBER") from None
        if not least <= number < float("inf"):
            raise InputError(f"{option} {part}: must be a number from {least:g} on")
        found[header.names.index(name)] = number
    return found


def _note_ranges(header: Header, now: list[FloatArray]) -> None:
    for what, values, (low, high) in zip(
        ("link rates", "slowdowns", "I/O delays"), now, (header.mbps, header.slowdown, header.io_ms), strict=True
    ):
        if values.min() < low or values.max() > high:
            errors.print(f"note: the agent was trained for {what} from {low:g} to {high:g}")


def _searched(
    agent: MovingAgent, there: Scenario, model: str | None, now: list[FloatArray], search_ms: float, seed: int
) -> tuple[WholePlan, float]:
    from distredge.agents.moving.library import Simulators
    from distredge.agents.moving.searching import guesses, search_for
    from distredge.model.load import load_model
    from distredge.plans.plan import ModelRef
    from distredge.simulate.conditions import Conditions

    made_for = agent.header.model
    graph = load_model(model or made_for.name, made_for.input_shape)
    agent.header.check_model(ModelRef(name=made_for.name, sha256=graph.sha256, input_shape=graph.input_shape))
    conditions, rng = Conditions(*now), np.random.default_rng(seed)
    return search_for(Simulators(graph, there), conditions, guesses(agent, conditions), search_ms / 1000.0, rng)


@contextmanager
def _logger(folder: Path | None) -> Iterator[Log]:
    """Writes figures for TensorBoard, if there is a folder for them."""
    if folder is None:
        yield lambda name, value, step: None
        return
    with needing("--logs", "train"):
        from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(str(folder)) as writer:
        yield writer.add_scalar
