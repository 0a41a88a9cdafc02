"""Predicted against measured: the figures that sum it up, and its files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from distredge.experiments.fidelity import Measured, as_csv, draw, summary


def measured(name: str, predicted_ms: float, measured_ms: float, method: str = "random") -> Measured:
    error = (predicted_ms - measured_ms) / measured_ms
    return Measured(name, method, predicted_ms, measured_ms, 1.1 * measured_ms, error)


ROWS = [measured("random-0", 110.0, 100.0), measured("random-1", 90.0, 100.0), measured("search", 50.0, 50.0, "search")]


def test_errors_of_either_sign_count_alike() -> None:
    found = summary(ROWS)
    assert found["median_error"] == pytest.approx(0.1)
    assert found["p90_error"] == found["max_error"] == pytest.approx(0.1)
    assert found["mean_signed_error"] == pytest.approx(0.0)


def test_rows_become_a_table_and_a_picture(tmp_path: Path) -> None:
    rows = list(csv.DictReader(as_csv(ROWS).splitlines()))
    assert [row["plan"] for row in rows] == ["random-0", "random-1", "search"]
    assert float(rows[0]["error"]) == ROWS[0].error
    for name, shown in (("all", ROWS), ("one", ROWS[-1:])):
        draw(shown, "vgg16 on db-50", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
