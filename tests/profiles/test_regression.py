"""Representations of latency against rows, and cross-validation between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.profiles.profile import FloatArray
from distredge.profiles.regression import REPRESENTATIONS, best, cross_validate, fit, left_out_errors


def curve(values: dict[int, float]) -> tuple[FloatArray, FloatArray]:
    rows = sorted(values)
    return np.array(rows, dtype=np.float64), np.array([values[r] for r in rows])


AFFINE = curve({rows: 2.0 + 0.5 * rows for rows in (1, 3, 7, 20, 50, 90, 120)})
BENT = curve({rows: 2.0 + 0.1 * rows + max(rows - 30, 0) for rows in range(1, 121, 7)})
STAIRS = curve({rows: 1.0 + rows // 40 for rows in range(1, 121)})


@pytest.mark.parametrize("name", ["table", "linear", "piecewise"])
def test_a_line_is_met_between_its_points(name: str) -> None:
    at = np.arange(1.0, 121.0)
    assert fit(name, *AFFINE)(at) == pytest.approx(2.0 + 0.5 * at)  # type: ignore[arg-type]


def test_piecewise_finds_the_bend_that_a_line_misses() -> None:
    at = np.arange(1.0, 114.0)
    true = 2.0 + 0.1 * at + np.maximum(at - 30, 0)
    assert np.abs(fit("piecewise", *BENT)(at) / true - 1).max() < 0.18
    assert np.abs(fit("linear", *BENT)(at) / true - 1).max() > 0.5


def test_nearest_neighbours_follow_steps_and_meet_what_was_measured() -> None:
    rows, ms = STAIRS
    assert fit("knn", rows, ms)(rows) == pytest.approx(ms)
    assert fit("knn", rows, ms)(np.array([20.5]))[0] == pytest.approx(1.0)


@given(
    st.dictionaries(st.integers(1, 200), st.floats(0.0, 100), min_size=1, max_size=12),
    st.sampled_from(REPRESENTATIONS),
    st.lists(st.integers(1, 200), min_size=1),
)
def test_no_fit_falls_below_the_least_measured_latency(values: dict[int, float], name: str, at: list[int]) -> None:
    rows, ms = curve(values)
    predicted = fit(name, rows, ms)(np.array(at, dtype=np.float64))  # type: ignore[arg-type]
    assert np.isfinite(predicted).all()
    if len(rows) > 1:
        assert predicted.min() >= ms.min()
        assert np.isfinite(left_out_errors(name, rows, ms)).all()  # type: ignore[arg-type]
    else:
        assert predicted == pytest.approx(max(ms[0], 1e-6) * np.array(at) / rows[0])


def test_left_out_points_are_predicted_from_the_others_only() -> None:
    rows, ms = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 30.0, 4.0])
    errors = left_out_errors("table", rows, ms)
    assert errors == pytest.approx([abs(15.5 / 2 - 1), abs(3.0 / 30 - 1)])


def test_cross_validation_prefers_what_fits_the_device() -> None:
    assert best(cross_validate([STAIRS])) in ("knn", "table")
    rng = np.random.default_rng(0)
    rows, ms = AFFINE
    noisy = [(rows, ms * (1 + 0.05 * rng.standard_normal(len(rows)))) for _ in range(20)]
    assert best(cross_validate(noisy)) == "linear"
    assert best(cross_validate([BENT])) != "linear"
    assert best(cross_validate([(rows[:2], ms[:2])])) == "table"
