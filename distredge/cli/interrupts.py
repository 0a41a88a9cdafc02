"""What Ctrl-C does, also when compiled code swallows it."""

from __future__ import annotations

import sys
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_interrupted, _owed = Event(), Event()


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """What Ctrl-C does. Compiled code may lose the exception, so the next sign of progress raises it again."""
    _interrupted.set()
    _owed.set()
    raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed: what goes wrong after it, goes wrong because of it."""
    return _interrupted.is_set()


def lost_exception(lost: UnraisableHookArgs) -> None:
    """Report an exception that nobody could take; a `KeyboardInterrupt` lost by a compiler's callback is not news."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)


def raise_owed() -> None:
    """Ctrl-C, if compiled code lost it."""
    if _owed.is_set():
        _owed.clear()
        raise KeyboardInterrupt
