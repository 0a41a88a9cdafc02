"""What processes log, on stderr: plain lines for people, or a JSON object a line for what gathers logs.

Code says what a record is about beside its text: `log.info("late rows", extra={"epoch": 3, "frame": 17})`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from typing import Literal, TextIO

Form = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

FIELDS = ("session", "epoch", "frame", "volume", "peer")
"""What a record may be about; one that is not given, or None, is left out."""

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""The levels as syslog numbers them."""


def start_logging(level: Level = "info", form: Form = "text", stream: TextIO | None = None) -> None:
    """Log from `level` up to a stream, by default stderr, in place of what was set before."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonLines() if form == "json" else TextLines(is_journal(target)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


# One class instead of python-json-logger or structlog: either would have to be brought to every device, to do for us
# what one call of json.dumps does.
class JsonLines(logging.Formatter):
    """A record as a JSON object on a line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and its `FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`; a traceback is the value of `exception`."""
        data: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        return json.dumps(data, default=str)


class TextLines(logging.Formatter):
    """A record as a line: time and level, text, its `FIELDS` as `name=value`.

    In a journal, which knows the time, it begins with the level as the journal reads it, `<6>`.
    """

    def __init__(self, for_journal: bool = False) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`; what a stranger's message might bring in cannot end a line."""
        words = [record.getMessage(), *(f"{name}={value}" for name, value in _fields(record).items())]
        if record.exc_info:
            words.append(self.formatException(record.exc_info))
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(words))
        if self._for_journal:
            return f"<{_PRIORITIES.get(record.levelno, 5)}>{line}"
        return f"{_time(record)} {record.levelname.lower()} {line}"


def is_journal(stream: TextIO) -> bool:
    """Whether systemd's journal reads what is written to a stream."""
    try:
        at = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is no file, or closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{at.st_dev}:{at.st_ino}"


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found = {name: getattr(record, name, None) for name in FIELDS}
    return {name: value for name, value in found.items() if value is not None}
