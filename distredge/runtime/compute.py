"""The thread in which a provider computes, behind the interface that its logic knows."""

from __future__ import annotations

import heapq
import itertools
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread

Work = Callable[[], None]


class Compute(ABC):
    """Does one piece of work after the other: the earliest frame first, within a frame the earliest volume."""

    @abstractmethod
    def put(self, work: Work, frame: int = -1, boundary: int = 0) -> None:
        """Queue work, which raises nothing; what belongs to no frame comes first."""


@dataclass(order=True)
class _Task:
    frame: int
    boundary: int
    sequence: int
    work: Work | None = field(compare=False)


class Worker(Compute, Thread):
    """A `Compute` that is a thread."""

    def __init__(self) -> None:
        Thread.__init__(self, name="compute", daemon=True)
        self._put: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._sequence = itertools.count()

    def put(self, work: Work | None, frame: int = -1, boundary: int = 0) -> None:
        """See `Compute`; None ends the thread."""
        self._put.put(_Task(frame, boundary, next(self._sequence), work))

    def run(self) -> None:
        """The thread's loop."""
        tasks: list[_Task] = []
        while True:
            while not tasks or not self._put.empty():
                heapq.heappush(tasks, self._put.get())
            work = heapq.heappop(tasks).work
            if work is None:
                return
            work()
