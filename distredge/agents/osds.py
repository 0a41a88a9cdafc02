"""OSDS: the search for split decisions with DDPG (DistrEdge, section IV-C, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from distredge.agents.settings import Settings
from distredge.agents.training import Progress, Training, TrainingResult
from distredge.agents.watch import Watch
from distredge.errors import InputError
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator


def train(
    simulator: Simulator,
    settings: Settings,
    rng: np.random.Generator,
    *,
    budget_s: float | None = None,
    seeds: IntArray | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress = lambda share, latency_ms: None,
    watch: Watch | None = None,
) -> TrainingResult:
    """Train an agent on one simulator (one model, scenario, partition scheme and order of providers).

    Without `budget_s` the work is fixed and, with the same `rng`, so is the result. `seeds` (n, volumes,
    providers + 1) are plans that a new training begins with: they count as seen. In `out`, if given, are kept the best
    plan, checkpoints and TensorBoard logs (see `checkpoint.py`), and Ctrl-C ends the training with what it has;
    `resume` continues from there: without a budget a resumed training does the episodes that were left, with the same
    random numbers if it was stopped at a checkpoint. `progress` is called with the share done and the best latency;
    `watch` says what else the logs show.

    Where Algorithm 2 is open, see docs/agent.md, "Differences from the paper". Raises `InputError` if there are fewer
    than two providers, or nothing that fits to resume.
    """
    if resume and out is None:
        raise InputError("to resume a training, say where it is: --out DIR")
    if out is not None:
        _make_folder(out)
    with quiet_torch(int(rng.integers(2**63))):
        training = Training(simulator, settings, rng, budget_s, out, progress, watch or Watch())
        if resume:
            training.resume()
        else:
            training.begin(seeds)
        return training.run()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"cannot write to '{out}': {exc.strerror}; give another folder") from exc


@contextmanager
def quiet_torch(seed: int) -> Iterator[None]:
    """One thread and a seed for torch in here; outside nothing has changed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
