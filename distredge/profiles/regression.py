"""Latency against rows from some measured points: a table, a line, a line with bends, or nearest neighbours.

DistrEdge allows any of them (section V-B: "regression models or a measured data table"). `cross_validate` tells which
says best what was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np

from distredge.profiles.measured import Representation
from distredge.profiles.profile import FloatArray

Curve: TypeAlias = Callable[[FloatArray], FloatArray]
"""Latency in ms at each of some numbers of rows, which need not be measured ones."""

LEAST_MS = 1e-6
"""A latency of zero, as a coarse clock gives it, is taken for this."""

FOLDS = 5
NEIGHBOURS = 3
MAX_BENDS = 6


def fit(representation: Representation, rows: FloatArray, ms: FloatArray) -> Curve:
    """The curve through, or close to, latencies `ms` at increasing numbers of `rows`, at least one of each.

    One point alone is taken in proportion to rows. No curve falls below the least latency that was measured.
    """
    ms = np.maximum(ms, LEAST_MS)
    if len(rows) == 1:
        return lambda at: np.asarray(ms[0] * at / rows[0])
    curve = _FITS[representation](rows, ms)
    least = float(ms.min())
    return lambda at: np.maximum(curve(at), least)


def _table(rows: FloatArray, ms: FloatArray) -> Curve:
    """Linear between neighbours, flat outside of them."""
    return lambda at: np.interp(at, rows, ms)


def _linear(rows: FloatArray, ms: FloatArray) -> Curve:
    """One line with the least relative errors: what the methods that assume linear devices see."""
    return _bent(rows, ms, ())


def _piecewise(rows: FloatArray, ms: FloatArray) -> Curve:
    """A line that bends at some of the points: one more wherever that pays (Bayesian information criterion)."""
    bends: tuple[float, ...] = ()
    best = _criterion(rows, ms, bends)
    while len(bends) < min(MAX_BENDS, len(rows) - 3):
        tried = [(_criterion(rows, ms, (*bends, x)), x) for x in rows[1:-1].tolist() if x not in bends]
        value, bend = min(tried)
        if value >= best:
            break
        best, bends = value, (*bends, bend)
    return _bent(rows, ms, bends)


def _knn(rows: FloatArray, ms: FloatArray) -> Curve:
    """Mean of the nearest points, each weighted by its nearness; a measured point gives its own latency."""

    def curve(at: FloatArray) -> FloatArray:
        distance = np.abs(np.asarray(at, dtype=np.float64)[..., None] - rows)
        nearest = np.argsort(distance, axis=-1, kind="stable")[..., :NEIGHBOURS]
        weight = 1.0 / np.maximum(np.take_along_axis(distance, nearest, -1), 1e-9)
        return np.asarray((weight * ms[nearest]).sum(-1) / weight.sum(-1))

    return curve


_FITS: dict[Representation, Callable[[FloatArray, FloatArray], Curve]] = {
    "table": _table,
    "linear": _linear,
    "piecewise": _piecewise,
    "knn": _knn,
}

REPRESENTATIONS: tuple[Representation, ...] = tuple(_FITS)


def _basis(at: FloatArray, bends: tuple[float, ...]) -> FloatArray:
    return np.stack([np.ones_like(at), at, *(np.maximum(at - bend, 0.0) for bend in bends)], axis=-1)


def _coefficients(rows: FloatArray, ms: FloatArray, bends: tuple[float, ...]) -> FloatArray:
    """Least squares of relative errors, so that few rows count as much as many."""
    found, *_ = np.linalg.lstsq(_basis(rows, bends) / ms[:, None], np.ones_like(ms), rcond=None)
    return np.asarray(found)


def _bent(rows: FloatArray, ms: FloatArray, bends: tuple[float, ...]) -> Curve:
    coefficients = _coefficients(rows, ms, bends)
    return lambda at: np.asarray(_basis(np.asarray(at, dtype=np.float64), bends) @ coefficients)


def _criterion(rows: FloatArray, ms: FloatArray, bends: tuple[float, ...]) -> float:
    left = _bent(rows, ms, bends)(rows) / ms - 1.0
    count = len(rows)
    return float(count * np.log(np.mean(left**2) + 1e-9) + (2 + 2 * len(bends)) * np.log(count))


def left_out_errors(representation: Representation, rows: FloatArray, ms: FloatArray) -> FloatArray:
    """|predicted / measured - 1| of each point but the first and the last, predicted by a fit without it.

    With many points a fifth of them is left out at a time, every fifth one. Needs at least 3 points.
    """
    ms = np.maximum(ms, LEAST_MS)
    inner = np.arange(1, len(rows) - 1)
    errors = np.empty(len(inner))
    for fold in range(min(FOLDS, len(inner))):
        out = inner[fold :: min(FOLDS, len(inner))]
        kept = np.setdiff1d(np.arange(len(rows)), out)
        errors[out - 1] = np.abs(fit(representation, rows[kept], ms[kept])(rows[out]) / ms[out] - 1.0)
    return errors


def cross_validate(points: Iterable[tuple[FloatArray, FloatArray]]) -> dict[Representation, FloatArray]:
    """Errors of what was left out, of all layers together, by representation; layers of under 3 points tell nothing.

    `points` are (rows, ms) of each layer.
    """
    known = [(rows, ms) for rows, ms in points if len(rows) >= 3]
    return {
        name: np.concatenate([np.zeros(0), *(left_out_errors(name, rows, ms) for rows, ms in known)])
        for name in REPRESENTATIONS
    }


def best(errors: dict[Representation, FloatArray]) -> Representation:
    """The representation with the least mean error; the table where nothing is known."""
    if not len(errors["table"]):
        return "table"
    return min(REPRESENTATIONS, key=lambda name: float(errors[name].mean()))
