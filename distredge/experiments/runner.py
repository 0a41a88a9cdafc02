"""Runs experiments: cases not yet in the folder, by an engine, each row written as soon as it is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from distredge.experiments.base import SECONDS, Effort, Experiment, Results, Row, Value
from distredge.experiments.engines import HERE, Engine, Job, Outcome, one_line
from distredge.experiments.store import Store

Progress = Callable[[str, float, float], None]
"""Called with (what was done, share of all the work, seconds left)."""


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
    engine: Engine = HERE,
    progress: Progress = lambda what, share, left: None,
) -> Results:
    """Do what is left of the experiments and return all their rows; interrupted, it goes on when called again.

    `engine` does the cases. With the same effort the CSV files have the same bytes, however often
    it was interrupted and whoever did them.
    """
    stores, jobs = open_stores(experiments, folder, effort)
    total = sum(job.cost_s for job in jobs)
    began, done = time.perf_counter(), 0.0
    progress(f"{len(jobs)} cases", 0.0 if jobs else 1.0, total / max(1, min(engine.workers, len(jobs))))
    with closing(engine.outcomes(jobs, effort)) as outcomes:
        for job, outcome in outcomes:
            rows, seconds = _result(job, outcome)
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


def _result(job: Job, outcome: Outcome) -> tuple[list[Row], float]:
    """The rows of a job and their seconds; where the experiment has a place for it, a row that says why it failed."""
    try:
        return outcome()
    except Exception as exc:
        experiment = job.experiment
        if not experiment.failure:
            raise
        empty = {name: "" if kind is str else None for name, kind in experiment.columns.items()}
        timed = dict.fromkeys(experiment.timed)
        return [{**empty, **timed, **job.case, experiment.failure: one_line(exc)}], 0.0
