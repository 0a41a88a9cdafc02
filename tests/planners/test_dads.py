"""DADS: the minimum cut is the best of all ancestor-closed sets, by hand and on random DAGs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.api import make_task
from distredge.model.graph import IMAGE, LayerGraph
from distredge.model.load import load_model
from distredge.planners.dads import Dads, Surgery, Tensor, minimum_cut, slowest_stage_cut, surgeries
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import ToyProfile, random_scenario, toy_scenario
from distredge.testing.toy_models import residual, save_model


def closed_sets(surgery: Surgery) -> list[frozenset[int]]:
    """All sets of nodes that hold the makers of whatever they read."""
    nodes = range(len(surgery.device))
    every = (frozenset(some) for k in range(len(nodes) + 1) for some in itertools.combinations(nodes, k))
    made = [(t.maker, set(t.readers)) for t in surgery.tensors if t.maker != IMAGE]
    return [kept for kept in every if all(maker in kept or not readers & kept for maker, readers in made)]


@st.composite
def dags(draw: st.DrawFn) -> Surgery:
    count = draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = []
    for maker in (IMAGE, *range(count - 1)):
        later = range(maker + 1, count)
        readers = tuple(i for i in later if rng.random() < 0.4) or (later[0],)
        tensors.append(Tensor(maker, readers, float(rng.uniform(0, 4))))
    device, server = rng.uniform(0, 3, count), rng.uniform(0, 2, count)
    return Surgery(tuple(device.tolist()), tuple(server.tolist()), tuple(tensors), float(rng.uniform(0, 2)))


@given(dags())
def test_the_minimum_cut_is_the_best_closed_set(surgery: Surgery) -> None:
    best = min(sum(surgery.stages(kept)) for kept in closed_sets(surgery))
    kept = minimum_cut(surgery)
    assert kept in closed_sets(surgery)
    assert sum(surgery.stages(kept)) == pytest.approx(best, abs=1e-4)
    assert surgery.least() <= best + 1e-9


@given(dags())
def test_heavy_load_is_within_three_times_the_best_slowest_stage(surgery: Surgery) -> None:
    best = min(max(surgery.stages(kept)) for kept in closed_sets(surgery))
    heavy, light = (max(surgery.stages(cut(surgery))) for cut in (slowest_stage_cut, minimum_cut))
    assert best - 1e-9 <= heavy <= 3.0 * best + 1e-4
    assert heavy <= light + 1e-9


def test_a_tensor_with_two_readers_is_paid_once() -> None:
    # 0 feeds 1 and 2, both feed 3. Device 1 each, but 5 for nodes 1 to 3; server 1 each. The input costs 9 to the
    # server, what node 0 makes 2. Nothing on the device: 9 + 4 = 13. Node 0 there: 1 + 2 + 3 = 6; were the tensor paid
    # for each reader, 8. Nodes 0 and 1: 1 + 5 + (2 + 2) + 2 = 12. All: 1 + 15 = 16.
    tensors = (Tensor(IMAGE, (0,), 9.0), Tensor(0, (1, 2), 2.0), Tensor(1, (3,), 2.0), Tensor(2, (3,), 2.0))
    surgery = Surgery((1.0, 5.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), tensors)
    assert minimum_cut(surgery) == {0}
    assert surgery.stages(frozenset({0})) == (1.0, 2.0, 3.0)


def test_the_server_never_gives_back() -> None:
    # Node 1 is far quicker on the server, 2 far quicker on the device, but 2 needs 1: to come back would cost nothing.
    tensors = (Tensor(IMAGE, (0,), 1.0), Tensor(0, (1,), 1.0), Tensor(1, (2,), 1.0))
    surgery = Surgery((1.0, 9.0, 1.0), (1.0, 1.0, 20.0), tensors)
    # All on the device: 11. Cut behind 0: 1 + 1 + 21 = 23; behind 1: 10 + 1 + 20 = 31; all on the server: 1 + 22 = 23.
    assert minimum_cut(surgery) == {0, 1, 2}


def test_the_image_goes_to_the_device_the_server_or_both() -> None:
    # Both branches read the image; 0 is quick on the device, 1 on the server: 1 + 1, and the image to both, 2 + 3.
    both = Surgery((1.0, 9.0), (9.0, 1.0), (Tensor(IMAGE, (0, 1), 3.0),), entry=2.0)
    assert minimum_cut(both) == {0}
    assert both.stages(frozenset({0})) == (1.0, 5.0, 1.0)
    # With an expensive way to the device all goes to the server: 3 + 10 against 1 + 1 + 3 + 9.
    assert minimum_cut(Surgery((1.0, 9.0), (9.0, 1.0), both.tensors, entry=9.0)) == frozenset()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("seed", range(4))
def test_heavy_load_makes_valid_plans(graph: LayerGraph, seed: int) -> None:
    task = make_task(graph, random_scenario(np.random.default_rng(seed), 3), 0, None, None)
    strategy = Dads("heavy").plan(task)
    simulator = Simulator(graph, strategy.scenario, strategy.scheme)
    assert simulator.evaluate(strategy.cuts[None])[0] == strategy.latency_ms


def test_the_best_pair_is_found_although_most_are_skipped() -> None:
    graph = load_model("inception_v3")
    rng = np.random.default_rng(1)
    toys = [ToyProfile(f"t{k}", float(rng.uniform(0, 2)), 0.0) for k in range(5)]
    scenario = toy_scenario(toys, [2.0, 300.0, 20.0, 4.0, 100.0])
    task = make_task(graph, scenario, 0, None, None)
    points = graph.cut_points
    costs = {(d, s): sum(x.stages(minimum_cut(x))) for d, s, x in surgeries(task, points)}
    assert len(costs) == 20
    strategy = Dads().plan(task)
    owners = {int(np.argmax(np.diff(cuts))) for cuts in strategy.cuts}
    best = min(costs, key=lambda pair: costs[pair])
    assert owners <= set(best)
    # The simulator overlaps parallel branches and rounds messages to quanta: near, not equal.
    assert strategy.latency_ms == pytest.approx(costs[best], rel=0.1)


def test_branches_may_be_shared_between_device_and_server() -> None:
    """Segments of parallel branches are nodes of their own, so that the DAG is more than a chain."""
    graph = load_model("inception_v3")
    scenario = random_scenario(np.random.default_rng(0), 2)
    _, _, surgery = next(surgeries(make_task(graph, scenario, 0, None, None), graph.cut_points))
    skips = [t for t in surgery.tensors if t.maker != IMAGE and t.maker + 1 not in t.readers]
    assert skips
    assert all(max(t.readers) < len(graph.cut_points) and min(t.readers) > t.maker for t in surgery.tensors)
