"""Failures on a real network of namespaces: nothing is lost, and the provider is taken in again."""

from __future__ import annotations

import pytest

from distredge.errors import DistrEdgeError
from distredge.experiments.faults import FAULTS, Fault, even_plan, outcome, star_scenario
from distredge.experiments.soak import leaks, soak
from distredge.model.load import load_model
from distredge.runtime.testbed.bed import Testbed
from distredge.runtime.testbed.namespaces import Namespace, check_host
from distredge.runtime.testbed.quota import find_controller


def obstacle() -> str:
    """Why there can be no test-bed with quotas here; empty if there can."""
    try:
        check_host()
        find_controller()
        with Namespace():
            return ""
    except DistrEdgeError as exc:
        return str(exc)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(obstacle()), reason=obstacle()),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_stream_on_a_real_network_outlives_a_fault(fault: Fault) -> None:
    scenario = star_scenario(3)
    bound = even_plan(load_model("squeezenet1_1"), scenario)
    with Testbed(scenario) as bed:
        found = outcome(bed, bound, fault, 0.2, 250)
    assert (found.lost, found.in_order) == (0, True)
    assert found.max_abs_diff <= 1e-4
    assert found.plans.count(">") >= 1, "the fault went by unnoticed"


def test_a_soak_loses_nothing_and_nothing_grows() -> None:
    found = soak(load_model("squeezenet1_1"), 60.0, 3, 1, lambda line: None)
    summary = found.summary()
    assert summary["in_order_and_once"] and summary["wrong"] == 0
    assert len(found.faults) >= 2
    assert not leaks(summary)
