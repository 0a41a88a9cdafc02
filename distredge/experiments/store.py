"""An experiment's files: rows as they come, so that a run which was interrupted goes on where it stopped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from distredge.errors import InputError
from distredge.experiments.base import SECONDS, Effort, Experiment, Row, Value
from distredge.resources import write_atomically

CASE_SECONDS = "case_seconds"
"""Wall-clock time of a whole case."""

EFFORT_FILE = "effort.json"
"""What the rows in a folder were made with."""


class Store:
    """The rows of one experiment in a folder, by case."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment = experiment
        self.path = folder / f"{experiment.name}.csv"
        self.seconds_path = folder / f"{experiment.name}{SECONDS}.csv"
        timed = dict.fromkeys((*experiment.timed, CASE_SECONDS), float)
        self._columns: Mapping[str, type] = experiment.columns
        self._seconds_columns: Mapping[str, type] = {k: experiment.columns[k] for k in experiment.key} | timed
        rows, torn = _read(self.path, self._columns)
        self.rows = self._by_case(rows)
        if torn and rows:  # the lines of a case are written together: it may be the one that was cut off
            del self.rows[experiment.identity(rows[-1])]
        if experiment.failure:
            self.rows = {case: found for case, found in self.rows.items() if not found[0][experiment.failure]}
        seconds = self._by_case(_read(self.seconds_path, self._seconds_columns)[0])
        self.seconds = {case: found[-1:] for case, found in seconds.items() if case in self.rows}

    def keep(self, cases: Sequence[Row]) -> list[Row]:
        """Forget rows of other cases and write the rest in the cases' order; returns the cases that have no rows."""
        wanted = [self.experiment.identity(case) for case in cases]
        self.rows = {case: self.rows[case] for case in wanted if case in self.rows}
        self.seconds = {case: self.seconds[case] for case in wanted if case in self.seconds}
        write_atomically(self.path, _text(self._columns, self.all_rows(), header=True))
        times = [row for rows in self.seconds.values() for row in rows]
        write_atomically(self.seconds_path, _text(self._seconds_columns, times, header=True))
        return [case for case, name in zip(cases, wanted, strict=True) if name not in self.rows]

    def add(self, rows: Sequence[Row], case_seconds: float) -> None:
        """Append the rows of a case, all at once."""
        case = self.experiment.identity(rows[0])
        times = {k: rows[0][k] for k in (*self.experiment.key, *self.experiment.timed)} | {CASE_SECONDS: case_seconds}
        for path, columns, new, known in (
            (self.seconds_path, self._seconds_columns, [times], self.seconds),
            (self.path, self._columns, list(rows), self.rows),
        ):
            text = _text(columns, new)
            with path.open("ab", buffering=0) as file:
                file.write(text.encode())
            known[case] = _parse(columns, csv.reader(io.StringIO(text)))

    def all_rows(self) -> list[Row]:
        """The rows of all cases."""
        return [row for rows in self.rows.values() for row in rows]

    def all_seconds(self) -> list[Row]:
        """What took how long, a row a case."""
        return [row for rows in self.seconds.values() for row in rows]

    def _by_case(self, rows: Iterable[Row]) -> dict[tuple[Value, ...], list[Row]]:
        found: dict[tuple[Value, ...], list[Row]] = {}
        for row in rows:
            found.setdefault(self.experiment.identity(row), []).append(row)
        return found


def claim_folder(folder: Path, effort: Effort, version: str) -> None:
    """Make a folder that of an effort; raises `InputError` if it holds rows of another one."""
    claim(folder / EFFORT_FILE, {"version": version, **asdict(effort)})


def claim(path: Path, made_with: Mapping[str, object]) -> None:
    """Note in a JSON file what the rows of its folder are made with, beside what it says already.

    Raises `InputError` if it says otherwise of something.
    """
    mine, theirs = json.loads(json.dumps(made_with)), {}
    if path.is_file():
        try:
            theirs = dict(json.loads(path.read_text()))
        except (TypeError, ValueError) as exc:
            raise InputError(f"'{path}' is damaged: give another folder with --out") from exc
    said = ", ".join(f"{k} {theirs[k]}" for k in mine if k in theirs and theirs[k] != mine[k])
    if said:
        raise InputError(f"'{path.parent}' holds rows made otherwise ({said}): give another folder with --out")
    write_atomically(path, json.dumps(theirs | mine, indent=2) + "\n")


def _read(path: Path, columns: Mapping[str, type]) -> tuple[list[Row], bool]:
    """Rows of a file, none if there is no file; and whether a last line, then left out, was not written to its end."""
    if not path.is_file():
        return [], False
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    try:
        if whole and next(csv.reader(whole[:1])) != list(columns):
            raise ValueError
        return _parse(columns, csv.reader(whole[1:])), len(whole) < len(lines)
    except ValueError as exc:
        raise InputError(f"'{path}' has no rows of this experiment: give another folder with --out") from exc


def _parse(columns: Mapping[str, type], lines: Iterable[list[str]]) -> list[Row]:
    return [
        {
            name: (None if text == "" and kind is not str else kind(text))
            for (name, kind), text in zip(columns.items(), line, strict=True)
        }
        for line in lines
    ]


def _text(columns: Mapping[str, type], rows: Iterable[Row], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
