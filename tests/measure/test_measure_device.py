"""Measuring this machine: what is measured loads again, interruptions lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.engine.onnxruntime import session
from distredge.engine.slicing import OnnxSource
from distredge.errors import InputError, ProfileError
from distredge.measure.device import measure_device, row_points
from distredge.measure.ort import layer_model
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.board import undivided_ms
from distredge.profiles.table import TableProfile, head_signature
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import chain, residual, save_model


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path))


def measured(graph: LayerGraph, out: Path, seed: int = 0, **options: object) -> TableProfile:
    settings = {"points": 3, "seconds_per_point": 0.001, **options}
    return measure_device(graph, name="here", out=out, rng=np.random.default_rng(seed), **settings)  # type: ignore[arg-type]


def test_what_was_measured_loads_again_with_equal_answers(graph: LayerGraph, tmp_path: Path) -> None:
    profile = measured(graph, tmp_path / "out")
    again = TableProfile.load(tmp_path / "out" / "here.json")
    assert undivided_ms(profile, graph) > 0
    for layer in graph.layers:
        rows = np.arange(layer.height + 1)
        assert profile.layer_ms(layer, rows).tolist() == again.layer_ms(layer, rows).tolist()
        assert set(row_points(layer.height, 3)) == {t.rows for t in again.file.layers[layer.signature]}
    assert profile.head_ms(graph) == again.head_ms(graph) > 0
    assert again.file.provenance.complete
    assert again.file.provenance.models == ("toy",)
    assert again.file.provenance.sentinel is not None


def test_an_interrupted_measurement_goes_on_where_it_stopped(graph: LayerGraph, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(graph, tmp_path, progress=interrupt)
    before = TableProfile.load(tmp_path / "here.json").file
    assert not before.provenance.complete
    kept = {(s, t.rows): t for s, timings in before.layers.items() for t in timings}
    assert len(kept) + len(before.heads) == 4

    totals = []
    after = measured(graph, tmp_path, seed=1, progress=lambda done, total, what: totals.append(total)).file
    points = {(s, t.rows): t for s, timings in after.layers.items() for t in timings}
    assert after.provenance.complete
    assert set(totals) == {len(points) + len(after.heads) - 4}
    assert all(points[key] == timing for key, timing in kept.items())
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]


def test_one_profile_serves_two_models(graph: LayerGraph, tmp_path: Path) -> None:
    measured(graph, tmp_path / "out")
    (tmp_path / "second").mkdir()
    other = load_model(save_model(residual(np.random.default_rng(1)), tmp_path / "second"))
    profile = measured(other, tmp_path / "out")
    assert undivided_ms(profile, graph) > 0
    assert undivided_ms(profile, other) > 0
    assert head_signature(graph.head) in profile.file.heads


def test_the_same_seed_measures_in_the_same_order(graph: LayerGraph, tmp_path: Path) -> None:
    orders: list[list[str]] = [[], [], []]
    for order, seed in zip(orders, (7, 7, 8), strict=True):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        measured(graph, out, seed, progress=lambda done, total, what, order=order: order.append(what))
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != orders[2]


def test_figures_of_another_set_up_are_not_mixed_in(graph: LayerGraph, tmp_path: Path) -> None:
    measured(graph, tmp_path)
    text = (tmp_path / "here.json").read_text()
    with pytest.raises(ProfileError, match="measured with threads '1', not '2'"):
        measured(graph, tmp_path, threads=2)
    data = json.loads(text)
    data["provenance"]["cpu"] = "another"
    (tmp_path / "here.json").write_text(json.dumps(data))
    with pytest.raises(ProfileError, match="measured with cpu 'another'"):
        measured(graph, tmp_path)


def test_bad_input_is_refused_before_anything_is_measured(graph: LayerGraph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="positive"):
        measured(graph, tmp_path / "out", budget_s=0.0)
    with pytest.raises(InputError, match="cannot name a profile"):
        measure_device(graph, name="a/b", out=tmp_path, rng=np.random.default_rng(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write profiles to"):
        measured(graph, tmp_path / "file")
    assert not (tmp_path / "out").exists()


@given(st.integers(1, 300), st.integers(2, 20))
def test_row_points_reach_from_one_to_the_height(height: int, points: int) -> None:
    rows = row_points(height, points)
    assert rows == sorted(set(rows))
    assert (rows[0], rows[-1]) == (1, height)
    assert len(rows) <= max(points, 1)
    assert row_points(height, height) == list(range(1, height + 1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_layer_can_be_timed_alone_at_any_number_of_rows(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    graph = load_model(save_model(random_model(rng), tmp_path_factory.mktemp("model")))
    source = OnnxSource(graph.path)
    for layer in graph.layers:
        rows = int(rng.integers(1, layer.height + 1))
        alone = session(layer_model(source, graph, layer, rows).SerializeToString(), 1, source.folder)
        feeds = {i.name: rng.random(i.shape, dtype=np.float32) for i in alone.get_inputs()}
        channels, _, width = layer.out_shape
        assert alone.run(None, feeds)[0].shape == (1, channels, rows, width)
        assert len({i.source for i in layer.inputs}) <= len(feeds) <= len(layer.inputs)
