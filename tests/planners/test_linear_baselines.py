"""MoDNN, MeDNN, CoEdge, DeepThings, DeeperThings, AOFL: cuts worked out by hand, optima by brute force, any model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from distredge.api import make_task, plan
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.model.load import load_model
from distredge.planners import planner
from distredge.planners.aofl import Fused, equal_times, search
from distredge.planners.base import Strategy, Task, make_plan
from distredge.planners.coedge import halo_rows, optimum, predicted_ms, solve, workload
from distredge.planners.deeperthings import pair_starts
from distredge.planners.deepthings import fused_end
from distredge.planners.linear import LinearModels, fit, layer_by_layer, linear_models, operations
from distredge.profiles.profile import Profile
from distredge.scenario import Scenario
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import ToyProfile, random_scenario, toy_scenario
from distredge.testing.toy_models import ToyModel, save_model
from distredge.testing.toy_models import chain as chain_model
from distredge.testing.toy_models import residual as residual_model

LINEAR = ["modnn", "mednn", "coedge", "aofl"]
METHODS = [*LINEAR, "deepthings", "deeperthings"]
FAST = 1_000_000.0
"""Mbit/s at which transfers hardly count."""


class Line(Profile):
    """A device that is as the linear methods believe: `a * F + b` ms for `F` operations of a layer."""

    kind: Literal["measured", "calibrated"] = "calibrated"

    def __init__(self, name: str, operation_ms: float, layer_ms: float = 0.0) -> None:
        self.name, self.operation_ms, self.base_ms = name, operation_ms, layer_ms

    def layer_ms(self, layer: Layer, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        work = operations(layer) / layer.height * np.asarray(rows)
        return np.where(np.asarray(rows) > 0, self.operation_ms * work + self.base_ms, 0.0)

    def head_ms(self, graph: LayerGraph) -> float:
        return 0.0

    def provenance(self) -> dict[str, object]:
        return {"source": "invented for tests"}


class Staircase(Line):
    """A device whose latencies stray from its line, in such a way that the line remains the best fit."""

    def __init__(self, line: Line, graph: LayerGraph, rng: np.random.Generator) -> None:
        super().__init__(f"{line.name}-stairs", line.operation_ms, line.base_ms)
        counts = [np.arange(1, layer.height + 1) for layer in graph.layers]
        work = np.concatenate([operations(k) / k.height * n for k, n in zip(graph.layers, counts, strict=True)])
        seen = np.stack([work / work.max(), np.ones_like(work)], axis=1)
        stray = rng.uniform(-1.0, 1.0, len(work))
        stray -= seen @ np.linalg.lstsq(seen, stray, rcond=None)[0]
        stray *= 0.9 * line.base_ms / np.abs(stray).max()  # never below 0
        ends = np.cumsum([layer.height for layer in graph.layers])[:-1]
        self.strays = dict(zip((layer.name for layer in graph.layers), np.split(stray, ends), strict=True))

    def layer_ms(self, layer: Layer, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        counts = np.asarray(rows)
        stray = self.strays[layer.name][np.maximum(counts - 1, 0)]
        return np.where(counts > 0, super().layer_ms(layer, counts) + stray, 0.0)


def three_layers(rng: np.random.Generator) -> Any:
    """12 rows of 2 x 5; `conv1` 2 -> 4 and `conv2` 4 -> 4 keep them, `conv3` 4 -> 16 of stride 2 makes 6 of 16 x 3.

    Operations a row 2 * 9 * 4 * 5 = 360, 4 * 9 * 4 * 5 = 720, 4 * 9 * 16 * 3 = 1728. Two bytes an element: a row of the
    image has 20, of conv1 and conv2 40, of conv3 96. Weights with biases 76, 148, 592; maps, in and out, 360, 480, 528.
    """
    toy = ToyModel(rng, 2, 12, 5)
    x = toy.conv(toy.image, 4, pads=(1, 1, 1, 1), name="conv1")
    x = toy.conv(x, 4, pads=(1, 1, 1, 1), name="conv2")
    return toy.finish(toy.conv(x, 16, stride=2, pads=(1, 1, 1, 1), name="conv3"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(three_layers(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    model = residual_model(np.random.default_rng(0), height=32)
    return load_model(save_model(model, tmp_path_factory.mktemp("residual")))


def scenario_of(profiles: list[Any], mbps: list[float], requester_mbps: float | None = None) -> Scenario:
    return toy_scenario(profiles, mbps, requester_mbps)


def task_of(graph: LayerGraph, scenario: Scenario) -> Task:
    return make_task(graph, scenario, 0, None, None)


def planned(graph: LayerGraph, scenario: Scenario, method: str) -> tuple[tuple[int, ...], list[list[int]]]:
    """Partition locations and cuts."""
    strategy = planner(method).plan(task_of(graph, scenario))
    return strategy.scheme.locations, strategy.cuts.tolist()


def test_the_toy_model_is_as_the_goldens_say(graph: LayerGraph) -> None:
    assert graph.partition_points == (0, 1, 2)
    assert [layer.height for layer in graph.layers] == [12, 12, 6]
    assert [operations(layer) / layer.height for layer in graph.layers] == [360, 720, 1728]
    assert [layer.params for layer in graph.layers] == [76, 148, 592]
    assert [graph.row_elements(i) for i in (-1, 0, 1, 2)] == [10, 20, 20, 48]


# Goldens. Time a row 0.1, 0.21 and 0.32 ms whatever the layer: no lines in F, but the fits are in these proportions,
# since a least-squares slope is linear in the latencies.

STEADY = [ToyProfile("a", 0.0, 0.1), ToyProfile("b", 0.0, 0.21), ToyProfile("c", 0.0, 0.32)]


def test_modnn_golden(graph: LayerGraph) -> None:
    # c = 10, 4.762, 3.125 of 17.887: edges at 0.5591 and 0.8253; of 12 rows 6.71 and 9.90, of 6 rows 3.35 and 4.95.
    golden = ((0, 1, 2), [[0, 7, 10, 12], [0, 7, 10, 12], [0, 3, 5, 6]])
    assert planned(graph, scenario_of(STEADY, [50.0] * 3), "modnn") == golden
    # It has no model of the network.
    assert planned(graph, scenario_of(STEADY, [1.0, 300.0, 300.0]), "modnn") == golden


def test_mednn_golden(graph: LayerGraph) -> None:
    # In units of the first one's row, providers are done with their 1st, 2nd, ... row at 1, 2, .., at 2.1, 4.2, ..,
    # and at 3.2, 6.4, ..: the first 12 are 1 to 7, 2.1, 4.2, 6.3, and 3.2, 6.4; the first 6 are 1 to 4, 2.1, and 3.2.
    golden = ((0, 1, 2), [[0, 7, 10, 12], [0, 7, 10, 12], [0, 4, 5, 6]])
    assert planned(graph, scenario_of(STEADY, [50.0] * 3), "mednn") == golden


def test_mednn_golden_with_little_memory(graph: LayerGraph) -> None:
    # 76 + 148 + 592 = 816 weights and 200 elements more, of 4 bytes. A row of conv1 takes (120 + 240) / 12 = 30
    # elements, of conv2 40, of conv3 (240 + 288) / 6 = 88: the first provider may have 6, 5 and 2. The others, at 2.1,
    # 4.2, 6.3, 8.4 and at 3.2, 6.4, 9.6, share the 6, 7 and 4 rows that are left as 4 + 2, 4 + 3 and 3 + 1.
    plain = scenario_of(STEADY, [50.0] * 3)
    small = plain.providers[0].model_copy(update={"memory_mb": (816 + 200) * 4 / 1e6})
    scenario = plain.model_copy(update={"providers": (small, *plain.providers[1:])})
    scenario.__dict__["profiles"] = plain.profiles
    golden = ((0, 1, 2), [[0, 6, 10, 12], [0, 5, 9, 12], [0, 2, 5, 6]])
    assert planned(graph, scenario, "mednn") == golden


def test_coedge_golden_of_compute(graph: LayerGraph) -> None:
    # Fast links: the slowest decides every layer, a_i * x_i are equal: 2/3 and 1/3. Halos are one row of 12.
    pair = [Line("a", 1e-3), Line("b", 2e-3)]
    golden = ((0, 1, 2), [[0, 8, 12], [0, 8, 12], [0, 4, 6]])
    assert planned(graph, scenario_of(pair, [FAST] * 2), "coedge") == golden


def test_coedge_golden_of_the_threshold(graph: LayerGraph) -> None:
    # A third one 40 times slower would have 1 / (1 + 20 + 40) = 0.016 < 1/12 of the rows: it gets none, the rest is
    # as before.
    three = [Line("a", 1e-3), Line("slow", 40e-3), Line("b", 2e-3)]
    golden = ((0, 1, 2), [[0, 8, 8, 12], [0, 8, 8, 12], [0, 4, 4, 6]])
    assert planned(graph, scenario_of(three, [FAST] * 3), "coedge") == golden


def test_coedge_golden_of_links(graph: LayerGraph) -> None:
    # Compute is free, the first link 4 times as fast. With m ms a byte of the first and a share x of it:
    # image  max( (240 x + 20) m, (240 (1 - x) + 20) 4 m ), equal at x = 0.85; output  max( 576 x m, 576 (1 - x) 4 m ),
    # equal at x = 0.8. Between the two the sum falls with x (by 960 - 576), beyond 0.85 it rises: x = 0.85, which is
    # 10.2 of 12 rows and 5.1 of 6.
    pair = [Line("a", 1e-12), Line("b", 1e-12)]
    golden = ((0, 1, 2), [[0, 10, 12], [0, 10, 12], [0, 5, 6]])
    assert planned(graph, scenario_of(pair, [40.0, 10.0]), "coedge") == golden


def test_deepthings_golden(graph: LayerGraph) -> None:
    # conv3 is the first with more weights (592) than maps (528). Two layers in 12 / 3 rows each; the rest on the
    # provider that is fastest.
    devices = [ToyProfile("a", 0.0, 0.3), ToyProfile("b", 0.0, 0.1), ToyProfile("c", 0.0, 0.2)]
    golden = ((0, 2), [[0, 4, 8, 12], [0, 0, 6, 6]])
    assert planned(graph, scenario_of(devices, [50.0] * 3), "deepthings") == golden


def test_deeperthings_golden(graph: LayerGraph) -> None:
    # DeepThings' volume, then the only block that is left, in 6 / 3 rows each.
    golden = ((0, 2), [[0, 4, 8, 12], [0, 2, 4, 6]])
    assert planned(graph, scenario_of(STEADY, [50.0] * 3), "deeperthings") == golden


def test_tiles_of_rows_that_do_not_come_out_even(graph: LayerGraph) -> None:
    # The original gives each of 5 tiles ceil(12 / 5) = 3 rows, which leaves none for the last one.
    devices = [ToyProfile("a", 0.0, 0.1)] * 5
    assert planned(graph, scenario_of(devices, [50.0] * 5), "deeperthings")[1] == [
        [0, 2, 5, 7, 10, 12],
        [0, 1, 2, 4, 5, 6],
    ]


def test_aofl_golden_of_fast_links(graph: LayerGraph) -> None:
    # Transfers are free, so that only operations count: layer by layer nobody computes a halo, 2/3 and 1/3 of every
    # layer, 2/3 * 23328 operations of the first one. Fusing would add a halo. The third device would take 1000 ms a
    # layer: it is the last in the ranking, and with it `t_f` is the same.
    three = [Line("a", 1e-3), Line("slow", 40e-3, 1000.0), Line("b", 2e-3)]
    scenario = scenario_of(three, [FAST] * 3)
    golden = ((0, 1, 2), [[0, 8, 8, 12], [0, 8, 8, 12], [0, 4, 4, 6]])
    assert planned(graph, scenario, "aofl") == golden
    assert search(task_of(graph, scenario))[0].time_ms == pytest.approx(2 / 3 * 23.328, rel=1e-3)


def test_aofl_golden_of_slow_links(graph: LayerGraph) -> None:
    # Compute is free: what is not moved counts, so that all is one volume. Two equal links: 3 rows each. The second
    # part's rows [3, 6) need [5, 12) of conv2, [4, 12) of conv1, [3, 12) of the image: 9 * 20 bytes in, 3 * 96 out.
    scenario = scenario_of([Line("a", 1e-12), Line("b", 1e-12)], [10.0, 10.0])
    assert planned(graph, scenario, "aofl") == ((0,), [[0, 3, 6]])
    byte_ms = 8 * 1.0456 / 0.98 / 10_000
    assert search(task_of(graph, scenario))[0].time_ms == pytest.approx((9 * 20 + 3 * 96) * byte_ms, rel=1e-6)


def test_aofl_golden_of_one_device(graph: LayerGraph) -> None:
    # The second link is so slow that whatever crosses it takes longer than all of the first one's work: 23.3 ms and
    # (240 + 576) bytes at 10 Mbit/s, 0.7 ms; the least that crosses the second, for a row of conv3, are 3 rows of the
    # image or more and 96 bytes: 156 bytes at 0.001 Mbit/s, 1.3 s.
    scenario = scenario_of([Line("a", 1e-3), Line("b", 1e-3)], [10.0, 0.001])
    assert planned(graph, scenario, "aofl") == ((0,), [[0, 6, 6]])


def test_aofl_ranks_by_clock_then_by_bandwidth(graph: LayerGraph) -> None:
    lines = [Line("slow", 2e-3), Line("far", 1e-3), Line("near", 1e-3)]
    task = task_of(graph, scenario_of(list(lines), [100.0, 10.0, 50.0]))
    rows = np.diff(Fused(graph, 1, linear_models(task), 2).cuts(0), axis=1)
    assert [np.flatnonzero(r).tolist() for r in rows] == [[2], [1, 2], [0, 1, 2]]


# What linear methods see.


def test_fit_finds_a_line(graph: LayerGraph) -> None:
    assert fit(Line("a", 3e-6, 0.4), graph) == pytest.approx((3e-6, 0.4))


@pytest.mark.parametrize("overhead, row_ms", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.1)])
def test_a_fit_is_never_negative(graph: LayerGraph, overhead: float, row_ms: float) -> None:
    slope, base = fit(ToyProfile("odd", overhead, row_ms), graph)
    assert slope > 0.0
    assert base >= 0.0


def test_a_limited_requester_limits_its_links_to_all(graph: LayerGraph) -> None:
    models = linear_models(task_of(graph, scenario_of(STEADY, [10.0, 50.0, 300.0], 50.0)))
    assert models.source_byte_ms == pytest.approx(models.byte_ms[1] * np.array([5.0, 1.0, 1.0]))
    assert models.byte_ms == pytest.approx(models.byte_ms[1] * np.array([5.0, 1.0, 1 / 6]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_the_staircase_is_not_seen(residual: LayerGraph, method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = [Line(f"d{i}", 10.0 ** rng.uniform(-6, -5), rng.uniform(0.01, 0.05)) for i in range(3)]
    stairs = [Staircase(line, residual, rng) for line in lines]
    mbps = [float(rate) for rate in rng.uniform(5.0, 100.0, 3)]
    straight, stepped = (
        planner(method).plan(task_of(residual, scenario_of(list(devices), mbps))) for devices in (lines, stairs)
    )
    assert straight.scheme == stepped.scheme
    assert straight.cuts.tolist() == stepped.cuts.tolist()
    assert abs(straight.latency_ms - stepped.latency_ms) > 1e-3  # the simulator does see it


# Properties.


def conforms(graph: LayerGraph, scenario: Scenario, method: str) -> Strategy:
    told: list[tuple[float, float]] = []
    task = make_task(graph, scenario, 0, None, lambda share, best: told.append((share, best)))
    strategy = planner(method).plan(task)
    made = make_plan(task, strategy, method, 0)
    assert made.predicted is not None
    assert made.predicted.latency_ms == pytest.approx(strategy.latency_ms)
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1] == (1.0, strategy.latency_ms)
    assert np.isfinite(told).all()
    return strategy


@pytest.mark.parametrize("seed", range(16))
def test_any_model_and_any_number_of_providers(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    graph = load_model(save_model(random_model(rng), tmp_path))
    scenario = random_scenario(rng, 1 + seed % 5)
    for method in METHODS:
        strategy = conforms(graph, scenario, method)
        again = planner(method).plan(task_of(graph, scenario))
        assert (strategy.scheme.locations, strategy.cuts.tolist()) == (again.scheme.locations, again.cuts.tolist())


@pytest.mark.parametrize("method", METHODS)
def test_sixteen_providers_and_maps_of_one_row(method: str, tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(0), 2, 9, 9)
    x = toy.image
    for n in range(4):
        x = toy.conv(x, 4, stride=2 if n else 1, pads=(1, 1, 1, 1))  # 9, 5, 3, 2 rows
    graph = load_model(save_model(toy.finish(toy.conv(x, 4, kernel=(2, 2))), tmp_path))
    assert graph.layers[-1].height == 1
    conforms(graph, random_scenario(np.random.default_rng(1), 16), method)


@pytest.mark.parametrize("method", METHODS)
def test_a_provider_alone_gets_everything(residual: LayerGraph, method: str) -> None:
    strategy = conforms(residual, random_scenario(np.random.default_rng(2), 1), method)
    assert strategy.cuts[:, 0].tolist() == [0] * len(strategy.cuts)


@pytest.mark.parametrize("method", METHODS)
def test_vgg16_on_sixteen(method: str) -> None:
    conforms(load_model("vgg16"), random_scenario(np.random.default_rng(3), 16), method)


@pytest.mark.parametrize("method", ["modnn", "mednn"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_proportional_to_capability(residual: LayerGraph, method: str, seed: int) -> None:
    task = task_of(residual, random_scenario(np.random.default_rng(seed), 4))
    capability = linear_models(task).capability
    cuts = planner(method).plan(task).cuts
    exact = capability / capability.sum() * cuts[:, -1:]
    assert np.abs(np.diff(cuts, axis=1) - exact).max() < (1.0 + 1e-9 if method == "modnn" else 4.0)


def test_mednn_leaves_the_least_longest_time(residual: LayerGraph) -> None:
    rng = np.random.default_rng(7)
    for _ in range(5):
        task = task_of(residual, random_scenario(rng, 3))
        capability = linear_models(task).capability
        rows = np.diff(planner("mednn").plan(task).cuts[-1])
        height = int(rows.sum())
        every = [(a, b, height - a - b) for a in range(height + 1) for b in range(height + 1 - a)]
        least = min((np.array(counts) / capability).max() for counts in every)
        assert (rows / capability).max() == pytest.approx(least)


def test_layer_by_layer_keeps_residual_blocks_whole(residual: LayerGraph) -> None:
    scheme = layer_by_layer(residual)
    assert scheme.locations == residual.partition_points
    assert len(scheme.volumes) < len(residual.layers)


def test_vgg16_is_fused_to_the_third_pooling_and_then_in_pairs() -> None:
    graph = load_model("vgg16")
    names = [layer.name for layer in graph.layers]
    assert fused_end(graph) == names.index("conv4_1")
    assert [names[i] for i in pair_starts(graph)] == ["conv4_1", "conv4_3", "conv5_2"]


# Optima by brute force.


def random_lines(rng: np.random.Generator, count: int) -> Scenario:
    lines = [Line(f"d{i}", 10.0 ** rng.uniform(-6, -4), 10.0 ** rng.uniform(-3, -1)) for i in range(count)]
    return scenario_of(list(lines), [float(10.0 ** rng.uniform(0, 2)) for _ in lines])


@pytest.mark.parametrize("seed", range(6))
def test_coedge_no_integer_ratio_beats_the_lp(graph: LayerGraph, seed: int) -> None:
    task = task_of(graph, random_lines(np.random.default_rng(seed), 3))
    load, models = workload(task, layer_by_layer(graph).parts), linear_models(task)
    best = predicted_ms(load, models, optimum(load, models, [0, 1, 2]))
    steps = 48
    every = [
        np.array([a, b, steps - a - b]) / steps for a in range(1, steps - 1) for b in range(1, steps - a)
    ]  # all three take part
    least = min(predicted_ms(load, models, shares) for shares in every)
    assert best <= least + 1e-9
    if optimum(load, models, [0, 1, 2]).min() > 1 / steps:
        assert least <= 1.05 * best


@pytest.mark.parametrize("seed", range(6))
def test_coedge_shares_are_none_or_enough(graph: LayerGraph, seed: int) -> None:
    task = task_of(graph, random_lines(np.random.default_rng(seed), 5))
    load = workload(task, layer_by_layer(graph).parts)
    shares = solve(load, linear_models(task))
    assert load.threshold == pytest.approx(1 / 12)
    assert shares.sum() == pytest.approx(1.0)
    assert all(share == 0.0 or share >= load.threshold - 1e-9 for share in shares)


def test_halo_rows(graph: LayerGraph) -> None:
    assert [halo_rows(Volume(graph, i, i + 1)) for i in range(3)] == [1, 1, 1]
    assert halo_rows(Volume(graph, 0, 3)) == 3  # row 3 on needs row 5 on of conv2, 4 on of conv1, 3 on of the image


def fused_ms(task: Task, models: LinearModels, volume: Volume, cuts: list[int]) -> float:
    """`t_f`, from the parts' geometry."""
    graph, unit, times = task.graph, task.scenario.element_bytes, [0.0]
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        if a < b:
            part = volume.part(Interval(a, b))
            work = sum(operations(k) / k.height * rows.size for k, rows in zip(volume.layers, part.rows, strict=True))
            moved = part.inputs[-1].size * graph.row_elements(volume.start - 1)
            moved += (b - a) * graph.row_elements(volume.stop - 1)
            compute = models.operation_ms[i] * work + models.layer_ms[i] * len(volume.layers)
            times.append(compute + models.source_byte_ms[i] * moved * unit)
    return max(times)


