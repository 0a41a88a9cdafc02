"""Planners under goals: the best there is in tiny cases, limits kept or refused in one line, fronts."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import distredge
from distredge.api import make_task, pareto
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import planner
from distredge.planners.base import Task, make_plan, plan_quality, simulator_for
from distredge.plans.plan import Plan
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Draw, Provider, Scenario
from distredge.simulate.goals import GOALS, Goals
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import chain, save_model

HEURISTICS = ("modnn", "mednn", "coedge", "deepthings", "deeperthings", "aofl")


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0), 8, 6), tmp_path))


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.planners.search.ROUNDS", 10)
    monkeypatch.setattr("distredge.planners.front.FRONT_ROUNDS", 5)


def devices(count: int = 2, memory_mb: float | None = None) -> Scenario:
    """A fast and hungry device, then slower, thriftier and less reliable ones."""
    kinds = [ToyProfile(f"toy-{i}", 0.05, 0.05 * (1 + i)) for i in range(count)]
    scenario = toy_scenario(kinds, [40.0, 60.0, 30.0, 50.0][:count])

    def with_figures(i: int, p: Provider) -> Provider:
        return p.model_copy(
            update={
                "power": Draw(active_w=20.0 / (1 + i) ** 2, idle_w=0.5, radio_w=0.7),
                "price_per_hour": 3.0 / (1 + i) ** 2,
                "link_price_per_hour": 0.5,
                "failure_probability": 0.01 * (i + 1),
                "memory_mb": memory_mb,
            }
        )

    other = scenario.model_copy(update={"providers": tuple(map(with_figures, range(count), scenario.providers))})
    other.__dict__["profiles"] = tuple(kinds)
    return other


def planned(graph: LayerGraph, scenario: Scenario, goals: Goals, method: str = "search") -> tuple[Task, Plan]:
    task = make_task(graph, scenario, 0, None, None, goals)
    return task, make_plan(task, planner(method).plan(task), method, 0)


def best_score(task: Task, only: PartitionScheme | None = None) -> float:
    """The least score of any cuts of any scheme, under either order of two providers."""
    points = task.graph.cut_points[1:]
    subsets = itertools.chain.from_iterable(itertools.combinations(points, n) for n in range(len(points) + 1))
    schemes = [PartitionScheme(task.graph, (0, *chosen)) for chosen in subsets] if only is None else [only]
    best = np.inf
    for scheme, order in itertools.product(schemes, ((0, 1), (1, 0))):
        simulator = simulator_for(task, scheme, task.scenario.reordered(order))
        cuts = [[(0, c, h) for c in range(h + 1)] for h in simulator.heights.tolist()]
        best = min(best, float(simulator.score(np.array(list(itertools.product(*cuts)))).min()))
    return best


def score_of(task: Task, plan: Plan) -> float:
    q = plan_quality(task, plan)
    assert q.energy_j is not None and q.cost is not None and q.reliability is not None
    values = (q.latency_ms, q.energy_j, q.cost, q.redundant_share, 1.0 - q.reliability)
    return sum(w * v for w, v in zip(task.goals.weights, values, strict=True))


@pytest.mark.parametrize(
    "goals",
    [
        Goals({"latency": 1.0, "energy": 300.0}),
        Goals({"latency": 1.0, "cost": 2e6, "failures": 20.0}),
        Goals({"energy": 1.0}),
        Goals({"latency": 1.0, "redundant": 3.0}),
        Goals(max_energy_j=0.018),
        Goals({"energy": 1.0}, max_latency_ms=2.8),
        Goals(max_redundant_share=0.05),
        Goals(min_reliability=0.985),
        Goals({"energy": 1.0}, pin=("d0",)),
        Goals(pin=("d0", "d1")),
        Goals(raw_to=("d1",)),
        Goals(layers_on={"conv2": "d1"}),
    ],
    ids=str,
)
def test_search_finds_the_best_of_all_strategies_for_the_goals(graph: LayerGraph, goals: Goals) -> None:
    task, plan = planned(graph, devices(), goals)
    assert score_of(task, plan) <= best_score(task) * (1 + 1e-9)


def test_goals_change_the_plan(graph: LayerGraph) -> None:
    fast, thrifty = (plan_quality(*planned(graph, devices(), g)) for g in (Goals(), Goals({"energy": 1.0})))
    assert fast.energy_j is not None and thrifty.energy_j is not None
    assert thrifty.energy_j < 0.9 * fast.energy_j
    assert thrifty.latency_ms > 1.1 * fast.latency_ms


def test_search_keeps_to_memory_where_that_binds(graph: LayerGraph) -> None:
    roomy = planned(graph, devices(2, 1.0), Goals())
    most = max(plan_quality(*roomy).memory_mb.values())
    task, plan = planned(graph, devices(2, most * 0.9), Goals())
    q = plan_quality(task, plan)
    assert max(q.memory_mb.values()) <= most * 0.9
    assert q.latency_ms <= best_score(task) * (1 + 1e-9)


@pytest.mark.parametrize("method", [*HEURISTICS, "equal", "search", "offload", "exact"])
def test_excluded_providers_are_in_no_plan_and_image_rows_go_where_they_may(graph: LayerGraph, method: str) -> None:
    scenario = devices(3)
    goals = Goals(exclude=("d0",), raw_to=("d2",))
    try:
        task, plan = planned(graph, scenario, goals, method)
    except InputError as exc:
        assert method in HEURISTICS
        assert str(exc) == f"'{method}' found no plan that keeps to raw_to: 'd1' would get rows of the image"
        return
    assert set(plan.providers) == {"d1", "d2"}
    assert plan.predicted is not None and plan.predicted.latency_ms < 1e4
    bound = plan.bind(graph)
    d1 = plan.providers.index("d1")
    assert all(-1 not in bound.needs(v, d1) for v in range(len(bound.volumes)))
    assert set(planned(graph, scenario, Goals(exclude=("d0",)), method)[1].providers) == {"d1", "d2"}


def test_exact_is_the_best_under_bars_too(graph: LayerGraph) -> None:
    goals = Goals(raw_to=("d1",))
    assert score_of(*planned(graph, devices(), goals, "exact")) == pytest.approx(
        score_of(*planned(graph, devices(), goals)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("goals", "words"),
    [
        (Goals(max_latency_ms=0.5), r"max_latency_ms 0\.5 ms: the best that it found has 1\.\d+ ms, and no split"),
        (Goals(max_energy_j=0.001), r"max_energy_j 0\.001 J: the best that it found has 0\.0\d+ J$"),
        (Goals(max_cost=1e-9), r"max_cost 1e-09: the best that it found has"),
        (Goals(max_energy_j=0.015, pin=("d0", "d1"), max_redundant_share=0.0), "keeps to max_"),
    ],
)
@pytest.mark.parametrize("method", ["search", "equal"])
def test_a_limit_that_cannot_be_kept_is_named(graph: LayerGraph, goals: Goals, words: str, method: str) -> None:
    with pytest.raises(InputError, match=words if method == "search" else words.split(r":")[0]) as caught:
        planned(graph, devices(), goals, method)
    assert "\n" not in str(caught.value)


def test_a_pinned_provider_without_a_part_is_named(graph: LayerGraph) -> None:
    with pytest.raises(InputError, match=r"'offload' found no plan that keeps to pin d1: the provider would have no"):
        planned(graph, devices(), Goals({"latency": 1.0}, pin=("d0", "d1")), "offload")


def test_a_pinned_layer_that_somebody_else_computes_is_named(graph: LayerGraph) -> None:
    with pytest.raises(InputError, match=r"'modnn' found no plan that keeps to pin conv2=d1: 'd0' would compute it"):
        planned(graph, devices(), Goals(layers_on={"conv2": "d1"}), "modnn")


@pytest.mark.parametrize("against", GOALS[1:])
def test_a_front_is_ordered_and_nobody_on_it_is_beaten(graph: LayerGraph, against: str) -> None:
    front = pareto(graph, devices(3), against, 5)
    assert 1 <= len(front) <= 5
    values = []
    for plan, q in front:
        assert plan.predicted is not None and plan.predicted.latency_ms == pytest.approx(q.latency_ms)
        assert q.reliability is not None
        other = {"energy": q.energy_j, "cost": q.cost, "redundant": q.redundant_share, "failures": 1.0 - q.reliability}
        values.append((q.latency_ms, other[against]))
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(values))


def test_the_ends_of_a_front_are_the_best_in_either_goal(graph: LayerGraph) -> None:
    front = pareto(graph, devices(), "energy", 4)
    for goal, (plan, _) in (("latency", front[0]), ("energy", front[-1])):
        task = make_task(graph, devices(), 0, None, None, Goals({goal: 1.0}))
        assert score_of(task, plan) <= best_score(task) * (1 + 1e-9)


def test_a_front_keeps_to_limits_or_names_the_one_that_it_cannot(graph: LayerGraph) -> None:
    front = pareto(graph, devices(3), "energy", 3, goals=Goals(exclude=("d0",), max_latency_ms=5.0))
    assert all(q.latency_ms <= 5.0 and "d0" not in plan.providers for plan, q in front)
    with pytest.raises(InputError, match="max_latency_ms 0.1 ms"):
        pareto(graph, devices(), "energy", 3, goals=Goals(max_latency_ms=0.1))
    with pytest.raises(InputError, match="unknown goal 'enery': did you mean 'energy'"):
        pareto(graph, devices(), "enery")


def test_the_same_seed_gives_the_same_plan_for_goals(graph: LayerGraph) -> None:
    scenario = devices()
    first, again = (distredge.plan(graph, scenario, "search", 3, goals=Goals({"energy": 9.0})) for _ in range(2))
    assert first == again


def test_the_agent_s_planner_looks_for_goals_too(graph: LayerGraph) -> None:
    pytest.importorskip("stable_baselines3")
    goals = Goals(max_energy_j=0.022, raw_to=("d0",))
    task = make_task(graph, devices(), 0, 6.0, None, goals)
    plan = make_plan(task, planner("osds").plan(task), "osds", 0)
    assert score_of(task, plan) <= 1.02 * best_score(task)
