"""`exact`: equal to brute force, never above another method; what its proof rests on; what is out of its reach."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from distredge.api import make_task
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import METHODS, exact, planner
from distredge.planners.base import Strategy, make_plan
from distredge.planners.exact_space import all_cuts, distinct_orders, margins_ms, stops
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Io, Scenario, load_scenario
from distredge.simulate import kernel
from distredge.simulate import simulator as simulator_module
from distredge.simulate.goals import Goals
from distredge.simulate.simulator import Simulator
from distredge.testing.branchy_models import branchy_model
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import ToyProfile, random_cuts, random_scenario, toy_scenario
from distredge.testing.toy_models import residual, save_model

Make = Callable[..., onnx.ModelProto]
MAKES: tuple[Make, ...] = (random_model, branchy_model)

QUANTUM = 64
"""Bytes: so small that the toys' messages are of many quanta."""

LEARNING = {"osds", "osds-paper"}


@lru_cache(maxsize=256)
def graph_of(make: Make, seed: int) -> LayerGraph:
    with tempfile.TemporaryDirectory() as name:
        return load_model(save_model(make(np.random.default_rng(seed)), Path(name)))


def scenario_of(rng: np.random.Generator, providers: int) -> Scenario:
    """Random devices, half of which take their time to read and to write messages."""

    def io() -> Io:
        fixed, per_mb = rng.uniform(0.0, 1.0, 2), 10.0 ** rng.uniform(-1, 2, 2)
        slow = Io(read_ms=fixed[0], read_ms_per_mb=per_mb[0], write_ms=fixed[1], write_ms_per_mb=per_mb[1])
        return slow if rng.random() < 0.5 else Io()

    plain = random_scenario(rng, providers)
    named = tuple(p.model_copy(update={"io": io()}) for p in plain.providers)
    requester = plain.requester.model_copy(update={"io": io()})
    scenario = plain.model_copy(update={"providers": named, "requester": requester})
    scenario.__dict__["profiles"] = plain.profiles
    return scenario


def schemes(graph: LayerGraph) -> Iterator[tuple[int, ...]]:
    inner = graph.cut_points[1:]
    return ((0, *some) for k in range(len(inner) + 1) for some in itertools.combinations(inner, k))


def strategies(graph: LayerGraph, providers: int) -> int:
    """How many there are."""
    inner = providers - 1
    ways = {p: math.comb(graph.layers[p - 1].height + inner, inner) for p in stops(graph)}
    found = sum(math.prod(ways[p] for p in (*scheme[1:], len(graph.layers))) for scheme in schemes(graph))
    return found * math.factorial(providers)


def brute_force(graph: LayerGraph, scenario: Scenario) -> float:
    """Least latency over all schemes, orders and cuts."""
    best = math.inf
    providers = len(scenario.providers)
    for order in itertools.permutations(range(providers)):
        for scheme in schemes(graph):
            simulator = Simulator(graph, scenario.reordered(order), PartitionScheme(graph, scheme))
            ways = [all_cuts(int(h), providers) for h in simulator.heights]
            every = np.indices([len(w) for w in ways]).reshape(len(ways), -1)
            cuts = np.stack([w[number] for w, number in zip(ways, every, strict=True)], axis=1)
            best = min(best, float(simulator.evaluate(cuts).min()))
    return best


def solve(graph: LayerGraph, scenario: Scenario, budget_s: float | None = None) -> Strategy:
    task = make_task(graph, scenario, 0, budget_s, None)
    strategy = planner("exact").plan(task)
    simulator = Simulator(graph, strategy.scenario, strategy.scheme)
    assert simulator.evaluate(strategy.cuts[None])[0] == pytest.approx(strategy.latency_ms, rel=1e-12)
    return strategy


def check_against_brute_force(seeds: range, providers: int, most: int) -> int:
    """Compare in all cases with at most so many strategies; returns how many those were."""
    compared = 0
    for seed in seeds:
        graph = graph_of(MAKES[seed % 2], seed)
        if len(graph.cut_points) > 5 or strategies(graph, providers) > most:
            continue
        scenario = scenario_of(np.random.default_rng(seed), providers)
        assert solve(graph, scenario).latency_ms == pytest.approx(brute_force(graph, scenario), abs=1e-8), seed
        compared += 1
    return compared


