"""DistrEdge itself: a partition scheme, then split decisions by an agent that is trained on the simulator (OSDS)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distredge.agents.checkpoint import BestPlan, read_best
from distredge.agents.settings import Settings, load_settings
from distredge.agents.watch import Watch
from distredge.errors import InputError, needing
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.candidates import candidate_schemes
from distredge.planners.search import JointSearch, candidate_orders
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.anneal import anneal
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator

if TYPE_CHECKING:
    from distredge.agents.training import TrainingResult

GOAL_STEPS = 40_000
"""Evaluations by which each known plan is annealed towards goals other than the least latency."""


class Osds(Planner):
    """The preset `default`: a short search chooses scheme and order, then an agent is trained on the winner.

    The agent learns to lower latency, whatever the goals. With other goals the search looks for these, and the agent's
    plan is annealed towards them; the better of both is taken.
    """

    name = "osds"
    weighs = True

    def plan(self, task: Task) -> Strategy:
        """The best plan that search and agent have seen."""
        return train_planner(task, "default")[0]


class OsdsPaper(Planner):
    """The preset `paper`: LC-PSS at alpha 0.75 with 100 samples, then Algorithm 2 to the letter.

    Its result is reported as it is.
    """

    name = "osds-paper"

    def plan(self, task: Task) -> Strategy:
        """The best plan of 4000 episodes, or of as many as the budget allows."""
        return train_planner(task, "paper")[0]


class _Ground(NamedTuple):
    """What an agent is trained on; `seeds` (n, volumes, providers + 1) are plans known already, maybe none."""

    scheme: PartitionScheme
    scenario: Scenario
    seeds: IntArray | None = None


def train_planner(
    task: Task,
    preset: str | Path | Settings = "default",
    out: Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> tuple[Strategy, TrainingResult]:
    """Choose a scheme and an order of the providers, train an agent on them, and return the best plan.

    `preset` is a shipped one (`default`, `paper`), a YAML file of settings, or settings. `out` is where the training
    keeps its files (see `distredge/agents/checkpoint.py`); with `resume` it goes on with what it finds there, and
    `watch` says what else its logs show. Raises `DependencyError` without torch and stable-baselines3, `InputError` if
    there is nothing that fits to resume.
    """
    began = time.perf_counter()
    with needing("training an agent", "train"):
        from distredge.agents.osds import train
    settings = preset if isinstance(preset, Settings) else load_settings(preset)
    before = 0.0 if settings.screen is None else settings.screen.share  # of the progress that is reported
    if len(task.scenario.providers) < 2:
        raise InputError(f"'{task.scenario.name}' has one provider, there is nothing to split: use --method offload")
    if not resume:
        ground = _new_ground(_less(task, began), settings)
    elif out is not None:
        ground = _resumed(task, read_best(out))
    else:
        raise InputError("to resume a training, say where it is: --out DIR")
    result = train(
        Simulator(task.graph, ground.scenario, ground.scheme, task.costs),
        settings,
        task.rng,
        budget_s=_less(task, began).budget_s,
        seeds=ground.seeds,
        out=out,
        resume=resume,
        progress=lambda share, ms: task.progress(before + (1.0 - before) * share, ms),
        watch=watch,
    )
    strategy = Strategy(ground.scheme, ground.scenario, result.best_cuts, result.best_latency_ms)
    return (strategy if settings.screen is None else _towards_goals(task, strategy, ground.seeds)), result


def _towards_goals(task: Task, strategy: Strategy, seeds: IntArray | None) -> Strategy:
    """The strategy, or one of the plans known before, annealed for the task's goals where latency alone is not all."""
    simulator = simulator_for(task, strategy.scheme, strategy.scenario)
    if simulator.aim is None:
        return strategy
    known = strategy.cuts[None] if seeds is None else np.concatenate([strategy.cuts[None], seeds])
    found = [anneal(simulator, cuts, GOAL_STEPS, task.rng)[0] for cuts in known]
    best = min([*found, *known], key=lambda cuts: float(simulator.score(cuts[None])[0]))
    return replace(strategy, cuts=best, latency_ms=float(simulator.evaluate(best[None])[0]))


def _less(task: Task, began: float) -> Task:
    """The task with what is left of its budget, if it has one; importing torch has taken some."""
    if task.budget_s is None:
        return task
    return replace(task, budget_s=max(0.1, task.budget_s - (time.perf_counter() - began)))


def _new_ground(task: Task, settings: Settings) -> _Ground:
    """LC-PSS as in the paper or, if the settings want a screen, the scheme and order that a short search likes best."""
    if settings.screen is None:
        return _Ground(lcpss(task.graph, len(task.scenario.providers), ALPHA, SAMPLES, task.rng), task.scenario)

    part = settings.screen.share

    def progress(share: float, latency_ms: float) -> None:
        task.progress(part * share, latency_ms)

    budget_s = None if task.budget_s is None else task.budget_s * part
    search = JointSearch(replace(task, budget_s=budget_s, progress=progress))
    schemes, orders = candidate_schemes(task), candidate_orders(search)
    search.screen(schemes, orders)
    search.mend(schemes, orders, settings.screen.rounds)
    search.vary(settings.screen.rounds)
    best = search.pool[0]
    plans = np.stack([c.cuts for c in search.pool if (c.locations, c.order) == (best.locations, best.order)])
    scheme = PartitionScheme(task.graph, best.locations)
    return _Ground(scheme, task.scenario.reordered(best.order), plans if settings.screen.seed_elites else None)


def _resumed(task: Task, best: BestPlan) -> _Ground:
    """What the training was about that is resumed; raises `InputError` if that was another model or other providers."""
    names = task.scenario.provider_names
    if best.model_sha256 != task.graph.sha256 or sorted(best.providers) != sorted(names):
        raise InputError("the training to resume is of another model or other providers: give those, or another folder")
    order = tuple(names.index(name) for name in best.providers)
    return _Ground(PartitionScheme(task.graph, best.locations), task.scenario.reordered(order))
