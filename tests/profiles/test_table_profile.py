"""Measured tables: interpolation, gaps, malformed files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProfileError, ProfileMissingError
from distredge.model.graph import LayerGraph
from distredge.model.layer import Head, Layer, LayerInput, Output
from distredge.model.rows import Window
from distredge.profiles.measured import TableFile, head_signature
from distredge.profiles.store import load_profile
from distredge.profiles.table import TableProfile

LAYER = Layer(
    name="conv1",
    op="conv",
    inputs=(LayerInput("input", Window(3, 1, 1, 1)),),
    in_shape=(3, 8, 8),
    out_shape=(4, 8, 8),
    kernel=(3, 3),
    stride=(1, 1),
    groups=1,
    macs=6912,
    params=112,
    nodes=("conv1",),
    tensor="conv1_out",
)
HEAD = Head(("conv1",), ("flatten", "fc"), ("Flatten", "Gemm"), (Output("scores", (1, 5)),), 1280, 1285)
GRAPH = LayerGraph("toy", "0" * 64, Path("toy.onnx"), (1, 3, 8, 8), "input", (LAYER,), HEAD)


def table(points: dict[int, float], cv: float = 0.01, **changes: Any) -> dict[str, Any]:
    timing = {"p10_ms": 0.1, "p90_ms": 9.0, "p99_ms": 9.5, "cv": cv, "count": 5}
    return {
        "schema_version": 2,
        "name": "bench",
        "kind": "measured",
        "provenance": {
            "subject": {
                "backend": "ort", "host": "bench", "device": "some", "runtime": "onnxruntime", "runtime_version": "1",
                "precision": "FP32", "threads": 1,
            },
            "method": {"order": "random", "warm_up_s": 0.1, "seconds_per_point": 0.5},
            "date": "2026-01-01T00:00:00+00:00", "models": {"0" * 64: "toy"}, "complete": True,
            "sentinel": {"signature": LAYER.signature, "rows": 8, "medians_ms": [2.0, 2.1, 2.0]},
        },
        "representation": "table",
        "layers": {LAYER.signature: [{"rows": r, "median_ms": ms, **timing} for r, ms in points.items()]},
        "heads": {head_signature(HEAD): {"median_ms": 0.75, **timing}},
        **changes,
    }  # fmt: skip


def profile(points: dict[int, float]) -> TableProfile:
    return TableProfile(TableFile.model_validate(table(points)))


def test_between_points_latency_is_linear_and_below_the_first_it_is_flat() -> None:
    latency = profile({2: 1.0, 4: 3.0, 8: 4.0}).layer_ms(LAYER, np.array([0, 1, 2, 3, 4, 6, 8]))
    assert latency.tolist() == [0.0, 1.0, 1.0, 2.0, 3.0, 3.5, 4.0]


def test_what_was_measured_is_not_smoothed() -> None:
    assert profile({1: 1.0, 4: 3.0, 8: 2.0}).layer_ms(LAYER, np.array([[1, 4], [6, 8]])).tolist() == [
        [1.0, 3.0],
        [2.5, 2.0],
    ]


@given(st.dictionaries(st.integers(1, 8), st.floats(0.001, 100), min_size=1).map(lambda d: {**d, 8: 5.0}))
def test_measured_points_are_met_exactly_and_others_lie_between_their_neighbours(points: dict[int, float]) -> None:
    points = {1: 3.0, **dict(sorted(points.items()))}
    latency = profile(points).layer_ms(LAYER, np.arange(9))
    assert latency[0] == 0
    assert all(latency[rows] == ms for rows, ms in points.items())
    assert min(points.values()) <= latency[1:].min()
    assert latency.max() <= max(points.values())


def test_one_point_alone_is_taken_in_proportion() -> None:
    assert profile({8: 4.0}).layer_ms(LAYER, np.array([0, 2, 8])).tolist() == [0.0, 1.0, 4.0]


def test_the_representation_is_the_files_else_the_best_by_cross_validation() -> None:
    noisy = {1: 1.0, 2: 2.2, 3: 2.8, 4: 4.2, 5: 4.8, 6: 6.2, 7: 6.8, 8: 8.0}
    chosen = profile(noisy).layer_ms(LAYER, np.arange(1, 9))
    assert chosen.tolist() == list(noisy.values())
    free = TableProfile(TableFile.model_validate(table(noisy, representation=None)))
    assert free.representation == "linear"
    assert np.ptp(np.diff(free.layer_ms(LAYER, np.arange(2, 9)))) < 1e-9


def test_use_for_another_model_or_after_an_interruption_is_cautioned() -> None:
    assert profile({8: 1.0}).cautions(GRAPH) == []
    other = dataclasses.replace(GRAPH, sha256="1" * 64)
    assert "for another file of toy" in profile({8: 1.0}).cautions(other)[0]
    third = dataclasses.replace(other, name="third")
    assert "for toy, not for third" in profile({8: 1.0}).cautions(third)[0]
    broken = table({8: 1.0})
    broken["provenance"] |= {"complete": False, "sentinel": {"signature": "x", "rows": 1, "medians_ms": [1.0, 1.5]}}
    said = TableProfile(TableFile.model_validate(broken)).cautions(GRAPH)
    assert len(said) == 2 and "not complete" in said[0] and "50%" in said[1]


def test_the_head_is_looked_up_by_what_it_computes() -> None:
    measured = profile({8: 1.0})
    assert measured.head_ms(GRAPH) == 0.75
    made = Output("conv1_out", (1, 4, 8, 8), layer="conv1")
    headless = LayerGraph("toy", "", Path(), (1, 3, 8, 8), "input", (LAYER,), Head((), (), (), (made,), 0, 0))
    assert measured.head_ms(headless) == 0


def test_a_missing_layer_names_device_layer_and_command() -> None:
    other = Layer(**{name: getattr(LAYER, name) for name in Layer.__slots__} | {"name": "conv9", "kernel": (5, 5)})
    with pytest.raises(ProfileMissingError, match=r"'bench'.*'conv9'.*distredge profile MODEL --backend ort --out DIR"):
        profile({8: 1.0}).layer_ms(other, np.array([1]))
    with pytest.raises(ProfileMissingError, match="more than 4 rows of layer 'conv1'"):
        profile({4: 1.0}).layer_ms(LAYER, np.array([5]))
    unmeasured = TableProfile(TableFile.model_validate(table({8: 1.0}, heads={})))
    with pytest.raises(ProfileMissingError, match="the head of model 'toy'.*distredge profile toy "):
        unmeasured.head_ms(GRAPH)


def test_provenance_flags_drift_and_what_was_unsteady(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(table({1: 1.0, 8: 2.0}, cv=0.2)))
    provenance = json.loads(json.dumps(load_profile("bench.json", tmp_path).provenance()))
    assert provenance["kind"] == "measured"
    assert provenance["drift"] == pytest.approx(0.05)
    assert len(provenance["unsteady"]) == 3
    assert profile({8: 1.0}).provenance()["unsteady"] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a mapping"),
        (json.dumps(table({4: 1.0, 2: 1.0})), "must be increasing"),
        (json.dumps(table({0: 1.0})), "rows"),
        (json.dumps(table({4: -1.0})), "median_ms"),
        (json.dumps(table({4: 1.0}, schema_version=3)), "schema_version"),
        (json.dumps(table({4: 1.0}, schema_version=1)), "of an earlier release"),
        (json.dumps(table({4: 1.0}, laiers={})), "did you mean 'layers'"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ProfileError) as refusal:
        TableProfile.load(path)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
