from __future__ import annotations

import numpy as np
import pytest

import distredge
from distredge.simulate.conditions import Conditions, evaluate_under, under
from distredge.simulate.starts import proportional_cuts


@pytest.mark.parametrize("scenario", ["db-50", "ld"])
def test_conditions_mean_the_same_in_the_simulator_and_in_the_scenario(scenario: str) -> None:
    graph, there = distredge.load_model("vgg16"), distredge.load_scenario(scenario)
    scheme = distredge.partition(graph, there)
    rng, count = np.random.default_rng(4), len(there.providers)
    shape = (3, count)
    batch = Conditions(rng.uniform(10, 300, shape), rng.uniform(1, 3, shape), rng.uniform(0, 2, shape))
    simulator = distredge.Simulator(graph, there, scheme)
    shares = rng.random((5, count)) + 0.05
    cuts = np.stack([proportional_cuts(simulator.heights, s) for s in shares])
    found = evaluate_under(simulator, batch, cuts)
    before = simulator.evaluate(cuts)
    for k in range(3):
        other = distredge.Simulator(graph, batch[k].applied(there), scheme)
        assert np.allclose(other.evaluate(cuts), found[k], rtol=1e-12)
        assert np.array_equal(under(simulator, batch[k]).evaluate(cuts), found[k])
    assert np.array_equal(simulator.evaluate(cuts), before)


def test_the_scenarios_own_conditions_change_nothing() -> None:
    graph, there = distredge.load_model("vgg16"), distredge.load_scenario("na-nano")
    simulator = distredge.Simulator(graph, there, distredge.partition(graph, there))
    cuts = simulator.equal_cuts()[None]
    assert np.allclose(under(simulator, Conditions.of(there)).evaluate(cuts), simulator.evaluate(cuts), rtol=1e-12)


def test_a_provider_twice_as_slow_computes_twice_as_long() -> None:
    graph, there = distredge.load_model("vgg16"), distredge.load_scenario("db-50")
    slow = there.model_copy(update={"providers": (there.providers[0].model_copy(update={"slowdown": 2.0}),)})
    usual = there.model_copy(update={"providers": there.providers[:1]})
    plans = [distredge.plan(graph, s, method="offload") for s in (usual, slow)]
    times = [plan.predicted.compute_ms["xavier-0"] for plan in plans if plan.predicted]
    assert times[1] == pytest.approx(2 * times[0])
