"""Reads a user's own table: CSV with the header `layer,rows,median_ms` and a line for each layer and number of rows.

`layer` is a name of `distredge inspect MODEL`; the head's line is `head,0,MS`. The columns `p10_ms`, `p90_ms`,
`p99_ms`, `cv` and `count` may follow, in any order, and may be empty. UTF-8, with or without a byte-order mark, any
line ends, spaces around values and empty lines.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from distredge.errors import InputError
from distredge.measure.imports import LONGEST_MS, Imported
from distredge.measure.imports.gather import Gathered, read_text
from distredge.model.graph import LayerGraph
from distredge.profiles.measured import Timing

HEAD = "head"
COLUMNS = ("layer", "rows", "median_ms")
MORE_COLUMNS = ("p10_ms", "p90_ms", "p99_ms", "cv", "count")


class _Line(NamedTuple):
    """A line of a file: where it stands, in words, and its values by column."""

    where: str
    values: Mapping[str, str]


def read(paths: Sequence[Path], graph: LayerGraph) -> Imported:
    """See `imports.read`."""
    lines = [line for path in paths for line in _lines(path)]
    gathered, head = Gathered(graph), None
    layers = [line for line in lines if not _is_head(line, graph)]
    if layers and not any(gathered.knows(line.values["layer"]) for line in layers):
        raise InputError(
            f"none of the layers in '{paths[0]}' is in '{graph.name}': is it of another model? "
            f"(`distredge inspect {graph.name}` lists its layers)"
        )
    for line in lines:
        timing = _timing(line)
        if not _is_head(line, graph):
            rows = _whole(line, "rows")
            gathered.add(gathered.layer(line.values["layer"], line.where), rows, timing, line.where)
        elif not graph.head.nodes:
            raise InputError(f"{line.where}: '{graph.name}' has no head: remove the line")
        elif head is not None:
            raise InputError(f"{line.where}: the head has a figure already: remove one")
        else:
            head = timing
    return Imported(gathered.layers, head, notes=tuple(gathered.notes()))


def _is_head(line: _Line, graph: LayerGraph) -> bool:
    """Whether a line is the head's: a layer may be called so too, but has rows."""
    return line.values["layer"] == HEAD and (line.values["rows"] in ("", "0") or HEAD not in graph.index)


def _lines(path: Path) -> Iterator[_Line]:
    """The lines of a file; raises `InputError` where it is no CSV, empty, or a line has too many or too few values."""
    # Strict: a quotation mark that is never closed is told, and does not swallow the rest of the file.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, skipinitialspace=True)
    columns: list[str] = []
    found = 0
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            where = f"{path}, line {reader.line_num}"
            if not any(stripped):
                continue
            if not columns:
                columns = _header(stripped, where)
            elif len(stripped) != len(columns):
                raise InputError(f"{where}: {len(stripped)} values, not {len(columns)} ({','.join(columns)})")
            else:
                found += 1
                yield _Line(where, dict(zip(columns, stripped, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
    if not found:
        raise InputError(f"{path}: no figures in it: give the header {','.join(COLUMNS)} and a line for each")


def _header(columns: list[str], where: str) -> list[str]:
    problems = [f"unknown column '{name[:40]}'" for name in columns if name not in (*COLUMNS, *MORE_COLUMNS)]
    problems += [f"column '{name}' is missing" for name in COLUMNS if name not in columns]
    problems += [f"column '{name}' stands twice" for name in COLUMNS + MORE_COLUMNS if columns.count(name) > 1]
    if problems:
        optional = ",".join(MORE_COLUMNS)
        raise InputError(f"{where}: {problems[0]}: the header should be {','.join(COLUMNS)}, maybe with {optional}")
    return columns


def _timing(line: _Line) -> Timing:
    """A line's timing: where it gives no other quantiles they are the median."""
    median = _number(line, "median_ms")
    p10, p90 = _number(line, "p10_ms", median), _number(line, "p90_ms", median)
    p99 = _number(line, "p99_ms", p90)
    if not p10 <= median <= p90 <= p99:
        raise InputError(f"{line.where}: p10_ms, median_ms, p90_ms and p99_ms should not fall in this order")
    count = _whole(line, "count") if line.values.get("count") else 1
    if count < 1:
        raise InputError(f"{line.where}: count should be 1 or more")
    return Timing(median_ms=median, p10_ms=p10, p90_ms=p90, p99_ms=p99, cv=_number(line, "cv", 0.0), count=count)


# Stricter than Python: 1_000 is a slip, and so are nan and inf.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DIGITS = re.compile(r"\d{1,9}", re.ASCII)


def _number(line: _Line, column: str, default: float | None = None) -> float:
    text = line.values.get(column, "")
    if not text and default is not None:
        return default
    if not _NUMBER.fullmatch(text):
        raise InputError(f"{line.where}: '{text[:40]}' in column {column} is no number")
    value = float(text)
    if not 0 <= value <= LONGEST_MS:
        raise InputError(f"{line.where}: {text[:40]} in column {column} is not between 0 and {LONGEST_MS:g}")
    return value


def _whole(line: _Line, column: str) -> int:
    text = line.values[column]
    if not _DIGITS.fullmatch(text):
        raise InputError(f"{line.where}: '{text[:40]}' in column {column} is no whole number, or too large a one")
    return int(text)