@pytest.mark.parametrize("toy", [chain_model, residual_model])
@pytest.mark.parametrize("seed", range(4))
def test_aofl_finds_the_best_of_all_partitions_and_prefixes(
    toy: Callable[[np.random.Generator], Any], seed: int, tmp_path: Path
) -> None:
    graph = load_model(save_model(toy(np.random.default_rng(0)), tmp_path))
    task = task_of(graph, random_lines(np.random.default_rng(seed), 3))
    models, points = linear_models(task), (*graph.partition_points, len(graph.layers))
    blocks = len(points) - 1
    best: dict[tuple[int, int], float] = {}
    for i, j in itertools.combinations(range(blocks + 1), 2):
        fused = Fused(graph, points[j], models, task.scenario.element_bytes)
        volume = Volume(graph, points[i], points[j])
        best[i, j] = min(fused_ms(task, models, volume, cuts) for cuts in fused.cuts(points[i]).tolist())
    totals = []
    for inner in itertools.product([False, True], repeat=blocks - 1):
        ends = [0, *(n + 1 for n, cut in enumerate(inner) if cut), blocks]
        totals.append(sum(best[i, j] for i, j in itertools.pairwise(ends)))
    assert search(task)[0].time_ms == pytest.approx(min(totals))
    strategy = planner("aofl").plan(task)
    chosen = [
        fused_ms(task, models, volume, cuts)
        for volume, cuts in zip(strategy.scheme.parts, strategy.cuts.tolist(), strict=True)
    ]
    assert sum(chosen) == pytest.approx(min(totals))


def test_equal_times_are_equal() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        whole, fixed = rng.uniform(0.1, 10.0, 5), rng.uniform(0.0, 3.0, 5)
        shares = equal_times(whole, fixed)
        times = shares * whole + fixed
        together = times[shares > 0]
        assert shares.sum() == pytest.approx(1.0)
        assert together == pytest.approx(together[0])
        assert (fixed[shares == 0] >= together[0] - 1e-9).all()


def test_plans_are_files_that_can_be_made(graph: LayerGraph) -> None:
    for method in METHODS:
        made = plan(graph, scenario_of(STEADY, [50.0] * 3), method)
        assert made.method == method
