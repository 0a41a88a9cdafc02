"""Model graphs by the hash of their files, and what the simulator says of a plan under measured conditions."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from distredge.controller.measured import Measured
from distredge.errors import ModelError, PlanError
from distredge.model import zoo
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.model.onnx_file import model_sha256
from distredge.plans.nodes import REQUESTER
from distredge.plans.plan import BoundPlan, ModelRef, Plan
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.timeline import Timeline, trace

KEPT = 16
"""Graphs, tables of costs and timelines of each that are kept."""


class Models:
    """Finds models: the zoo's by name, others in a folder of .onnx files by their hash. May be used by several threads.

    Loading takes up to seconds, and is done once a model.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._graph = lru_cache(KEPT)(self._load)
        self._costs = lru_cache(KEPT)(_costs)
        self._lock = Lock()

    def graph(self, ref: ModelRef) -> LayerGraph:
        """The model of a plan; raises `ModelError` (or another `InputError`) if it is not found."""
        with self._lock:
            return self._graph(ref)

    def bound(self, plan: Plan) -> BoundPlan:
        """A plan with its model's geometry; raises as `graph` does, or `PlanError`."""
        return plan.bind(self.graph(plan.model))

    def timeline(self, bound: BoundPlan, scenario: Scenario, measured: Measured) -> Timeline:
        """What a frame would take under measured conditions; raises `PlanError` if it cannot be."""
        if missing := sorted(workers(bound.plan) - {*measured.present}):
            raise PlanError(f"the plan needs {missing[0]}, which is not there")
        now = corrected(scenario, measured)
        with self._lock:
            costs = self._costs(_Same(bound.graph, scenario, tuple(sorted(measured.slowdown.items()))))
        at = {name: profile for name, profile in zip(scenario.provider_names, costs.profiles, strict=True)}
        now.__dict__["profiles"] = tuple(at[name] for name in now.provider_names)  # for which there are costs already
        return trace(bound, now, costs.costs)

    def _load(self, ref: ModelRef) -> LayerGraph:
        if ref.name in zoo.NAMES:
            found = load_model(ref.name)
            if found.sha256 == ref.sha256:
                return found
        for path in sorted(self._folder.glob("*.onnx")) if self._folder else ():
            if model_sha256(path) == ref.sha256:
                return load_model(path)
        where = f"is not in '{self._folder}'" if self._folder else "is unknown here"
        raise ModelError(
            f"the model '{ref.name}' ({ref.sha256[:12]}) {where}: start the controller with --models and a folder of it"
        )


def workers(plan: Plan) -> set[str]:
    """The providers that a plan needs: those with rows, and that of the head."""
    return {plan.head_provider} | {
        name for v in plan.volumes for name, a, b in zip(plan.providers, v.cuts, v.cuts[1:], strict=False) if b > a
    }


def corrected(scenario: Scenario, measured: Measured) -> Scenario:
    """The scenario as it was measured to be."""
    usual = Conditions.of(scenario)
    rates = [measured.mbps.get(p.name, p.bandwidth_mbps) for p in scenario.providers]
    slowdown = [measured.slowdown.get(p.name, 1.0) for p in scenario.providers]
    now = Conditions(np.array(rates), np.array(slowdown), usual.io_ms).applied(scenario)
    if scenario.requester.bandwidth_mbps is None or REQUESTER not in measured.mbps:
        return now
    requester = scenario.requester.model_copy(update={"bandwidth_mbps": measured.mbps[REQUESTER]})
    return now.model_copy(update={"requester": requester})


class _Same:
    """A key: costs depend on the model, the devices and how slow each is, and not on the links."""

    def __init__(self, graph: LayerGraph, scenario: Scenario, slowdown: tuple[tuple[str, float], ...]) -> None:
        self.graph, self.scenario, self.slowdown = graph, scenario, slowdown
        self._key = (graph.sha256, tuple(id(p) for p in scenario.profiles), scenario.provider_names, slowdown)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._key == other._key


class _Tables:
    """Costs, and the profiles (slowed down) that they are known by."""

    def __init__(self, costs: VolumeCosts, scenario: Scenario) -> None:
        self.costs, self.profiles = costs, scenario.profiles


def _costs(same: _Same) -> _Tables:
    slowed = corrected(same.scenario, Measured(present=(), slowdown=dict(same.slowdown)))
    return _Tables(VolumeCosts(same.graph, slowed.profiles), slowed)
