"""A stream through drift on a real network, with a real controller that is killed meanwhile."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.experiments.online import _back_s, passage
from distredge.model.load import load_model
from distredge.runtime.testbed.namespaces import check_host
from distredge.scenario import load_scenario


def test_back_is_when_frames_are_near_again() -> None:
    at = np.arange(-10, 80) * 0.1
    ms = np.where(at < 0, 50.0, 150.0)
    ms[at >= 1.05] = 61.0
    ms[[25, 60]] = 200.0  # a slow frame now and then changes nothing
    found = _back_s(at, ms, 66.0)
    assert found is not None
    assert found <= 1.2
    assert _back_s(at, ms, 60.0) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_link_that_falls_to_a_quarter_costs_no_image_and_the_latency_comes_back() -> None:
    """How near it comes on a quiet machine is measured by `scripts/online`; here others may use the machine."""
    check_host()
    found = passage(load_model("vgg16"), load_scenario("db-50"))
    assert (found.lost, found.in_order) == (0, True)
    assert found.worst_ms > 2.0 * found.before_ms  # it was felt
    assert found.reached_ms < 1.6 * found.oracle_ms  # three times as much under the first plan
    kinds = {event.partition(":")[0] for event in found.events}
    assert {"stream_opened", "plan_in_force", "drift_seen", "stream_closed"} <= kinds, found.events
