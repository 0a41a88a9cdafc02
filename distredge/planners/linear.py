"""What methods with linear models see of a task: a straight line for each device, a rate for each link, nothing else.

MoDNN, MeDNN, CoEdge and AOFL assume that a layer of `F` operations takes a device `a * F + b` ms and that bytes take a
link `bytes * 8 / rate` (DistrEdge, section II-B). They look at profiles and links through `LinearModels` alone. Steps
in a profile, what fused execution saves, contention at a link and the fixed cost of a message are hidden from them,
and met by their plans in the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.planners.base import Strategy, Task, simulator_for
from distredge.plans.scheme import PartitionScheme
from distredge.profiles.network import ms_per_byte
from distredge.profiles.profile import FloatArray, Profile
from distredge.simulate.kernel import IntArray

LEAST_MS = 1e-15
"""Time of an operation, in ms, below which none is believed to be: a device that takes no time still has a speed."""


@dataclass(frozen=True, eq=False)
class LinearModels:
    """Lines and rates of the providers, each (providers,) in the scenario's order.

    `operation_ms` and `layer_ms` are the `a` and `b` of `a * F + b`, for one layer; `source_byte_ms` is a payload
    byte's time between the requester and a provider, `byte_ms` that on a provider's own link.
    """

    operation_ms: FloatArray
    layer_ms: FloatArray
    source_byte_ms: FloatArray
    byte_ms: FloatArray

    @property
    def capability(self) -> FloatArray:
        """Operations a ms: `c = 1 / a` (MoDNN)."""
        return np.asarray(1.0 / self.operation_ms)


def linear_models(task: Task) -> LinearModels:
    """The lines that fit a task's profiles best, and its links."""
    lines = {id(profile): fit(profile, task.graph) for profile in task.scenario.profiles}
    rates = [provider.bandwidth_mbps for provider in task.scenario.providers]
    return LinearModels(
        operation_ms=np.array([lines[id(profile)][0] for profile in task.scenario.profiles]),
        layer_ms=np.array([lines[id(profile)][1] for profile in task.scenario.profiles]),
        source_byte_ms=np.array([ms_per_byte(min(rate, task.scenario.requester_mbps)) for rate in rates]),
        byte_ms=np.array([ms_per_byte(rate) for rate in rates]),
    )


def fit(profile: Profile, graph: LayerGraph) -> tuple[float, float]:
    """`(a, b)` of the line `a * F + b` with least squared errors over every number of rows of every layer of a model.

    Neither is negative: where the best line would fall, or begin below zero, the best one through the origin is taken.
    """
    counts = [np.arange(1, layer.height + 1) for layer in graph.layers]
    work = np.concatenate([operations(layer) / layer.height * n for layer, n in zip(graph.layers, counts, strict=True)])
    ms = np.concatenate([profile.layer_ms(layer, n) for layer, n in zip(graph.layers, counts, strict=True)])
    spread = work - work.mean()
    variance = float(spread @ spread)
    slope = float(spread @ ms) / variance if variance > 0.0 else 0.0
    base = float(ms.mean() - slope * work.mean())
    if slope <= 0.0 or base < 0.0:
        slope, base = float(work @ ms) / float(work @ work), 0.0
    return max(slope, LEAST_MS), base


def operations(layer: Layer) -> float:
    """A whole layer's multiply-accumulates; of a layer without any (a pooling, a sum), the elements that it reads."""
    return float(layer.macs or layer.row_elements * layer.height * layer.kernel[0] * layer.kernel[1])


def volume_operations(volume: Volume) -> float:
    """Operations of all rows of a volume, halo apart."""
    return sum(operations(layer) for layer in volume.layers)


def layer_by_layer(graph: LayerGraph) -> PartitionScheme:
    """The finest partition in which one tensor at a time crosses: what 'layer by layer' means on a DAG.

    A layer of a chain is a volume; a residual block or parallel branches, which cannot be cut inside, are one as well.
    """
    return PartitionScheme(graph, graph.partition_points)


def strategy_of(task: Task, scheme: PartitionScheme, cuts: IntArray) -> Strategy:
    """Cuts (volumes, providers + 1) in the scenario's order as a strategy, costed by the simulator; reports it."""
    latency_ms = float(simulator_for(task, scheme).evaluate(cuts[None])[0])
    task.progress(1.0, latency_ms)
    return Strategy(scheme, task.scenario, cuts, latency_ms)
