"""The survey's formulas, and the score that compiled code gives a split decision."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners.base import Strategy, Task, draft, simulator_for
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Draw, Scenario
from distredge.simulate.anneal import anneal
from distredge.simulate.costs import BARRED_MS, VolumeCosts
from distredge.simulate.goals import GOALS, Goals
from distredge.simulate.memory import memory_mb
from distredge.simulate.quality import (
    KWH_J,
    Quality,
    compute_s,
    over_time,
    quality,
    queue_s,
    reliability,
    transfer_s,
)
from distredge.simulate.simulator import Simulator
from distredge.simulate.timeline import trace
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import random_cuts, random_scenario
from distredge.testing.toy_models import chain, save_model


def test_the_survey_s_worked_example() -> None:
    """MobileNetV2 between a smartphone and an edge server (survey of 2026, section 2.3)."""
    phone_s, server_s = compute_s(120e6, 50e9), compute_s(180e6, 500e9)
    uplink_s, queue = transfer_s(2.5e6, 20.0), queue_s(5.0, 10.0)
    assert (phone_s, server_s, uplink_s, queue) == pytest.approx((2.4e-3, 0.36e-3, 1.0, 0.2))
    assert phone_s + server_s + uplink_s + queue == pytest.approx(1.203, abs=5e-4)
    assert over_time([(2.0, phone_s)]) == pytest.approx(4.8e-3)
    assert over_time([(2.0, phone_s)]) + over_time([(1.5, uplink_s)]) == pytest.approx(1.5048)
    second_of_a_watt = 0.1 / KWH_J
    computed, sent = over_time([(2.0 * second_of_a_watt, phone_s)]), over_time([(1.5 * second_of_a_watt, uplink_s)])
    assert (computed, sent) == pytest.approx((1.33e-10, 4.17e-8), rel=5e-3)
    assert computed + sent == pytest.approx(4.18e-8, rel=1e-3)


def test_a_queue_that_only_grows_and_what_fails_independently() -> None:
    assert queue_s(10.0, 10.0) == math.inf
    assert reliability([]) == 1.0
    assert reliability([0.1, 0.2, 0.0]) == pytest.approx(0.72)


def priced(scenario: Scenario, rng: np.random.Generator, memory_mb: float | None = None) -> Scenario:
    """The scenario with every figure that a goal needs."""
    providers = tuple(
        p.model_copy(
            update={
                "power": Draw(active_w=rng.uniform(2, 20), idle_w=rng.uniform(0, 2), radio_w=rng.uniform(0.5, 3)),
                "price_per_hour": rng.uniform(0.1, 2),
                "link_price_per_hour": rng.uniform(0, 1),
                "failure_probability": rng.uniform(0, 0.05),
                "link_failure_probability": rng.uniform(0, 0.05),
                "memory_mb": memory_mb,
            }
        )
        for p in scenario.providers
    )
    other = scenario.model_copy(update={"providers": providers})
    other.__dict__["profiles"] = scenario.profiles
    return other


def task_of(graph: LayerGraph, scenario: Scenario, goals: Goals, seed: int = 0) -> Task:
    scenario = goals.scenario(graph, scenario)
    return Task(graph, scenario, np.random.default_rng(seed), VolumeCosts(graph, scenario.profiles), goals=goals)


def quality_of(task: Task, scheme: PartitionScheme, cuts: np.ndarray) -> Quality:
    bound = draft(Strategy(scheme, task.scenario, cuts, 0.0), task.scenario, "test", 0).bind(task.graph)
    return quality(bound, trace(bound, task.scenario, task.costs), task.scenario)


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path))


@pytest.mark.parametrize("seed", range(8))
def test_a_score_is_the_weighted_sum_of_what_the_timeline_says(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = load_model(save_model(random_model(rng), tmp_path))
    points = graph.cut_points
    scheme = PartitionScheme(graph, (0, *(p for p in points[1:] if rng.random() < 0.4)))
    goals = Goals({name: float(rng.uniform(0.1, 3)) * 10.0 ** rng.integers(0, 4) for name in GOALS})
    task = task_of(graph, priced(random_scenario(rng, int(rng.integers(1, 5))), rng), goals)
    simulator = simulator_for(task, scheme)
    batch = random_cuts(rng, simulator.heights, simulator.providers, 12)
    for cuts, score in zip(batch, simulator.score(batch), strict=True):
        q = quality_of(task, scheme, cuts)
        assert q.energy_j is not None and q.cost is not None and q.reliability is not None
        values = (q.latency_ms, q.energy_j, q.cost, q.redundant_share, 1.0 - q.reliability)
        assert score == pytest.approx(sum(w * v for w, v in zip(goals.weights, values, strict=True)), rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_that_breaks_a_limit_scores_worse_than_any_that_does_not(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = load_model(save_model(random_model(rng), tmp_path))
    scheme = PartitionScheme(graph, graph.cut_points if seed % 2 else (0,))
    scenario = priced(random_scenario(rng, 3), rng)
    free = task_of(graph, scenario, Goals())
    batch = random_cuts(rng, Simulator(graph, scenario, scheme).heights, 3, 40)
    found = [quality_of(free, scheme, cuts) for cuts in batch]
    memory = float(np.median([max(q.memory_mb.values()) for q in found]))
    limits = Goals(
        max_latency_ms=float(np.quantile([q.latency_ms for q in found], 0.8)),
        max_energy_j=float(np.quantile([q.energy_j or 0.0 for q in found], 0.8)),
        max_redundant_share=float(np.quantile([q.redundant_share for q in found], 0.8)),
        min_reliability=float(np.quantile([q.reliability or 0.0 for q in found], 0.1)),
    )
    task = task_of(graph, priced(scenario, np.random.default_rng(99), memory), limits)
    found = [quality_of(task, scheme, cuts) for cuts in batch]
    scores = simulator_for(task, scheme).score(batch)
    for q, score in zip(found, scores, strict=True):
        kept = max(q.memory_mb.values()) <= memory
        try:
            limits.check_limits(q, "test", 0.0)
        except InputError:
            kept = False
        assert (score == pytest.approx(q.latency_ms)) == kept
        assert kept or score > 500 * task.scale


@pytest.mark.parametrize("seed", range(6))
def test_annealing_gives_the_score_of_the_cuts_that_it_returns(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = load_model(save_model(random_model(rng), tmp_path))
    scheme = PartitionScheme(graph, graph.cut_points)
    goals = Goals({"latency": 1.0, "energy": 5.0, "redundant": 2.0}, max_cost=1e-6, pin=("d1",))
    task = task_of(graph, priced(random_scenario(rng, 3), rng, 0.2), goals)
    simulator = simulator_for(task, scheme)
    cuts, score = anneal(simulator, simulator.equal_cuts(), 3000, rng)
    assert score == pytest.approx(simulator.score(cuts[None])[0], rel=1e-9)
    assert score <= simulator.score(simulator.equal_cuts()[None])[0]


def test_memory_in_the_score_counts_what_is_kept_for_later_volumes(tmp_path: Path) -> None:
    """As `memory_mb`, for every provider, of random models with branches."""
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        graph = load_model(save_model(random_model(rng), tmp_path))
        scheme = PartitionScheme(graph, graph.cut_points)
        scenario = random_scenario(rng, 3)
        cuts = random_cuts(rng, Simulator(graph, scenario, scheme).heights, 3, 1)
        bound = draft(Strategy(scheme, scenario, cuts[0], 0.0), scenario, "test", 0).bind(graph)
        asked = [memory_mb(bound, name) for name in scenario.provider_names]
        for share in (1.0 + 1e-9, 1.0 - 1e-9):
            providers = tuple(
                p.model_copy(update={"memory_mb": mb * share if mb else None})
                for p, mb in zip(scenario.providers, asked, strict=True)
            )
            tight = scenario.model_copy(update={"providers": providers})
            tight.__dict__["profiles"] = scenario.profiles
            task = task_of(graph, tight, Goals(pin=()))
            simulator = simulator_for(task, scheme)
            assert simulator.aim is not None
            assert (simulator.score(cuts)[0] == pytest.approx(simulator.evaluate(cuts)[0])) == (share > 1.0)


def test_without_goals_there_is_no_aim_and_the_score_is_the_latency(graph: LayerGraph) -> None:
    task = task_of(graph, random_scenario(np.random.default_rng(0), 3), Goals({"latency": 7.0}))
    simulator = simulator_for(task, PartitionScheme(graph, (0,)))
    cuts = simulator.single_device_cuts()
    assert simulator.aim is None and simulator.barred is None
    assert simulator.score(cuts).tolist() == simulator.evaluate(cuts).tolist()
    assert simulator.permitted(cuts) is cuts


def test_who_is_barred_takes_too_long_and_gets_no_rows(graph: LayerGraph) -> None:
    scenario = random_scenario(np.random.default_rng(1), 3)
    task = task_of(graph, scenario, Goals(raw_to=("d1",), layers_on={"conv3": "d2"}))
    scheme = PartitionScheme(graph, (0, 1, 3, 4))
    simulator = simulator_for(task, scheme)
    assert simulator.barred is not None
    assert simulator.barred.tolist() == [
        [True, False, True],
        [False] * 3,
        [True, True, False],
        [False] * 3,
    ]
    even = simulator.equal_cuts()
    assert simulator.evaluate(even[None])[0] > BARRED_MS
    mended = simulator.permitted(even)
    assert simulator.evaluate(mended[None])[0] < BARRED_MS
    assert (np.diff(mended)[simulator.barred] == 0).all()
    assert (mended[[1, 3]] == even[[1, 3]]).all()
    free = Simulator(graph, scenario, scheme)
    np.testing.assert_allclose(simulator.unbarred().evaluate(even[None]), free.evaluate(even[None]), rtol=1e-9)


def test_what_is_not_known_is_none_and_asking_for_it_names_the_provider(graph: LayerGraph) -> None:
    scenario = random_scenario(np.random.default_rng(0), 2)
    task = task_of(graph, scenario, Goals())
    q = quality_of(task, PartitionScheme(graph, (0,)), np.array([[0, 3, 6]]))
    assert (q.energy_j, q.idle_j, q.cost, q.reliability) == (None, None, None, None)
    assert set(q.memory_mb) == {"d0", "d1"}
    for goals, words in (
        (Goals({"energy": 1.0}), "energy cannot be told of provider 'd0': give it `power:"),
        (Goals(max_cost=1.0), "price_per_hour"),
        (Goals(min_reliability=0.9), "failure_probability"),
    ):
        with pytest.raises(InputError, match=words):
            goals.scenario(graph, scenario)


def test_energy_and_cost_of_two_providers_by_hand(graph: LayerGraph) -> None:
    rng = np.random.default_rng(0)
    task = task_of(graph, priced(random_scenario(rng, 2), rng), Goals())
    scheme = PartitionScheme(graph, (0,))
    q = quality_of(task, scheme, np.array([[0, 6, 6]]))
    provider, profile = task.scenario.providers[0], task.scenario.profiles[0]
    assert provider.power is not None and provider.price_per_hour is not None
    table = task.costs.table(scheme.parts[0])
    busy_ms = table[task.costs.kind_of[id(profile)], 0, 6] + profile.head_ms(graph)
    payload = (3 * 24 * 10 + 5) * task.scenario.element_bytes
    air_ms = payload * 8 * 1.0456 / (0.98 * provider.bandwidth_mbps * 1000)
    assert q.energy_j == pytest.approx((provider.power.active_w * busy_ms + provider.power.radio_w * air_ms) / 1000)
    assert q.idle_j == pytest.approx(provider.power.idle_w * (q.latency_ms - busy_ms) / 1000)
    assert q.cost == pytest.approx((provider.price_per_hour * busy_ms + provider.link_price_per_hour * air_ms) / 3.6e6)
    assert q.redundant_share == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"minimise": {"energie": 1.0}}, "did you mean 'energy'"),
        ({"minimise": {"latency": -1.0}}, "must be a number that is not negative"),
        ({"minimise": {"latency": 0.0}}, "nothing is to be minimised"),
        ({"max_energy_j": -1.0}, "max_energy_j must be"),
        ({"min_reliability": 1.5}, "between 0 and 1"),
        ({"exclude": ("d0",), "pin": ("d0",)}, "left out and to take part"),
    ],
)
def test_goals_that_cannot_be(wrong: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Goals(**wrong)


def test_goals_that_do_not_fit_a_scenario(graph: LayerGraph) -> None:
    scenario = priced(random_scenario(np.random.default_rng(0), 2), np.random.default_rng(0))
    for goals, words in (
        (Goals(exclude=("d0", "d1")), "no provider is left"),
        (Goals(exclude=("d0",), raw_to=("d0",)), "nobody may have the image"),
        (Goals(min_reliability=1.0), "at most 0.9"),
    ):
        with pytest.raises(InputError, match=words):
            goals.scenario(graph, scenario)
    for goals in (Goals(exclude=("d2",)), Goals(layers_on={"conv9": "d0"}), Goals(raw_to=("nobody",))):
        with pytest.raises(UnknownNameError):
            goals.scenario(graph, scenario)
