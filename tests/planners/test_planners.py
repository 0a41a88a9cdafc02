"""Every planner: valid plans, costed by the simulator, repeatable; and search near a known optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distredge.api import make_task, plan
from distredge.errors import UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import METHODS, planner
from distredge.planners.base import make_plan
from distredge.planners.moves import map_cuts, move_location, move_order, settled, twins
from distredge.planners.search import JointSearch
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.anneal import anneal
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import ToyProfile, random_cuts, random_scenario, toy_scenario
from distredge.testing.toy_models import residual, save_model

LEARNT = {"osds", "osds-paper"}  # tests of their own: test_osds_planner.py
QUICK = sorted(set(METHODS) - LEARNT - {"exact"})  # exact: two providers only, test_exact.py
REPEATABLE = sorted(set(QUICK) - {"search"})


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize("providers", [1, 2, 3])
def test_conformance(graph: LayerGraph, method: str, providers: int) -> None:
    scenario = random_scenario(np.random.default_rng(providers), providers)
    told: list[tuple[float, float]] = []
    task = make_task(
        graph, scenario, 0, 0.5 if method == "search" else None, lambda share, best: told.append((share, best))
    )
    strategy = planner(method).plan(task)
    made = make_plan(task, strategy, method, 0)
    simulator = Simulator(graph, strategy.scenario, strategy.scheme)
    assert simulator.evaluate(strategy.cuts[None])[0] == pytest.approx(strategy.latency_ms)
    assert made.predicted is not None
    assert made.predicted.latency_ms == pytest.approx(strategy.latency_ms)
    assert sorted(made.providers) == sorted(scenario.provider_names)
    assert told
    assert told[-1][0] == pytest.approx(1.0)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)


@pytest.mark.parametrize("method", REPEATABLE)
def test_same_seed_same_plan(graph: LayerGraph, method: str) -> None:
    scenario = random_scenario(np.random.default_rng(5), 3)
    assert (
        plan(graph, scenario, method, seed=1).model_dump_json()
        == plan(graph, scenario, method, seed=1).model_dump_json()
    )


def test_search_without_a_budget_is_repeatable_and_never_worse_than_the_yardsticks(graph: LayerGraph) -> None:
    scenario = random_scenario(np.random.default_rng(6), 2)
    first, again = (plan(graph, scenario, "search", seed=4) for _ in range(2))
    assert first.model_dump_json() == again.model_dump_json()
    assert first.predicted is not None
    for method in ("offload", "equal"):
        other = plan(graph, scenario, method).predicted
        assert other is not None
        assert first.predicted.latency_ms <= other.latency_ms + 1e-9


def optimum(graph: LayerGraph, scenario: Scenario, locations: tuple[int, ...]) -> float:
    """Least latency over all cuts of two providers."""
    simulator = Simulator(graph, scenario, PartitionScheme(graph, locations))
    every = itertools.product(*(range(h + 1) for h in simulator.heights))
    return min(
        simulator.evaluate([[[0, c, int(h)] for c, h in zip(choice, simulator.heights, strict=True)]])[0]
        for choice in every
    )


@pytest.mark.parametrize("seed", range(4))
def test_annealing_finds_the_optimum_of_two_providers(graph: LayerGraph, seed: int) -> None:
    scenario = random_scenario(np.random.default_rng(seed + 20), 2)
    locations = (0, graph.partition_points[len(graph.partition_points) // 2])
    best = optimum(graph, scenario, locations)
    simulator = Simulator(graph, scenario, PartitionScheme(graph, locations))
    rng = np.random.default_rng(seed)
    found = min(anneal(simulator, start, 20_000, rng)[1] for start in simulator.single_device_cuts())
    assert best - 1e-9 <= found <= 1.01 * best


def test_search_splits_where_it_pays_and_offloads_where_it_does_not(graph: LayerGraph) -> None:
    slow = [ToyProfile("a", 0.0, 1.0)] * 2
    quick_links = plan(graph, toy_scenario(slow, [1000.0, 1000.0]), "search", budget_s=1.0)
    slow_links = plan(graph, toy_scenario(slow, [0.05, 0.05]), "search", budget_s=1.0)
    assert any(0 < v.cuts[1] < v.cuts[2] for v in quick_links.volumes)
    alone = plan(graph, toy_scenario(slow, [0.05, 0.05]), "offload")
    assert slow_links.predicted is not None
    assert alone.predicted is not None
    assert slow_links.predicted.latency_ms <= alone.predicted.latency_ms + 1e-9


def test_map_cuts_keeps_proportions() -> None:
    graph = load_model("vgg16")
    cuts = np.array([[0, 28, 56], [0, 7, 7]])
    mapped = map_cuts(graph, (0, 6), cuts, (0, 3, 6, 10))
    heights = [graph.layers[e - 1].height for e in (3, 6, 10, 18)]
    assert mapped.tolist() == [
        [0, heights[0] // 2, heights[0]],
        [0, heights[1] // 2, heights[1]],
        [0, 28, 28],
        [0, 7, 7],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_moves_make_valid_strategies_and_twins_make_no_difference(graph: LayerGraph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [ToyProfile("quick", 0.1, 0.5), ToyProfile("slow", 0.1, 2.0)]
    scenario = toy_scenario([kinds[0], kinds[1], kinds[0], kinds[1], kinds[0]], [50.0, 50.0, 50.0, 20.0, 50.0])
    locations, order = (0,), (0, 1, 2, 3, 4)
    cuts = random_cuts(rng, np.array([graph.layers[-1].height]), 5, 1)[0]
    same = twins(Simulator(graph, scenario, PartitionScheme(graph, locations)))
    assert len(set(same)) == 3 and same[0] == same[2] == same[4]
    for _ in range(10):
        moved = move_location(graph, locations, rng)
        cuts, locations = map_cuts(graph, locations, cuts, moved), moved
        order, cuts = move_order(order, cuts, same, rng)
        scheme = PartitionScheme(graph, locations)
        latency = Simulator(graph, scenario.reordered(order), scheme).evaluate(cuts[None])[0]
        settled_order = settled(order, same)
        assert sorted(settled_order) == [0, 1, 2, 3, 4]
        again = Simulator(graph, scenario.reordered(settled_order), scheme).evaluate(cuts[None])[0]
        assert again == pytest.approx(latency, rel=1e-12)


def test_search_finds_the_same_on_any_number_of_threads(graph: LayerGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.planners.search.ROUNDS", 5)
    scenario = random_scenario(np.random.default_rng(8), 4)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("distredge.planners.search.config.NUMBA_NUM_THREADS", threads)
        found.append(plan(graph, scenario, "search", seed=2).model_dump_json())
    assert found[0] == found[1]


def test_the_screen_takes_up_plans_from_elsewhere(graph: LayerGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = random_scenario(np.random.default_rng(9), 3)
    known = planner("search").plan(make_task(graph, scenario, 0, None, None))
    place = tuple(scenario.provider_names.index(name) for name in known.scenario.provider_names)
    monkeypatch.setattr("distredge.planners.search.starting_plans", lambda simulator: known.cuts[None])
    search = JointSearch(make_task(graph, scenario, 1, None, None))
    search.screen([known.scheme.locations], [place])
    assert search.pool[0].score <= known.latency_ms


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'offload'"):
        planner("ofload")
    assert set(METHODS) >= {
        "osds", "osds-paper", "search", "exact", "coedge", "modnn", "mednn", "deepthings", "deeperthings", "aofl",
        "offload", "neurosurgeon", "dads", "scission",
    }  # fmt: skip
