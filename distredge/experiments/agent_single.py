"""The agent on one fixed case: what each of its ingredients is worth, and how fast which method comes near to gold.

Pure functions of a case: they return rows, as `Experiment.run` wants them. Ratios are over what `gold.json` has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge.api import make_task
from distredge.experiments.base import Effort, Row
from distredge.experiments.gold import CASES, references
from distredge.experiments.methods import graph_of, planner_of, scenario_of
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.planners.base import Task
from distredge.simulate.anneal import anneal
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

if TYPE_CHECKING:
    from distredge.agents.settings import Settings

STILL = {"learning_rate": 1e-12, "final_learning_rate": 1e-12}
"""Of a network that does not learn."""

WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "learning": {"actor": STILL, "critic": STILL},
    "screen": {"screen": None},
    "seeded elites": {"screen": {"seed_elites": False}},
    "elites": {"elites": None},
    "polish": {"polish": None},
    "distillation": {"distillation": None},
    "prior": {"formulation": "even"},
    "sparse noise": {"noise": {"sparse_episodes": 0.0}},
    "noise around elites": {"noise": {"elite_episodes": 0.0}},
}
"""By ingredient, what of the preset `default` is changed to leave it out."""

GROUNDS = ("screen", "gold")
"""What an agent is trained on. `screen`: what its own search chooses, whose plans are in its elites. `gold`: scheme and
order of the best plan known, with neither screen nor polish nor that plan: only learning finds cuts."""

ABLATED = ("vgg16 db-50", "vgg16 na-nano", "vgg16 lb")
"""Model and scenario: one device nearly best, four equal devices, sixteen devices."""

METHODS = ("search", "osds", "osds-paper", "annealing")
"""`annealing` is plain: LC-PSS at alpha 0.75, the scenario's order, only the cuts searched."""

ANNEALING_STEPS = (1_000, 10_000, 100_000, 1_000_000)
"""Evaluations of separate runs, in all from two starts."""


def without(settings: Settings, *ingredients: str) -> Settings:
    """The settings with ingredients (keys of `WITHOUT`) left out."""
    data = settings.model_dump(mode="json")
    for ingredient in ingredients:
        for key, change in WITHOUT[ingredient].items():
            if not isinstance(change, Mapping):
                data[key] = change
            elif data[key] is not None:  # else the whole section is off already
                data[key] |= change
    return type(settings).model_validate(data)


def ablation_cases(effort: Effort) -> list[Row]:
    """Each ingredient left out, on both grounds where it is there, over the effort's seeds."""
    return [
        {"model": model, "scenario": scenario, "ground": ground, "without": ingredient, "seed": effort.seed + n}
        for model, scenario in (case.split() for case in ABLATED)
        for ground in GROUNDS
        for ingredient in WITHOUT
        if ground == "screen" or ingredient not in ("screen", "seeded elites", "polish")
        for n in range(effort.seeds)
    ]


def ablated(case: Row, effort: Effort) -> list[Row]:
    """Train an agent with one ingredient left out, a fixed amount of work.

    One row: the case with `latency_ms` and `ratio` of the best plan, `policy_ms` and `policy_ratio` of the greedy
    policy's, `episodes` and process seconds `cpu_s`.
    """
    from distredge.agents.osds import train
    from distredge.agents.settings import load_settings
    from distredge.planners.distredge import train_planner

    settings = without(load_settings("default"), str(case["without"]))
    task = _task(case)
    reference = references().of(str(case["model"]), str(case["scenario"]))
    began = time.process_time()
    if case["ground"] == "screen":
        result = train_planner(task, settings)[1]
    else:
        known = reference.strategy()
        simulator = Simulator(task.graph, known.scenario, known.scheme, task.costs)
        result = train(simulator, without(settings, "screen", "polish"), task.rng)
    return [
        {
            **case,
            "latency_ms": result.best_latency_ms,
            "ratio": result.best_latency_ms / reference.latency_ms,
            "policy_ms": result.policy_latency_ms,
            "policy_ratio": result.policy_latency_ms / reference.latency_ms,
            "episodes": result.episodes,
            "cpu_s": time.process_time() - began,
        }
    ]


def time_cases(effort: Effort) -> list[Row]:
    """Every method on every scenario of Tables I to III and on the other models, over the effort's seeds."""
    return [
        {"model": model, "scenario": scenario, "method": method, "seed": effort.seed + n}
        for model, scenario in CASES
        for method in METHODS
        for n in range(effort.seeds)
    ]


def over_time(case: Row, effort: Effort) -> list[Row]:
    """The best plan's latency against work, without a time limit: a row whenever it has become better, and at the end.

    Each row: the case with `cpu_s` (process seconds of all threads since the planner began), `share` of the work that
    is done, `latency_ms` and `ratio`.
    """
    gold_ms = references().of(str(case["model"]), str(case["scenario"])).latency_ms
    found = _annealing(case) if case["method"] == "annealing" else _planning(case, effort)
    return [
        {**case, "cpu_s": cpu_s, "share": share, "latency_ms": ms, "ratio": ms / gold_ms} for cpu_s, share, ms in found
    ]


def _planning(case: Row, effort: Effort) -> list[tuple[float, float, float]]:
    """Process seconds, share done and latency whenever a planner tells of a better plan, and at the end."""
    told: list[tuple[float, float, float]] = []

    def progress(share: float, latency_ms: float) -> None:
        if not told or share >= 1.0 or latency_ms < told[-1][2]:
            told.append((time.process_time() - began, share, latency_ms))

    task = _task(case, progress)
    began = time.process_time()
    planner_of(str(case["method"]), effort).plan(task)
    return told


def _annealing(case: Row) -> list[tuple[float, float, float]]:
    task = _task(case)
    scheme = lcpss(task.graph, len(task.scenario.providers), ALPHA, SAMPLES, task.rng)
    simulator = Simulator(task.graph, task.scenario, scheme, task.costs)
    choices = starts(simulator)
    found = []
    for steps in ANNEALING_STEPS:
        began = time.process_time()
        good = choices[np.argsort(simulator.evaluate(choices), kind="stable")[:2]]
        latency_ms = min(anneal(simulator, start, steps // 2, task.rng)[1] for start in good)
        found.append((time.process_time() - began, steps / ANNEALING_STEPS[-1], latency_ms))
    return found


def _task(case: Row, progress: Any = None) -> Task:
    graph, scenario = graph_of(str(case["model"])), scenario_of(str(case["scenario"]))
    return make_task(graph, scenario, int(case["seed"] or 0), None, progress)