@pytest.fixture(params=[None, QUANTUM], ids=["one quantum", "many quanta"])
def quanta(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages as they are, and of many quanta: there the simulator is not quite monotone."""
    if request.param:
        monkeypatch.setattr(simulator_module, "QUANTUM_BYTES", request.param)


@pytest.mark.usefixtures("quanta")
def test_two_providers_as_brute_force() -> None:
    assert check_against_brute_force(range(80), 2, 40_000) >= 15


@pytest.mark.usefixtures("quanta")
def test_three_providers_as_brute_force() -> None:
    assert check_against_brute_force(range(80), 3, 100_000) >= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quanta")
@pytest.mark.parametrize(("providers", "least"), [(2, 80), (3, 30)])
def test_many_cases_as_brute_force(providers: int, least: int) -> None:
    assert check_against_brute_force(range(100, 500), providers, 1_000_000) >= least


def others(graph: LayerGraph, scenario: Scenario, budget_s: float) -> dict[str, float]:
    """What the methods that do not learn find; some do not serve every model."""
    found = {}
    for method in sorted(set(METHODS) - LEARNING - {"exact"}):
        task = make_task(graph, scenario, 1, budget_s if method == "search" else None, None)
        try:
            found[method] = planner(method).plan(task).latency_ms
        except InputError:
            continue
    return found


def check_against_others(seeds: range, budget_s: float) -> None:
    for seed in seeds:
        rng = np.random.default_rng(seed)
        graph = graph_of(MAKES[seed % 2], seed)
        scenario = scenario_of(rng, 2)
        best = solve(graph, scenario).latency_ms
        found = others(graph, scenario, budget_s)
        assert {"search", "equal", "offload"} <= set(found)
        assert best <= min(found.values()) + 1e-9, (seed, best, found)


def test_never_above_another_method() -> None:
    check_against_others(range(4), 0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_never_above_another_method_in_fifty_cases() -> None:
    check_against_others(range(200, 250), 2.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", ["vgg16", "resnet50"])
@pytest.mark.parametrize(("name", "pair"), [("na-nano", (0, 2)), ("db-50", (0, 1)), ("db-300", (0, 2))])
def test_real_models_on_two_boards(model: str, name: str, pair: tuple[int, int]) -> None:
    graph, scenario = load_model(model), load_scenario(name).reordered(pair)
    started = time.perf_counter()
    best = solve(graph, scenario).latency_ms
    assert time.perf_counter() - started < 60.0
    assert best <= min(others(graph, scenario, 5.0).values()) + 1e-9


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("providers", [2, 3, 4])
@pytest.mark.parametrize("quantum", [QUANTUM, 16 * 1024])
def test_the_simulator_is_monotone_but_for_the_margin(seed: int, providers: int, quantum: int) -> None:
    """What the proof rests on: earlier states stay earlier, but for a step's share of the margin."""
    rng = np.random.default_rng(seed)
    graph = graph_of(MAKES[seed % 2], seed)
    scheme = PartitionScheme(graph, graph.cut_points)
    simulator = Simulator(graph, scenario_of(rng, providers), scheme)
    problem = simulator.problem._replace(quantum_bytes=float(quantum))
    margins = margins_ms(graph, simulator.scenario, problem)
    if providers == 2 and not graph.to_requester and all(len(part.entering) == 1 for part in scheme.parts):
        assert max(margins.values()) == 0.0
    scratch = kernel.make_scratch(providers)
    points = stops(graph)
    for cuts in random_cuts(rng, simulator.heights, providers, 60):
        late = rng.exponential(rng.choice([0.01, 0.1, 1.0, 10.0]), (4, providers + 1))
        early = late - rng.exponential(rng.choice([0.001, 0.01, 0.1, 1.0]), late.shape) * (rng.random(late.shape) < 0.5)
        head = kernel.largest_share(cuts[-1])
        v = int(rng.integers(1, len(points) + 1))
        error = margins[points[v - 1]] - (margins[points[v]] if v < len(points) else 0.0)
        if v < len(points):
            for state in (late, early):
                kernel.advance(problem, v, cuts, head, state, scratch)
            assert (early <= late + error + 1e-8).all()
        else:
            ends = [kernel.finish(problem, cuts, head, state, scratch) for state in (early, late)]
            assert ends[0] <= ends[1] + error + 1e-8


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("providers", [1, 2, 3])
def test_conformance(graph: LayerGraph, providers: int) -> None:
    scenario = random_scenario(np.random.default_rng(providers), providers)
    told: list[tuple[float, float]] = []
    task = make_task(graph, scenario, 0, None, lambda share, best: told.append((share, best)))
    strategy = planner("exact").plan(task)
    made = make_plan(task, strategy, "exact", 0)
    assert made.predicted is not None
    assert made.predicted.latency_ms == pytest.approx(strategy.latency_ms)
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert told[-1] == (1.0, strategy.latency_ms)
    assert [best for _, best in told] == sorted((best for _, best in told), reverse=True)


def test_the_same_whatever_the_seed_and_the_budget(graph: LayerGraph) -> None:
    scenario = random_scenario(np.random.default_rng(7), 2)
    first, again = (planner("exact").plan(make_task(graph, scenario, n, b, None)) for n, b in ((0, None), (5, 60.0)))
    assert first.latency_ms == again.latency_ms
    assert first.scheme.locations == again.scheme.locations
    assert first.cuts.tolist() == again.cuts.tolist()


def test_the_order_of_the_providers_does_not_matter(graph: LayerGraph) -> None:
    scenario = random_scenario(np.random.default_rng(8), 2)
    found = [solve(graph, scenario.reordered(order)).latency_ms for order in ((0, 1), (1, 0))]
    assert found[0] == pytest.approx(found[1], abs=1e-8)


@pytest.mark.parametrize("seed", [0, 3, 4, 8])
def test_who_may_do_what_is_kept_to(seed: int) -> None:
    """A layer that one provider must compute, or an image that one may see: the best of what is left."""
    rng = np.random.default_rng(seed)
    graph = graph_of(MAKES[0], next(n for n in range(seed, 99) if strategies(graph_of(MAKES[0], n), 2) < 20_000))
    for goals in (Goals(layers_on={graph.layers[-1].name: "d1"}), Goals(raw_to=("d0",))):
        task = make_task(graph, scenario_of(rng, 2), 0, None, None, goals)
        strategy = planner("exact").plan(task)
        assert strategy.latency_ms == pytest.approx(brute_force(graph, task.scenario), rel=1e-12, abs=1e-8)
        assert make_plan(task, strategy, "exact", 0).predicted is not None


def test_equal_devices_are_exchanged_but_once() -> None:
    a, b = ToyProfile("a", 0.1, 0.1), ToyProfile("b", 0.1, 0.2)
    assert len(distinct_orders(toy_scenario([a, a, a], [8.0, 8.0, 8.0]).providers)) == 1
    assert len(distinct_orders(toy_scenario([a, a, b], [8.0, 8.0, 8.0]).providers)) == 3
    assert len(distinct_orders(toy_scenario([a, a, b], [8.0, 9.0, 8.0]).providers)) == 6


def test_out_of_reach_says_so_at_once() -> None:
    started = time.perf_counter()
    with pytest.raises(
        InputError, match=r"'vgg16' on 4 providers: .* 1e\+06 are feasible; use --method search"
    ) as told:
        solve(load_model("vgg16"), load_scenario("db-50"))
    with pytest.raises(InputError, match=r"'vgg16' on 3 providers: there are .* pairs of successive cuts"):
        solve(load_model("vgg16"), load_scenario("db-50").reordered((0, 1, 2)))
    assert "\n" not in str(told.value)
    assert time.perf_counter() - started < 10.0


def test_a_budget_that_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, scenario = load_model("vgg16"), load_scenario("na-nano").reordered((0, 2))
    with pytest.raises(InputError, match=r"not within 0.1 s \(best so far .* ms, not proven\); use --method search"):
        solve(graph, scenario, budget_s=0.1)
    monkeypatch.setattr(exact, "CHUNK", 1000)
    monkeypatch.setattr(exact, "MOST_LABELS", 2000)
    with pytest.raises(InputError, match=r"not with 2e\+03 labels \(best so far"):
        solve(graph, scenario)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c() -> None:
    """Between two compiled calls, which are short, an interrupt is seen."""
    code = (
        "import distredge\n"
        "scenario = distredge.load_scenario('db-300').reordered((0, 1))\n"
        "told = lambda share, best: print(share, flush=True)\n"
        "distredge.plan(distredge.load_model('openpose'), scenario, 'exact', progress=told)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    sent = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert time.perf_counter() - sent < 30.0


def test_sixteen_providers_are_refused_without_listing_their_orders() -> None:
    with pytest.raises(InputError, match="on 16 providers.*--method search"):
        planner("exact").plan(make_task(load_model("vgg16"), load_scenario("lb"), 0, None, None))
