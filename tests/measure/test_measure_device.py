"""Measuring a device: what is measured loads again, interruptions lose nothing, few points are enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distredge
from distredge.engine.onnxruntime import session
from distredge.engine.slicing import OnnxSource
from distredge.errors import InputError, ProfileError, UnknownNameError
from distredge.geometry.split import Volume
from distredge.measure.device import Campaign, measure_device
from distredge.measure.ort import OrtBench
from distredge.measure.points import head_point, layer_point, piece_of, random_parts
from distredge.measure.row_counts import Adaptive, Every
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.plan import Plan
from distredge.profiles.board import undivided_ms
from distredge.profiles.measured import Conditions, Timing, head_signature
from distredge.profiles.table import TableProfile
from distredge.scenario import load_scenario
from distredge.simulate.costs import VolumeCosts
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import chain, residual, save_model
from distredge.testing.virtual_bench import VirtualBench

QUICK = Campaign(row_counts=Every(4), seconds_per_point=0.002, parts=2)


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path))


def affine(title: str, rows: int) -> float:
    return 1.0 + 0.1 * rows


def virtual(latency: Callable[[str, int], float] = affine, noise: float = 0.0, **options: object) -> VirtualBench:
    return VirtualBench(latency, np.random.default_rng(0), noise, **options)  # type: ignore[arg-type]


def measured(
    graph: LayerGraph,
    out: Path,
    bench: VirtualBench | None = None,
    campaign: Campaign = QUICK,
    seed: int = 0,
    **options: object,
) -> TableProfile:
    rng = np.random.default_rng(seed)
    return measure_device(graph, bench or virtual(), name="here", out=out, rng=rng, campaign=campaign, **options)  # type: ignore[arg-type]


def test_onnx_runtime_is_measured_here_and_loads_again_with_equal_answers(graph: LayerGraph, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with OrtBench(rng) as bench:
        profile = measure_device(graph, bench, name="here", out=tmp_path / "out", rng=rng, campaign=QUICK)
    again = TableProfile.load(tmp_path / "out" / "here.json")
    assert undivided_ms(profile, graph) > 0
    for layer in graph.layers:
        rows = np.arange(layer.height + 1)
        assert profile.layer_ms(layer, rows).tolist() == again.layer_ms(layer, rows).tolist()
        assert {t.rows for t in again.file.layers[layer.signature]} == set(Every(4).wanted(layer.height, {}))
    assert profile.head_ms(graph) == again.head_ms(graph) > 0
    source = again.file.provenance
    assert source.complete
    assert source.models == {graph.sha256: "toy"}
    assert source.subject.backend == "ort" and source.subject.precision == "FP32"
    assert source.sentinel is not None and len(source.sentinel.medians_ms) >= 2
    assert len(source.conditions) == 2
    assert source.conditions[0].free_memory_mb and source.conditions[0].free_memory_mb > 10


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

    bench = virtual(lambda title, rows: 7.0)
    after = measured(graph, tmp_path, bench, seed=1).file
    points = {(s, t.rows): t for s, timings in after.layers.items() for t in timings}
    assert after.provenance.complete
    assert all(points[key] == timing for key, timing in kept.items())
    assert {t.median_ms for key, t in points.items() if key not in kept} == {7.0}
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
    again = virtual()
    assert measured(graph, tmp_path, again).file.layers == after.layers
    assert again.measured == [], "what is complete is not measured again"


def test_one_profile_serves_two_models(graph: LayerGraph, tmp_path: Path) -> None:
    measured(graph, tmp_path / "out")
    (tmp_path / "second").mkdir()
    other = load_model(save_model(residual(np.random.default_rng(1)), tmp_path / "second"))
    profile = measured(other, tmp_path / "out")
    assert undivided_ms(profile, graph) > 0
    assert undivided_ms(profile, other) > 0
    assert head_signature(graph.head) in profile.file.heads
    assert profile.cautions(graph) == profile.cautions(other) == []


def test_the_same_seed_measures_in_the_same_random_order_and_everything_twice(
    graph: LayerGraph, tmp_path: Path
) -> None:
    orders = []
    for i, seed in enumerate((7, 7, 8)):
        bench = virtual()
        measured(graph, tmp_path / str(i), bench, seed=seed, campaign=Campaign(row_counts=Every(4), parts=0))
        orders.append(bench.measured)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    sentinel = max(orders[0], key=orders[0].count)
    assert {orders[0].count(title) for title in orders[0] if title != sentinel} == {2}


def test_figures_of_another_set_up_are_not_mixed_in(graph: LayerGraph, tmp_path: Path) -> None:
    measured(graph, tmp_path)
    with pytest.raises(ProfileError, match="measured with host 'virtual', not 'other'"):
        measured(graph, tmp_path, virtual(host="other"))
    data = json.loads((tmp_path / "here.json").read_text())
    data["provenance"]["subject"]["precision"] = "FP16"
    (tmp_path / "here.json").write_text(json.dumps(data))
    with pytest.raises(ProfileError, match="measured with precision 'FP16', not 'FP32'"):
        measured(graph, tmp_path)


def test_bad_input_is_refused_before_anything_is_measured(graph: LayerGraph, tmp_path: Path) -> None:
    for wrong in (
        {"row_counts": Every(0)}, {"row_counts": Adaptive(0.0)}, {"row_counts": Adaptive(1.5)}, {"parts": -1},
        {"seconds_per_point": 0.0}, {"budget_s": -1.0},
    ):  # fmt: skip
        with pytest.raises(InputError):
            Campaign(**wrong)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="cannot name a profile"):
        measure_device(graph, virtual(), name="a/b", out=tmp_path, rng=rng)
    with pytest.raises(UnknownNameError, match="unknown layer 'conv9'"):
        measured(graph, tmp_path / "out", campaign=Campaign(layers=("conv9",)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write profiles to"):
        measured(graph, tmp_path / "file")
    assert not (tmp_path / "out" / "here.json").exists()


def test_some_layers_and_a_plan_are_refused_before_anything_is_measured(graph: LayerGraph) -> None:
    with pytest.raises(InputError, match="leave out --layers, or the plan"):
        Campaign(layers=("conv1",), plan=toy_plan(graph))


def test_a_noisy_device_is_met_within_the_bound_where_its_latency_is_a_bent_line(tmp_path: Path) -> None:
    vgg = load_model("vgg16")

    def bent(title: str, rows: int) -> float:
        return 2.0 + 0.1 * rows + 0.2 * max(rows - 100, 0)

    profile = measured(vgg, tmp_path, virtual(bent, noise=0.02), Campaign(layers=("conv1_2",)))
    rows = np.arange(1, 225)
    true = np.array([bent("", int(r)) for r in rows])
    predicted = profile.layer_ms(vgg.layers[vgg.index["conv1_2"]], rows)
    assert np.abs(predicted / true - 1).max() < 0.03
    assert len(profile.file.layers[vgg.layers[vgg.index["conv1_2"]].signature]) <= 0.15 * 224


def test_only_the_layers_that_were_asked_for_are_measured(graph: LayerGraph, tmp_path: Path) -> None:
    layer = graph.layers[1]
    file = measured(graph, tmp_path, campaign=Campaign(layers=(layer.name,))).file
    assert set(file.layers) == {layer.signature}
    assert not file.heads and not file.parts
    assert file.provenance.models == {}


def test_a_spent_budget_ends_refining_but_everything_is_measured_once(
    graph: LayerGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = iter(range(10**6))
    monkeypatch.setattr("distredge.measure.device.time.monotonic", lambda: float(next(moment)))
    wild = virtual(lambda title, rows: 1.0 + rows**2)
    profile = measured(graph, tmp_path, wild, campaign=Campaign(row_counts=Adaptive(0.01), parts=0, budget_s=1.0))
    assert undivided_ms(profile, graph) > 0
    assert profile.file.provenance.complete
    assert all(len(timings) <= 4 for timings in profile.file.layers.values())


# Which numbers of rows


def explored(height: int, curve: Callable[[int], float], max_error: float, spread: float = 0.0) -> dict[int, Timing]:
    def timing(rows: int) -> Timing:
        ms = curve(rows)
        return Timing(
            median_ms=ms,
            p10_ms=ms * (1 - spread),
            p90_ms=ms * (1 + spread),
            p99_ms=ms * (1 + spread),
            cv=spread,
            count=30,
        )

    timings: dict[int, Timing] = {}
    while wanted := Adaptive(max_error).wanted(height, timings):
        assert not set(wanted) & set(timings)
        timings.update((rows, timing(rows)) for rows in wanted)
    return timings


def worst_error(height: int, curve: Callable[[int], float], timings: dict[int, Timing]) -> float:
    rows = np.arange(1, height + 1)
    known = sorted(timings)
    predicted = np.interp(rows, known, [timings[r].median_ms for r in known])
    true = np.array([curve(int(r)) for r in rows])
    return float(np.abs(predicted / true - 1).max())


@given(st.integers(1, 500), st.floats(0.01, 10), st.floats(0.0, 10))
def test_a_straight_line_takes_nine_points_at_most(height: int, fixed: float, slope: float) -> None:
    timings = explored(height, lambda rows: fixed + slope * rows, 0.03)
    assert len(timings) <= 9
    assert {1, height} <= set(timings)


@given(height=st.integers(33, 500), bend=st.integers(2, 500), fixed=st.floats(0.5, 5), steep=st.floats(0.01, 0.2))
def test_a_bent_line_is_met_within_the_bound_by_few_points(height: int, bend: int, fixed: float, steep: float) -> None:
    def curve(rows: int) -> float:
        return fixed + 0.01 * rows + steep * max(rows - bend, 0)

    timings = explored(height, curve, 0.03)
    room = max(8, int(0.15 * height))
    assert len(timings) <= room
    if not Adaptive(0.03).untested(height, timings):
        assert worst_error(height, curve, timings) <= 0.03
    else:
        assert len(timings) == room


def test_steps_are_found_to_the_row() -> None:
    def stairs(rows: int) -> float:
        return 1.0 + 0.5 * ((rows - 1) // 80)

    timings = explored(224, stairs, 0.03)
    assert {80, 81, 160, 161} <= set(timings)
    assert worst_error(224, stairs, timings) <= 0.03
    assert len(timings) <= 0.15 * 224


def test_noise_does_not_ask_for_every_row() -> None:
    rng = np.random.default_rng(0)
    noisy = {rows: 1.0 + 0.1 * rows for rows in range(1, 225)}
    calm = explored(224, lambda rows: noisy[rows] * (1 + 0.02 * rng.standard_normal()), 0.03, spread=0.1)
    assert len(calm) <= 12


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_granularity_reaches_from_one_row_to_the_height(height: int, granularity: int) -> None:
    rows = Every(granularity).wanted(height, {})
    assert rows == sorted(set(rows))
    assert (rows[0], rows[-1]) == (1, height)
    assert max(np.diff(rows), default=0) <= granularity
    assert Every(1).wanted(height, {}) == list(range(1, height + 1))


# Split-parts


def test_a_plans_split_parts_are_measured_whole_and_the_simulator_uses_them(graph: LayerGraph, tmp_path: Path) -> None:
    plan = toy_plan(graph)
    fused = virtual(lambda title, rows: 0.1 * rows if ", rows " in title else 1.0)
    profile = measured(graph, tmp_path, fused, campaign=Campaign(row_counts=Every(1), parts=0, plan=plan))
    costs = VolumeCosts(graph, (profile,))
    bound = plan.bind(graph)
    seen = 0
    for v, volume in enumerate(bound.volumes):
        for i in range(len(plan.providers)):
            out = bound.owned(v, i)
            if out.size:
                seen += 1
                assert costs.table(volume)[0, out.start, out.stop] == pytest.approx(0.1 * out.size)
    assert seen == len(profile.file.parts) > 2
    other = Volume(graph, 0, 1)
    if not profile.measured_parts(other):
        assert costs.table(other)[0, 0, 2] == 1.0, "the sum of its layers"


def toy_plan(graph: LayerGraph) -> Plan:
    return distredge.plan(graph, load_scenario("na-nano"), method="equal", seed=0)


def test_what_fused_execution_saves_is_fitted_to_the_random_parts(tmp_path: Path) -> None:
    graph = load_model("vgg16")

    def latency(title: str, rows: int) -> float:
        if ", rows " not in title:
            return 1.0
        first, _, last = title.split(": ")[1].split(", rows")[0].partition(" .. ")
        layers = graph.index[last or first] - graph.index[first] + 1
        return 1.0 + 0.7 * (layers - 1)

    profile = measured(graph, tmp_path, virtual(latency), campaign=Campaign(row_counts=Every(50), parts=20))
    fusion = profile.file.fusion
    assert fusion is not None
    assert fusion.ms_per_layer == pytest.approx(0.3, abs=0.01)
    assert fusion.error_p90 < 0.01 < fusion.error_median_unfused


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_layer_part_and_head_can_be_timed_alone(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    graph = load_model(save_model(random_model(rng), tmp_path_factory.mktemp("model")))
    source = OnnxSource.of(graph)
    points = [layer_point(layer, int(rng.integers(1, layer.height + 1))) for layer in graph.layers]
    pieces = [piece_of(source, graph, point) for point in (*points, *random_parts(graph, 4, rng))]
    for piece, point in zip(pieces, points, strict=False):
        alone = session(piece.model.SerializeToString(), 1, piece.folder)
        feeds = {i.name: rng.random(i.shape, dtype=np.float32) for i in alone.get_inputs()}
        channels, _, width = point.layer.out_shape
        assert alone.run(None, feeds)[0].shape == (1, channels, point.rows, width)
    for piece in pieces:
        session(piece.whole().SerializeToString(), 1)
    if graph.head.nodes:
        piece_of(source, graph, head_point(head_signature(graph.head)))


def test_the_device_s_state_is_kept(graph: LayerGraph, tmp_path: Path) -> None:
    hot = Conditions(at="2026-01-01T00:00:00+00:00", throttled="under-voltage", power_mode="MAXN")
    measured(graph, tmp_path, virtual(conditions=hot))
    kept = TableProfile.load(tmp_path / "here.json").file.provenance.conditions
    assert kept == (hot, hot)
