"""Writes what any profile says of a model's layers as CSV, in the form that `imports.rows_csv` reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from distredge.measure.imports.rows_csv import COLUMNS, HEAD
from distredge.measure.row_counts import Every
from distredge.model.graph import LayerGraph
from distredge.profiles.profile import Profile


class Row(NamedTuple):
    """A line of the CSV: latency in ms of a number of a layer's rows; of the head's, 0 rows."""

    layer: str
    rows: int
    median_ms: float


def exported(profile: Profile, graph: LayerGraph, granularity: int = 1) -> Iterator[Row]:
    """Every `granularity`-th number of rows of each layer, 1 and the height among them, and the head if there is one.

    The latencies are those that plans are made with: of a measured profile, read off between what was measured. Raises
    `ProfileMissingError` if it does not know a layer, or not at all its rows.
    """
    for layer in graph.layers:
        rows = Every(granularity).wanted(layer.height, {})
        for count, ms in zip(rows, profile.layer_ms(layer, np.array(rows)).tolist(), strict=True):
            yield Row(layer.name, count, ms)
    if graph.head.nodes:
        yield Row(HEAD, 0, float(profile.head_ms(graph)))


def to_csv(rows: Iterable[Row]) -> str:
    """The CSV's text. Every latency has all its digits, so that it is read back as it was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()
