"""Memory that a plan asks of each provider, and the check against what the provider has."""

from __future__ import annotations

from distredge.errors import PlanError
from distredge.model.graph import IMAGE
from distredge.plans.plan import BoundPlan
from distredge.scenario import Scenario

COMPUTE_BYTES = 4
"""Bytes of a weight or an element in memory: the ONNX Runtime engine computes in float32."""


def memory_mb(bound: BoundPlan, provider: str) -> float:
    """Weights of every layer that a provider computes, and the most that it holds of feature maps at once (MB).

    That is a layer's input and output, and what later volumes will still read of earlier ones.
    """
    plan, graph = bound.plan, bound.graph
    at = plan.providers.index(provider)
    weights = graph.head.params if provider == plan.head_provider else 0
    peak = 0
    for v, volume in enumerate(bound.volumes):
        part = bound.part(v, at)
        if part is None:
            continue
        weights += sum(layer.params for layer in volume.layers)
        entering = sum(rows.size * graph.row_elements(i) for i, rows in bound.needs(v, at).items())
        kept = sum(
            bound.held(i, at).size * graph.row_elements(i)
            for earlier in bound.volumes[:v]
            for i in earlier.leaving
            if graph.last_reader.get(i, IMAGE) >= volume.stop
        )
        for layer, rows in zip(volume.layers, part.rows, strict=True):
            made = rows.size * layer.row_elements
            peak = max(peak, kept + entering + made)
            entering = made
    return (weights + peak) * COMPUTE_BYTES / 1e6


def check_memory(bound: BoundPlan, scenario: Scenario) -> None:
    """Raise `PlanError` if a provider would need more memory than the scenario, or else its profile, says it has."""
    for name, has_mb in zip(scenario.provider_names, scenario.memory_mb, strict=True):
        if has_mb is None or name not in bound.plan.providers:
            continue
        asked = memory_mb(bound, name)
        if asked > has_mb:
            raise PlanError(
                f"the plan needs {asked:.0f} MB on provider '{name}', which has {has_mb:.0f} MB:"
                " give it fewer volumes or another head provider"
            )
