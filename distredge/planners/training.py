"""Training an agent into a folder: with one seed here, or with several in processes of their own, the best kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distredge.agents.actor_file import POLICY, Card, TrainedAgent
from distredge.agents.checkpoint import AGENT, CHECKPOINT
from distredge.agents.settings import Settings
from distredge.agents.watch import Watch
from distredge.errors import RunError
from distredge.model.graph import LayerGraph
from distredge.planners.base import Progress, Task, make_plan
from distredge.planners.distredge import train_planner
from distredge.plans.plan import Plan
from distredge.resources import write_atomically
from distredge.scenario import Scenario
from distredge.simulate.costs import VolumeCosts

PLAN = "plan.json"


@dataclass(frozen=True)
class Job:
    """What agents are trained for. `command` is kept in their files, with the seed; `method` in their plans."""

    graph: LayerGraph
    scenario: Scenario
    settings: Settings
    method: str
    command: str
    budget_s: float | None = None
    watch: Watch = Watch()


@dataclass(frozen=True)
class Trained:
    """What came of one seed; latencies are those of `TrainingResult`."""

    seed: int
    out: Path
    plan: Plan
    best_latency_ms: float
    policy_latency_ms: float
    episodes: int
    seconds: float
    interrupted: bool


def train_seed(job: Job, seed: int, out: Path, resume: bool, progress: Progress) -> Trained:
    """Train one agent; beside what a training keeps, `plan.json` and `policy.safetensors` are written into `out`.

    Raises what `train_planner` and `make_plan` raise.
    """
    costs = VolumeCosts(job.graph, job.scenario.profiles)
    task = Task(job.graph, job.scenario, np.random.default_rng(seed), costs, job.budget_s, progress)
    strategy, result = train_planner(task, job.settings, out, resume, job.watch)
    plan = make_plan(task, strategy, job.method, seed)
    plan.save(out / PLAN)
    card = Card(
        model=job.graph.name,
        model_sha256=job.graph.sha256,
        scenario=job.scenario.name,
        providers=strategy.scenario.provider_names,
        locations=strategy.scheme.locations,
        formulation=job.settings.formulation,
        latency_ms=result.policy_latency_ms,
        seed=seed,
        command=f"{job.command} --seed {seed}",
    )
    TrainedAgent(card, result.actor).save(out / POLICY)
    return Trained(
        seed, out, plan, result.best_latency_ms, result.policy_latency_ms, result.episodes, result.seconds,
        result.interrupted,
    )  # fmt: skip


def train_seeds(job: Job, seeds: Sequence[int], out: Path, resume: bool, progress: Progress) -> list[Trained]:
    """Train an agent for each seed in `out/seed-N`, as many at once as there are cores, and copy the best's files.

    The list is in the order of `seeds`; `progress` hears of all together. With `resume`, those that have a checkpoint
    go on from it. Ctrl-C ends all with what they have; those that have nothing are left out. Raises `RunError` if a
    process dies.
    """
    context = multiprocessing.get_context("spawn")
    told, stop = context.Array("d", [0.0, np.inf] * len(seeds)), context.Event()
    os.environ.update({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"})
    with ProcessPoolExecutor(min(len(seeds), os.cpu_count() or 1), context, _begin, (told, stop)) as pool:
        folders = [out / f"seed-{seed}" for seed in seeds]
        futures = [
            pool.submit(_work, n, job, seed, folder, resume and (folder / CHECKPOINT).is_file())
            for n, (seed, folder) in enumerate(zip(seeds, folders, strict=True))
        ]
        try:
            _watch(futures, lambda: progress(float(np.mean(told[::2])), min(told[1::2])), stop.set)
        finally:
            stop.set()  # whatever ends this process ends those
    found = [future.result() for future in futures if not isinstance(future.exception(), KeyboardInterrupt)]
    if not found:
        raise KeyboardInterrupt
    best = min(found, key=lambda trained: trained.best_latency_ms)
    for name in (PLAN, POLICY, AGENT):
        write_atomically(out / name, (best.out / name).read_bytes())
    return found


def _watch(futures: Sequence[Future[Trained]], tell: Callable[[], None], stop: Callable[[], None]) -> None:
    """Until all have ended; raises `RunError` if a process was lost."""
    waiting: set[Future[Trained]] = set(futures)
    while waiting:
        try:
            done, waiting = wait(waiting, timeout=0.2)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                raise RunError("a training's process was killed, maybe for memory: go on with --resume")
            tell()
        except KeyboardInterrupt:
            stop()


_shared: tuple[Any, Any] | None = None
"""In a worker: what all tell of their progress, and whether they are to stop."""


def _begin(told: Any, stop: Any) -> None:
    """Ctrl-C reaches all processes, but it is for the first to act."""
    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared = told, stop


def _work(n: int, job: Job, seed: int, out: Path, resume: bool) -> Trained:
    parent = multiprocessing.parent_process()
    assert parent is not None and _shared is not None
    told, stop = _shared

    def tell(share: float, latency_ms: float) -> None:
        told[2 * n : 2 * n + 2] = share, latency_ms
        if not parent.is_alive():
            os._exit(1)
        if stop.is_set():
            raise KeyboardInterrupt

    return train_seed(job, seed, out, resume, tell)
