"""What a running stream tells of its links."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan
from distredge.profiles.network import PACE, WIRE_OVERHEAD
from distredge.runtime.link_estimate import MIN_SAMPLES, WINDOW, Arrivals, LinkEstimate
from distredge.runtime.message import RowsChunk
from distredge.runtime.requester import Requester
from distredge.runtime.run import RunOptions, run_plan, terms
from distredge.scenario import REQUESTER, Scenario
from distredge.testing.providers import equal_plan, random_images
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import chain, save_model

from .conftest import StartProviders


def ms_of(payload_bytes: int, mbps: float) -> float:
    return payload_bytes * 8 * WIRE_OVERHEAD / (mbps * 1000.0)


def test_nothing_is_said_before_there_are_enough_transfers() -> None:
    link = LinkEstimate()
    for _ in range(MIN_SAMPLES - 1):
        link.add(50_000, 10.0)
    link.add(0, 10.0)
    link.add(50_000, 0.0)
    assert link.observed("a") is None
    link.add(50_000, 10.0)
    assert link.observed("a") is not None


def test_rate_and_fixed_delay_survive_one_disturbed_transfer_in_four() -> None:
    rng = np.random.default_rng(0)
    link = LinkEstimate()
    for k in range(48):
        size = int(rng.integers(20_000, 500_000))
        link.add(size, (3.0 + ms_of(size, 80.0)) * rng.normal(1.0, 0.01) * (3.0 if k % 4 == 0 else 1.0))
    seen = link.observed("a")
    assert seen is not None
    assert seen.mbps == pytest.approx(80.0, rel=0.05)
    assert seen.fixed_ms == pytest.approx(3.0, abs=1.0)


def test_transfers_of_one_size_give_a_rate_without_a_delay() -> None:
    link = LinkEstimate(pace=PACE)
    for _ in range(10):
        link.add(100_000, ms_of(100_000, 80.0 * PACE))
    seen = link.observed("a")
    assert seen is not None
    assert (seen.mbps, seen.fixed_ms) == (pytest.approx(80.0), 0.0)


def test_it_follows_a_link_that_changes_and_keeps_a_window_only() -> None:
    link = LinkEstimate()
    for mbps in (80.0, 20.0):
        for _ in range(WINDOW):
            link.add(100_000, ms_of(100_000, mbps))
    seen = link.observed("a")
    assert seen is not None
    assert (seen.mbps, seen.samples) == (pytest.approx(20.0), WINDOW)


def chunk(sender: str, frame: int, offset: int) -> RowsChunk:
    return RowsChunk("s", sender, 1, frame, 0, -1, (0, 1), offset, 1.0)


def test_only_what_follows_without_a_gap_is_timed() -> None:
    alone, single, mixed = Arrivals(), Arrivals(), Arrivals()
    for frame in range(10):
        begun = float(frame)
        for k in range(4):
            alone.took(chunk("a", frame, 1000 * k), 1000, begun + 0.001 * k)
        single.took(chunk("a", frame, 0), 1000, begun)
        for k in range(4):  # b's chunks come between a's
            mixed.took(chunk("a", frame, 1000 * k), 1000, begun + 0.002 * k)
            mixed.took(chunk("b", frame, 1000 * k), 1000, begun + 0.002 * k + 0.001)
    (seen,) = alone.observed()
    assert (seen.sender, seen.samples) == ("a", 9)
    assert seen.mbps == pytest.approx(8 * WIRE_OVERHEAD)  # 1000 bytes a ms
    assert not single.observed()
    assert not mixed.observed()


@pytest.fixture
def bound(tmp_path: Path) -> BoundPlan:
    graph = load_model(save_model(chain(np.random.default_rng(0), height=256, width=256), tmp_path))
    return equal_plan(graph, ["d0", "d1"])


def links_of(a_mbps: float, b_mbps: float, requester_mbps: float | None = None) -> Scenario:
    free = ToyProfile("free", 0.0, 0.0)
    return toy_scenario([free, free], [a_mbps, b_mbps], requester_mbps)


@pytest.mark.parametrize(
    ("rates", "limits"),
    [((40.0, 120.0, None), (40.0, 120.0)), ((120.0, 120.0, 30.0), (30.0, 30.0))],
)
def test_a_run_tells_how_fast_its_links_are(
    bound: BoundPlan,
    start_providers: StartProviders,
    rates: tuple[float, float, float | None],
    limits: tuple[float, float],
) -> None:
    """Whichever end of it limits a link."""
    report = run_plan(
        bound, links_of(*rates), start_providers("d0", "d1"), random_images(bound.graph, 20), RunOptions(emulate=True)
    )
    from_requester = {link.receiver: link for link in report.links if link.sender == REQUESTER}
    for name, limit in zip(("d0", "d1"), limits, strict=True):
        assert from_requester[name].samples >= MIN_SAMPLES
        assert from_requester[name].mbps == pytest.approx(limit, rel=0.1)
        observed = report.per_provider[name].link_mbps
        assert observed is not None and observed >= 0.9 * limit


def test_the_estimate_can_be_read_while_a_stream_runs(bound: BoundPlan, start_providers: StartProviders) -> None:
    scenario = links_of(40.0, 40.0)
    addresses, images = start_providers("d0", "d1"), random_images(bound.graph, 1) * 60
    with Requester(bound, addresses, terms=terms(scenario, RunOptions(emulate=True))) as requester:
        assert not any(requester.observed_links().values())
        seen = [len(requester.observed_links().get("d1", ())) for _ in requester.stream(images)]
    assert seen[0] == 0 and seen[-1] > 0
