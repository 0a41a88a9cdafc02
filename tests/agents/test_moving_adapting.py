"""Adapting to a world that is not what the agent is told, on agents whose critic is the world's own law."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.agents.moving.adapting import Adapter, refitted, shifted
from distredge.agents.moving.header import Device, Header
from distredge.agents.moving.policy import MovingAgent, Networks, Roles, WholePlan, features
from distredge.plans.plan import ModelRef
from distredge.scenario import Io

PROVIDERS = 3


def toy_agent(plans: int = 24) -> MovingAgent:
    """Random plans of three providers, of which the first two are alike; a critic of four pieces each."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(PROVIDERS), plans)
    forms = np.zeros((plans, 4, 3 * PROVIDERS + 1), dtype=np.float32)
    for j in range(PROVIDERS):  # a provider's own chain: its rows over its link, computed, one delay
        forms[:, j, j] = 20.0 * shares[:, j]
        forms[:, j, PROVIDERS + j] = 40.0 * shares[:, j]
        forms[:, j, 2 * PROVIDERS + j] = 1.0
    forms[:, 3] = 0.4 * forms[:, :3].sum(axis=1)
    forms[:, :, -1] = 1.0
    whole = WholePlan((0,), (0, 1, 2), np.array([[0, 1, 2, 3]]))
    devices = tuple(Device(name=name, profile="toy", slowdown=1.0, io=Io()) for name in "abc")
    header = Header(
        model=ModelRef(name="toy", sha256="", input_shape=(1, 3, 8, 8)), layers=("conv",), scenario="toy",
        providers=devices, requester_mbps=None, element_bytes=2, mbps=(20.0, 300.0), slowdown=(1.0, 3.0),
        io_ms=(0.0, 2.0), candidates=plans,
    )  # fmt: skip
    networks = Networks(forms, (), np.zeros((plans, 1), np.float32))
    return MovingAgent(header, Roles(np.array([0, 0, 1]), np.full((PROVIDERS, 2), 40.0)), (whole,) * plans, networks)


def told(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mbps = np.exp(rng.uniform(np.log(20.0), np.log(300.0), PROVIDERS))
    return mbps, np.ones(PROVIDERS), np.zeros(PROVIDERS)


def live(adapter: Adapter, shifts: np.ndarray, images: int, noise: float, curiosity: float = 1.0) -> None:
    """Images in a world with these shifts."""
    rng = np.random.default_rng(1)
    for _ in range(images):
        now = told(rng)
        decision = adapter.decide(*now, curiosity)
        true = shifted(np.stack(now), shifts)[:, decision.cast]
        latency = adapter.agent.networks.latency_ms(features(*true), np.array([decision.plan]))[0]
        adapter.learn(*now, decision, float(latency) * float(np.exp(noise * rng.standard_normal())))


@pytest.mark.parametrize("slow", range(PROVIDERS))
def test_it_finds_out_which_provider_is_twice_as_slow(slow: int) -> None:
    shifts = np.zeros((3, PROVIDERS))
    shifts[1, slow] = np.log(2.0)
    adapter = Adapter(toy_agent())
    live(adapter, shifts, 20, 0.01)
    assert np.exp(adapter.shifts[1]) == pytest.approx(np.exp(shifts[1]), rel=0.1)
    assert np.exp(adapter.shifts[0]) == pytest.approx(np.ones(PROVIDERS), rel=0.2)


def test_it_decides_nearly_as_if_it_was_told_the_truth() -> None:
    shifts = np.array([[-0.26, 0.0, 0.0], [0.0, np.log(2.0), 0.0], [1.0, 1.0, 1.0]])
    adapter = Adapter(toy_agent())
    unadapted = Adapter(toy_agent())
    live(adapter, shifts, 20, 0.01)
    rng, over, before = np.random.default_rng(2), [], []
    for _ in range(40):
        now = told(rng)
        true = shifted(np.stack(now), shifts)
        best = adapter.agent.decide(*true).latency_ms
        for one, ratios in ((adapter, over), (unadapted, before)):
            decision = one.decide(*now)
            z = features(*true[:, decision.cast])
            ratios.append(one.agent.networks.latency_ms(z, np.array([decision.plan]))[0] / best)
    assert np.median(over) < 1.02
    assert np.median(over) < np.median(before)


def test_a_true_world_and_a_disturbed_image_change_little() -> None:
    adapter = Adapter(toy_agent())
    live(adapter, np.zeros((3, PROVIDERS)), 15, 0.01)
    before = adapter.shifts.copy()
    now = told(np.random.default_rng(7))
    decision = adapter.decide(*now)
    adapter.learn(*now, decision, 5.0 * decision.latency_ms)
    for shifts in (before, adapter.shifts):
        assert np.abs(shifts[:2]).max() < 0.15
        assert np.abs(shifts[2]).max() < 1.0


def test_without_curiosity_it_decides_as_the_agent_does() -> None:
    agent = toy_agent()
    now = told(np.random.default_rng(3))
    ours, theirs = Adapter(agent).decide(*now), agent.decide(*now)
    assert (ours.plan, ours.latency_ms) == (theirs.plan, theirs.latency_ms)


def test_medians_explain_what_was_measured_but_for_outliers_and_gaps() -> None:
    rng = np.random.default_rng(0)
    said = np.stack([np.stack(told(rng)) for _ in range(21)])
    shifts = np.array([[-0.26, 0.0, 0.1], [0.0, np.log(2.0), 0.0], [1.0, 0.5, 0.0]])
    measured = shifted(said, shifts)
    measured[:5] *= 10.0
    measured[:, :, 2] = np.nan
    found = refitted(said, measured)
    assert found[:, :2] == pytest.approx(shifts[:, :2])
    assert found[:, 2] == pytest.approx(np.zeros(3))
