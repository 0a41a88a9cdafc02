"""Logs: one line a record, whatever is in it, for people, for the journal and for machines."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.logs import FIELDS, JsonLines, TextLines, is_journal, start_logging

LEVELS = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return logging.getLogger("distredge.some").makeRecord(
        "distredge.some", level, __file__, 1, message, (), None, extra=extra
    )


values = st.none() | st.integers() | st.text(max_size=20)


@given(st.text(), st.sampled_from(LEVELS), st.dictionaries(st.sampled_from(FIELDS), values))
def test_a_json_line_gives_back_what_was_logged(message: str, level: int, extra: dict[str, object]) -> None:
    made = record(message, level, **extra)
    line = JsonLines().format(made)
    data = json.loads(line)
    assert "\n" not in line
    assert data.pop("message") == message
    assert data.pop("level") == logging.getLevelName(level).lower()
    assert data.pop("logger") == "distredge.some"
    at = datetime.fromisoformat(data.pop("time").replace("Z", "+00:00"))
    assert at.utcoffset() == timezone.utc.utcoffset(None)
    assert abs(at.timestamp() - made.created) < 0.0011
    assert data == {name: value for name, value in extra.items() if value is not None}


@given(st.text(), st.dictionaries(st.sampled_from(FIELDS), values), st.booleans())
def test_nobody_can_end_a_line_of_text(message: str, extra: dict[str, object], for_journal: bool) -> None:
    line = TextLines(for_journal).format(record(message, **extra))
    assert line.isprintable()
    assert line.splitlines() == [line]


def test_text_says_when_how_grave_and_about_what() -> None:
    line = TextLines().format(record("late rows", logging.WARNING, epoch=3, frame=17, volume=0, other="x"))
    time, _, rest = line.partition(" ")
    assert time.endswith("Z")
    assert rest == "warning late rows epoch=3 frame=17 volume=0"


@pytest.mark.parametrize(("level", "priority"), [(10, 7), (20, 6), (30, 4), (40, 3), (50, 2), (25, 5)])
def test_the_journal_is_told_the_level_and_not_the_time(level: int, priority: int) -> None:
    assert TextLines(for_journal=True).format(record("it", level, peer="a")) == f"<{priority}>it peer=a"


def test_whether_the_journal_reads_a_stream_is_found_out_from_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile("w") as journal, tempfile.TemporaryFile("w") as other:
        at = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{at.st_dev}:{at.st_ino}")
        assert is_journal(journal)
        assert not is_journal(other)  # sent elsewhere, although systemd started it
        assert not is_journal(io.StringIO())
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not is_journal(journal)


def test_an_exception_stays_on_the_line() -> None:
    def fails() -> None:
        raise ValueError("first\nsecond")

    for form in ("text", "json"):
        stream = io.StringIO()
        start_logging("info", form, stream)  # type: ignore[arg-type]
        try:
            fails()
        except ValueError:
            logging.getLogger("distredge.x").exception("it failed", extra={"frame": 2})
        (line,) = stream.getvalue().splitlines()
        assert "ValueError" in line and "in fails" in line
    assert json.loads(line)["exception"].endswith("first\nsecond")


def test_what_is_below_the_level_is_not_said_and_a_second_start_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    start_logging("debug", "text", first)
    start_logging("warning", "json", second)
    log = logging.getLogger("distredge.x")
    log.info("quiet")
    log.warning("loud %d", 1, extra={"volume": 4})
    assert first.getvalue() == ""
    (line,) = second.getvalue().splitlines()
    assert json.loads(line).items() >= {"message": "loud 1", "level": "warning", "volume": 4}.items()


def test_a_process_logs_on_stderr() -> None:
    code = "from distredge.logs import start_logging; start_logging(); import logging; logging.info('here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    assert done.stderr.endswith(" info here\n")
