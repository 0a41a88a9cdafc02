"""Runs experiments: cases not yet in the folder, on several processes, each row written as soon as it is known."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distredge.experiments.base import SECONDS, Effort, Experiment, Results, Row, Value
from distredge.experiments.store import Store

Progress = Callable[[str, float, float], None]
"""Called with (what was done, share of all the work, seconds left)."""

Work = Callable[[Row, Effort], list[Row]]


@dataclass
class Job:
    """A case to run, and whose rows it gives."""

    case: Row
    experiment: Experiment
    cost_s: float
    stores: list[Store] = field(default_factory=list)


def open_stores(experiments: Sequence[Experiment], folder: Path, effort: Effort) -> tuple[dict[str, Store], list[Job]]:
    """The experiments' files in a folder, and what is left to do; what a family's other member has is copied."""
    folder.mkdir(parents=True, exist_ok=True)
    stores = {e.name: Store(e, folder) for e in experiments}
    jobs: dict[tuple[object, ...], Job] = {}
    for name, store in stores.items():
        experiment = store.experiment
        for case in store.keep(experiment.cases(effort)):
            identity = experiment.identity(case)
            key = (experiment.family or name, *identity)
            twin = _twin(stores.values(), experiment, identity)
            if twin is not None:
                rows = [row | twin.seconds[identity][0] for row in twin.rows[identity]]
                store.add(rows, float(twin.seconds[identity][0]["case_seconds"] or 0.0))
            else:
                job = jobs.setdefault(key, Job(case, experiment, experiment.cost_s(case, effort)))
                job.stores.append(store)
    return stores, list(jobs.values())


def _twin(stores: Iterable[Store], experiment: Experiment, identity: tuple[Value, ...]) -> Store | None:
    """A store of the same family that has the case."""
    for store in stores:
        same = experiment.family and store.experiment.family == experiment.family
        if same and identity in store.rows and identity in store.seconds:
            return store
    return None


def run(
    experiments: Sequence[Experiment],
    folder: Path,
    effort: Effort,
    processes: int = 1,
    progress: Progress = lambda what, share, left: None,
) -> Results:
    """Do what is left of the experiments and return all their rows; interrupted, it goes on when called again.

    With the same effort the CSV files have the same bytes, however often it was interrupted and on however many
    processes it ran.
    """
    stores, jobs = open_stores(experiments, folder, effort)
    total = sum(job.cost_s for job in jobs)
    began, done = time.perf_counter(), 0.0
    progress(f"{len(jobs)} cases", 0.0 if jobs else 1.0, total / max(1, min(processes, len(jobs))))
    for job, rows, seconds in _results(jobs, effort, processes):
        for store in job.stores:
            store.add(rows, seconds)
        done += job.cost_s
        passed = time.perf_counter() - began
        names = " ".join(str(value) for value in job.experiment.identity(job.case))
        progress(f"{job.stores[0].experiment.name}: {names}", done / total, passed / done * (total - done))
    results: dict[str, Sequence[Row]] = {}
    for name, store in stores.items():
        store.keep(store.experiment.cases(effort))
        results[name], results[name + SECONDS] = store.all_rows(), store.all_seconds()
    return results


def _results(jobs: Sequence[Job], effort: Effort, processes: int) -> Iterator[tuple[Job, list[Row], float]]:
    """Each job with its rows and seconds as soon as they are there."""
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, *_timed(job.experiment.run, job.case, effort)
        return
    with _pool(min(processes, len(jobs))) as pool:
        waiting: dict[Future[tuple[list[Row], float]], Job] = {
            pool.submit(_timed, job.experiment.run, job.case, effort): job for job in jobs
        }
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), *future.result()


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes of one thread each; whatever goes wrong, none is left behind."""
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _timed(work: Work, case: Row, effort: Effort) -> tuple[list[Row], float]:
    began = time.perf_counter()
    rows = work(case, effort)
    return rows, time.perf_counter() - began
