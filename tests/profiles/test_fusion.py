"""What split-parts save when they run as one: fitted where they were measured, exact at what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.fusion import corrected, fit_fusion, fused, inner_work, volume_signature
from distredge.profiles.measured import FusedTiming
from distredge.testing.toy_models import chain, save_model


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path))


def test_inner_work_counts_what_stays_inside(graph: LayerGraph) -> None:
    volume = Volume(graph, 0, 3)
    work = inner_work(volume)
    out = Interval(1, volume.height)
    part = volume.part(out)
    inside = sum(rows.size * layer.row_elements for layer, rows in zip(volume.layers[:-1], part.rows[:-1], strict=True))
    assert work[0, 0, 1] == 2
    assert work[1, out.start, out.stop] == pytest.approx(inside / 1e6)
    assert work[2, 0, 1] == pytest.approx(sum(layer.params for layer in volume.layers[1:]) / 1e6)
    alone = inner_work(Volume(graph, 1, 2))
    assert alone[0].max() == alone[1].max() == alone[2].max() == 0


def test_the_fit_finds_the_savings_that_made_the_parts_and_predicts_new_ones() -> None:
    rng = np.random.default_rng(0)
    work = np.stack([rng.integers(1, 9, 30), rng.uniform(0, 5, 30), rng.uniform(0, 5, 30)], axis=1)
    apart = rng.uniform(20, 40, 30)
    fusion = fit_fusion(work, apart, apart - work @ [0.3, 0.5, -0.2])
    assert fusion is not None
    found = fusion.share, fusion.ms_per_layer, fusion.ms_per_million_elements, fusion.ms_per_million_params
    assert found == pytest.approx((0.0, 0.3, 0.5, -0.2), abs=1e-4)
    assert fusion.error_p90 < 1e-3 < fusion.error_median_unfused
    assert float(fused(fusion, np.array([2.0, 1.0, 1.0]), np.array(10.0))) == pytest.approx(
        10 - 0.6 - 0.5 + 0.2, abs=1e-3
    )


def test_only_the_terms_that_help_are_used() -> None:
    rng = np.random.default_rng(1)
    work = np.stack([rng.integers(1, 9, 16), rng.uniform(0, 5, 16), rng.uniform(0, 5, 16)], axis=1)
    apart = rng.uniform(1, 40, 16)
    fusion = fit_fusion(work, apart, 0.9 * apart)
    assert fusion is not None
    assert fusion.share == pytest.approx(0.1, abs=1e-4)
    assert fusion.ms_per_layer == fusion.ms_per_million_elements == fusion.ms_per_million_params == 0


def test_a_fit_that_predicts_no_better_is_not_used() -> None:
    rng = np.random.default_rng(0)
    work = np.stack([rng.integers(1, 9, 12), rng.uniform(0, 5, 12), rng.uniform(0, 5, 12)], axis=1)
    assert fit_fusion(work, np.ones(12), np.ones(12)) is None
    assert fit_fusion(work[:3], np.ones(3), np.ones(3)) is None
    assert fit_fusion(0 * work, np.ones(12), np.full(12, 2.0)) is None, "single layers save nothing"


def test_measured_parts_are_met_and_their_neighbours_move_with_them(graph: LayerGraph) -> None:
    volume = Volume(graph, 0, 2)
    size = volume.height + 1
    predicted = np.maximum(np.arange(size)[None, :] - np.arange(size)[:, None], 0).astype(np.float64)

    def part(start: int, stop: int, ms: float) -> FusedTiming:
        return FusedTiming(
            volume=volume_signature(volume), title="", start=start, stop=stop, apart_ms=1.0, inner_work=(1, 1, 1),
            median_ms=ms, p10_ms=ms, p90_ms=ms, p99_ms=ms, cv=0.0, count=9,
        )  # fmt: skip

    moved = corrected([part(0, 2, 3.0), part(2, 6, 4.0)], predicted)
    assert moved[0, 2] == 3.0 and moved[2, 6] == 4.0
    assert moved[3, 5] == pytest.approx(3.0), "as high as the first: 1.5 times what was predicted"
    assert moved[0, 3] == pytest.approx(3 * 1.25), "between them"
    assert corrected([], predicted) is predicted


def test_volumes_are_told_apart_by_layers_heights_and_wiring() -> None:
    vgg = load_model("vgg16")
    signatures = {volume_signature(Volume(vgg, a, b)) for a in range(6) for b in range(a + 1, 8)}
    assert len(signatures) > 15
    same = [volume_signature(Volume(vgg, vgg.index[name], vgg.index[name] + 1)) for name in ("conv3_2", "conv3_3")]
    assert same[0] == same[1]
