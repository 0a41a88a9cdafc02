"""Which plan a stream runs under: the policy's ideas, the judgement of the frames that follow, pins."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from distredge.agents.moving.policy import MovingAgent
from distredge.api import make_task
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners.moving import pretrain
from distredge.plans.plan import BoundPlan
from distredge.runtime.conductor import EpochBegun, FrameDone
from distredge.runtime.policy import Policy
from distredge.runtime.steering import COMPARED, JUDGED, SETTLING, Proposal, Source, Steering
from distredge.runtime.watch import Situation
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.timeline import trace
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import residual, save_model


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=64), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """Links that matter as much as devices do."""
    fast, slow = ToyProfile("fast", 0.05, 0.2), ToyProfile("slow", 0.1, 0.5)
    return toy_scenario([fast, fast, slow], [6.0, 6.0, 6.0])


@pytest.fixture(scope="module")
def agent(graph: LayerGraph, scenario: Scenario) -> MovingAgent:
    chosen = little_settings()
    ranges = chosen.ranges.model_copy(update={"mbps": (1.0, 40.0)})
    return pretrain(make_task(graph, scenario, 0, None, None), chosen.model_copy(update={"ranges": ranges}))


@pytest.fixture
def plans(agent: MovingAgent, graph: LayerGraph) -> list[BoundPlan]:
    """Different ones."""
    return [agent.plan(whole).bind(graph) for whole in agent.library[:3]]


class Stream:
    """A steering, told of epochs and of frames that take as long as one says."""

    def __init__(self, first: BoundPlan, policy: Policy | None = None) -> None:
        self.steering = Steering(policy)
        self.epoch = self.frame = 0
        self.begin(first, "first")

    def begin(self, bound: BoundPlan, source: Source, latency_ms: float | None = None) -> None:
        self.epoch += 1
        self.steering.taken(self.epoch, Proposal(bound, source, "", latency_ms))
        self.steering.begun(EpochBegun(self.epoch, bound, "", 0.0, self.frame))

    def frames(self, latencies_ms: Iterable[float]) -> None:
        for ms in latencies_ms:
            self.steering.done(FrameDone(self.frame, {}, 0.0, ms / 1000.0, self.epoch))
            self.frame += 1


def test_a_plan_that_turns_out_worse_is_rolled_back_and_not_taken_again(plans: list[BoundPlan]) -> None:
    stream = Stream(plans[0])
    stream.frames([50.0] * 20)
    stream.begin(plans[1], "controller", 40.0)
    stream.frames([50.0] * SETTLING)
    stream.frames([60.0] * (JUDGED - 1))
    assert stream.steering.verdict() is None  # not yet
    stream.frames([60.0])
    back = stream.steering.verdict()
    assert back is not None
    assert (back.bound, back.source) == (plans[0], "rollback")
    assert "50.0" in back.reason and "60.0" in back.reason
    assert stream.steering.verdict() is None  # said once
    assert not stream.steering.accepts(plans[1])
    assert stream.steering.accepts(plans[2])
    stream.steering.changed()
    assert stream.steering.accepts(plans[1])  # in another world it may be good


@pytest.mark.parametrize("after_ms", [40.0, 50.0, 52.0])
def test_a_plan_that_is_better_or_hardly_worse_stays(plans: list[BoundPlan], after_ms: float) -> None:
    stream = Stream(plans[0])
    stream.frames([50.0] * 20)
    stream.begin(plans[1], "search", 40.0)
    stream.frames([after_ms] * 40)
    assert stream.steering.verdict() is None


def test_a_few_slow_frames_are_no_reason(plans: list[BoundPlan]) -> None:
    stream = Stream(plans[0])
    stream.frames([50.0] * 20)
    stream.begin(plans[1], "search")
    stream.frames([45.0, 45.0, *[45.0, 300.0, 45.0] * 10])
    assert stream.steering.verdict() is None


def test_a_plan_is_not_judged_across_a_change_nor_without_a_plan_before(plans: list[BoundPlan]) -> None:
    stream = Stream(plans[0])
    stream.frames([50.0] * 20)
    stream.begin(plans[1], "policy")
    stream.frames([50.0] * 5)
    stream.steering.changed()
    stream.frames([90.0] * 40)
    assert stream.steering.verdict() is None
    stream.begin(plans[2], "crew")  # who was left had to
    stream.frames([200.0] * 40)
    assert stream.steering.verdict() is None
    fresh = Stream(plans[0])
    fresh.frames([50.0] * (SETTLING + COMPARED - 1))
    fresh.begin(plans[1], "policy")
    fresh.frames([90.0] * 40)
    assert fresh.steering.verdict() is None


def test_frames_of_an_older_plan_are_not_counted(plans: list[BoundPlan]) -> None:
    stream = Stream(plans[0])
    stream.frames([50.0] * 20)
    stream.begin(plans[1], "search")
    stream.epoch -= 1
    stream.frames([90.0] * 40)
    assert stream.steering.verdict() is None


def test_a_pinned_plan_stays(plans: list[BoundPlan], agent: MovingAgent, graph: LayerGraph, scenario: Scenario) -> None:
    policy = Policy(agent, graph, scenario)
    stream = Stream(plans[0], policy)
    stream.steering.pinned = True
    situation = Situation(scenario.provider_names, {}, {})
    for mbps in (5.0, 20.0, 300.0):
        assert stream.steering.decide(situation, {scenario.provider_names[0]: mbps}) is None
    assert not stream.steering.accepts(plans[1])


def test_the_policy_decides_anew_as_links_change(agent: MovingAgent, graph: LayerGraph, scenario: Scenario) -> None:
    """What it proposes is better by the simulator as well, in most of many worlds."""
    policy, names = Policy(agent, graph, scenario), scenario.provider_names
    situation = Situation(names, {}, {})
    first = policy.decide(situation, {})
    assert first is not None
    stream = Stream(first[0], policy)
    assert stream.steering.decide(situation, {}) is None  # it has decided so already
    rng, better, ratios = np.random.default_rng(1), 0, []
    for _ in range(30):
        mbps = {name: float(np.exp(rng.uniform(np.log(1.0), np.log(40.0)))) for name in names}
        proposal = stream.steering.decide(situation, mbps)
        if proposal is None:
            continue
        now = Conditions(np.array([*mbps.values()]), np.ones(len(names)), np.zeros(len(names))).applied(scenario)
        ratios.append(trace(proposal.bound, now).latency_ms / trace(first[0], now).latency_ms)
        better += ratios[-1] < 1.0
        assert proposal.source == "policy" and proposal.latency_ms is not None
    assert len(ratios) >= 10
    assert better >= 0.9 * len(ratios)


def test_the_policy_is_silent_while_a_device_is_missing(
    agent: MovingAgent, graph: LayerGraph, scenario: Scenario
) -> None:
    policy = Policy(agent, graph, scenario)
    assert policy.decide(Situation(scenario.provider_names[1:], {}, {}), {}) is None


def test_a_policy_for_other_devices_is_refused(agent: MovingAgent, graph: LayerGraph, scenario: Scenario) -> None:
    other = scenario.model_copy(update={"providers": scenario.providers[:2]})
    other.__dict__["profiles"] = scenario.profiles[:2]
    with pytest.raises(InputError, match="pre-train one"):
        Policy(agent, graph, other)
