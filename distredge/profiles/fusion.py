"""Fused execution: a split-part run in one session takes less, or more, than the sum of its layers run alone.

Run alone, a layer has its input and output laid out anew, and starts an engine; run in one, it finds its input in the
cache, but its weights no longer. So the difference is fitted by what is saved per layer inside the part, per element
that stays inside, and per parameter (see `Fusion`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.profiles.measured import FusedTiming, Fusion
from distredge.profiles.profile import FloatArray

MOST_SAVED = 0.5
"""Of the sum of its layers a part is never thought to save, or to cost, more than this share."""


def volume_signature(volume: Volume) -> str:
    """What decides the speed of a volume's parts, whatever the model: its layers, their heights, who reads whom."""
    index = volume.graph.index
    described = [
        (layer.signature, layer.height, [index[source.source] - volume.start for source in layer.inputs])
        for layer in volume.layers
    ]
    return hashlib.sha256(repr(described).encode()).hexdigest()[:24]


def inner_work(volume: Volume) -> FloatArray:
    """(3, height + 1, height + 1): what the rows [a, b) of a volume save on, in the units of `Fusion`.

    Layers behind the first, elements that stay inside (in millions), parameters of the layers behind the first (in
    millions).
    """
    starts, stops = volume.tables
    size, first = volume.height + 1, len(volume.entering)
    inside = np.zeros((size, size))
    for k, layer in enumerate(volume.layers):
        inside += np.maximum(stops[first + k][None, :] - starts[first + k][:, None], 0) * layer.row_elements
    for i in volume.leaving:
        cuts = volume.cut_rows(i)
        inside -= np.maximum(cuts[None, :] - cuts[:, None], 0) * volume.graph.layers[i].row_elements
    params = sum(layer.params for layer in volume.layers[1:]) / 1e6
    count = float(len(volume.layers) - 1)
    return np.stack([np.full((size, size), count), np.maximum(inside, 0.0) / 1e6, np.full((size, size), params)])


def fused(fusion: Fusion, work: FloatArray, apart_ms: FloatArray) -> FloatArray:
    """Latencies of parts run as one, from the sums of their layers and their `inner_work` (3, ...)."""
    return _fused(_coefficients(fusion), work, apart_ms)


def _fused(coefficients: FloatArray, work: FloatArray, apart_ms: FloatArray) -> FloatArray:
    saved = coefficients[0] * apart_ms + np.tensordot(coefficients[1:], work, axes=1)
    return np.asarray(apart_ms - np.clip(saved, -MOST_SAVED * apart_ms, MOST_SAVED * apart_ms))


def _coefficients(fusion: Fusion) -> FloatArray:
    return np.array([fusion.share, fusion.ms_per_layer, fusion.ms_per_million_elements, fusion.ms_per_million_params])


MIN_PARTS = 6
"""Parts of several layers that a fit needs."""

WORTH = 0.15
"""By which share a further term must lower the error of what is left out."""

EXACT = 1e-4
"""A smaller error is none."""

TERMS = tuple(terms for count in (1, 2, 3, 4) for terms in itertools.combinations(range(4), count))
"""Which coefficients a fit may use, the others being 0."""


def fit_fusion(work: FloatArray, apart_ms: FloatArray, measured_ms: FloatArray) -> Fusion | None:
    """What fused execution saves, from parts that were measured, (parts, 3), (parts,), (parts,).

    None with too few parts, or where the plain sum of layers predicts the parts that were left out no worse.
    """
    several = work[:, 0] > 0
    work, apart_ms, measured_ms = work[several], apart_ms[several], measured_ms[several]
    if len(work) < MIN_PARTS:
        return None
    trials = [(_left_out(terms, work, apart_ms, measured_ms), terms) for terms in TERMS]
    errors, terms = min(trials, key=lambda trial: max(float(trial[0].mean()), EXACT) * (1.0 + WORTH * len(trial[1])))
    unfused = np.abs(apart_ms / measured_ms - 1.0)
    if errors.mean() >= unfused.mean():
        return None
    share, per_layer, per_element, per_param = (round(float(c), 6) for c in _solve(terms, work, apart_ms, measured_ms))
    return Fusion(
        share=share,
        ms_per_layer=per_layer,
        ms_per_million_elements=per_element,
        ms_per_million_params=per_param,
        parts=len(errors),
        error_median=round(float(np.median(errors)), 4),
        error_p90=round(float(np.quantile(errors, 0.9)), 4),
        error_median_unfused=round(float(np.median(unfused)), 4),
    )


def _left_out(terms: tuple[int, ...], work: FloatArray, apart_ms: FloatArray, measured_ms: FloatArray) -> FloatArray:
    """Error of each part, predicted by a fit of some terms to the others."""
    errors = np.empty(len(work))
    for out in range(len(work)):
        kept = np.arange(len(work)) != out
        trial = _solve(terms, work[kept], apart_ms[kept], measured_ms[kept])
        errors[out] = abs(float(_fused(trial, work[out], apart_ms[out])) / measured_ms[out] - 1.0)
    return errors


def _solve(terms: tuple[int, ...], work: FloatArray, apart_ms: FloatArray, measured_ms: FloatArray) -> FloatArray:
    """Coefficients, of some terms, with the least squares of relative errors."""
    features = np.column_stack([apart_ms, work])[:, list(terms)]
    found, *_ = np.linalg.lstsq(features / measured_ms[:, None], (apart_ms - measured_ms) / measured_ms, rcond=None)
    coefficients = np.zeros(4)
    coefficients[list(terms)] = found
    return coefficients


def corrected(parts: Sequence[FusedTiming], predicted_ms: FloatArray, leave_out: Interval | None = None) -> FloatArray:
    """Predictions of a volume's parts, (height + 1, height + 1), moved to where measured parts of it are.

    At a measured part the result is what was measured. Elsewhere the prediction is scaled as the measured parts of the
    nearest sizes ask for, linearly between sizes. `leave_out` is a part not to be used, to find out the error.
    """
    known = [p for p in parts if leave_out is None or (p.start, p.stop) != (leave_out.start, leave_out.stop)]
    if not known:
        return predicted_ms
    by_size: dict[int, list[float]] = {}
    for p in known:
        by_size.setdefault(p.stop - p.start, []).append(p.median_ms / float(predicted_ms[p.start, p.stop]))
    sizes = sorted(by_size)
    at = np.arange(len(predicted_ms))
    rows = np.maximum(at[None, :] - at[:, None], 0)
    moved: FloatArray = predicted_ms * np.interp(rows, sizes, [float(np.median(by_size[size])) for size in sizes])
    for p in known:
        moved[p.start, p.stop] = p.median_ms
    return moved
