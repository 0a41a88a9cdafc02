"""The thread in which a provider computes, behind the interface that its logic knows."""

from __future__ import annotations

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
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._sequence = itertools.count()

    def put(self, work: Work | None, frame: int = -1, boundary: int = 0) -> None:
        """See `Compute`; None ends the thread."""
        self._tasks.put(_Task(frame, boundary, next(self._sequence), work))

    def run(self) -> None:
        """The thread's loop."""
        while (work := self._tasks.get().work) is not None:
            work()
