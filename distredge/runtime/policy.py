"""A requester's policy: the agent for a moving network, asked about a stream's own plans (numpy alone)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distredge.agents.moving.policy import Decision, FloatArray, MovingAgent, features
from distredge.model.graph import LayerGraph
from distredge.plans.plan import BoundPlan, ModelRef
from distredge.runtime.watch import Situation
from distredge.scenario import Scenario

KEPT = 32
"""Plans that were decided lately, of which it can say what they would take now."""


class Policy:
    """Decides plans of a scenario's model; raises `InputError` if the agent is for another model or other devices."""

    def __init__(self, agent: MovingAgent, graph: LayerGraph, scenario: Scenario) -> None:
        agent.header.check_model(ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape))
        agent.header.check_scenario(scenario)
        self._agent, self._graph = agent, graph
        self._usual = {p.name: p.bandwidth_mbps for p in scenario.providers}
        self._decided: dict[str, tuple[BoundPlan, Decision]] = {}

    def decide(self, situation: Situation, mbps: Mapping[str, float]) -> tuple[BoundPlan, float] | None:
        """The plan for links of these rates (Mbit/s; those not named as usual) and the latency that it expects (ms).

        None if some of its devices are not there: it knows plans for all of them only.
        """
        if not {*self._usual} <= {*situation.present}:
            return None
        conditions = self._conditions(situation, mbps)
        decision = self._agent.decide(*conditions)
        plan = self._agent.plan(self._agent.whole_plan(decision))
        key = plan.model_dump_json()
        bound = self._decided[key][0] if key in self._decided else plan.bind(self._graph)
        self._decided.pop(key, None)
        self._decided[key] = (bound, decision)
        if len(self._decided) > KEPT:
            del self._decided[next(iter(self._decided))]
        return bound, decision.latency_ms

    def latency_ms(self, bound: BoundPlan, situation: Situation, mbps: Mapping[str, float]) -> float | None:
        """What a plan that it has decided would take now; None for one that it has not, or has forgotten."""
        found = next((decision for known, decision in self._decided.values() if known is bound), None)
        if found is None:
            return None
        z = features(*(values[found.cast] for values in self._conditions(situation, mbps)))
        return float(self._agent.networks.latency_ms(z, np.array([found.plan]))[0])

    def _conditions(self, situation: Situation, mbps: Mapping[str, float]) -> tuple[FloatArray, FloatArray, FloatArray]:
        rates = np.array([mbps.get(name, usual) for name, usual in self._usual.items()])
        slowdown = np.array([situation.slowdown.get(name, 1.0) for name in self._usual])
        return rates, slowdown, np.zeros(len(rates))
