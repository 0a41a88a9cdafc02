"""Who does the cases of experiments: processes of this machine here, a Ray in `ray_engine`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from textwrap import shorten
from typing import Protocol, TypeAlias

from distredge.errors import DistrEdgeError, RunError
from distredge.experiments.base import Effort, Experiment, Row
from distredge.experiments.store import Store

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
"""The environment of whoever does cases: several work at once, and sums depend on the number of threads."""

REASON_LENGTH = 300
"""Of the line that says why a case failed."""

Work: TypeAlias = Callable[[Row, Effort], list[Row]]

Outcome: TypeAlias = Callable[[], tuple[list[Row], float]]
"""Returns a case's rows and the seconds that they took, or raises what went wrong."""


@dataclass
class Job:
    """A case to run, and whose rows it gives."""

    case: Row
    experiment: Experiment
    cost_s: float
    stores: list[Store] = field(default_factory=list)


Outcomes: TypeAlias = Generator[tuple[Job, Outcome], None, None]


class Engine(Protocol):
    """Does jobs."""

    @property
    def workers(self) -> int:
        """About how many at once."""

    def outcomes(self, jobs: Sequence[Job], effort: Effort) -> Outcomes:
        """Each job with its outcome, as soon as it is there. Left early, it ends what is at work."""


def timed(work: Work, case: Row, effort: Effort) -> tuple[list[Row], float]:
    """A case's rows, and the seconds that they took."""
    began = time.perf_counter()
    rows = work(case, effort)
    return rows, time.perf_counter() - began


def one_line(exc: Exception) -> str:
    """What went wrong, in one line of bounded length."""
    said = str(exc) if isinstance(exc, DistrEdgeError) else f"{type(exc).__name__}: {exc}"
    return shorten(said, REASON_LENGTH)


@dataclass(frozen=True)
class Processes:
    """Worker processes of one thread each; a single one is this process itself."""

    workers: int

    def outcomes(self, jobs: Sequence[Job], effort: Effort) -> Outcomes:
        """Each job with its outcome, as soon as it is there; raises `RunError` if a process dies."""
        if self.workers == 1 or len(jobs) < 2:
            for job in jobs:
                yield job, partial(timed, job.experiment.run, job.case, effort)
            return
        with _pool(min(self.workers, len(jobs))) as pool:
            waiting: dict[Future[tuple[list[Row], float]], Job] = {
                pool.submit(timed, job.experiment.run, job.case, effort): job for job in jobs
            }
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        raise RunError("a worker process was killed, maybe for memory: run again with fewer of them")
                    yield waiting.pop(future), future.result


HERE = Processes(1)
"""This process, one case after the other."""


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Whatever goes wrong, no process is left behind."""
    os.environ.update(ONE_THREAD)
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _begin_worker)
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _begin_worker() -> None:
    """Ctrl-C reaches all processes, but it is for the first to act; and who kills that one ends all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
