"""MeDNN (Mao et al., ICCAD 2017): layer by layer, rows assigned greedily by capability within the devices' resources.

Of its greedy two-dimensional partition (GTDP) only the idea is public, that it adapts to "individual resource
constraints"; its exact rule is not. Here, on the one dimension of rows: each row of a layer goes to whoever would be
done with it first, at `a_i` ms an operation of the linear fit `t = a * F + b`, the first of equals; this leaves the
least `max a_i * rows_i`, and is proportional to capability up to rounding. A provider whose memory is known gets at
most the rows that fit beside the weights of all layers.

Simplified: no second dimension (columns), no compression of the model (its SMCD), no fully connected layers apart; what
MoDNN's module says of DAGs and of gathering holds here too.
"""

from __future__ import annotations

import heapq

import numpy as np

from distredge.geometry.split import Volume
from distredge.planners.base import Planner, Strategy, Task
from distredge.planners.linear import layer_by_layer, linear_models, strategy_of
from distredge.profiles.profile import FloatArray
from distredge.scenario import MB
from distredge.simulate.kernel import IntArray
from distredge.simulate.memory import COMPUTE_BYTES


class Mednn(Planner):
    """Rows one by one to whoever would be done first, as long as they fit."""

    name = "mednn"

    def plan(self, task: Task) -> Strategy:
        """One strategy, no search."""
        scheme = layer_by_layer(task.graph)
        capability = linear_models(task).capability
        rows = np.stack([greedy_rows(part.height, capability, fitting_rows(task, part)) for part in scheme.parts])
        return strategy_of(task, scheme, np.pad(np.cumsum(rows, axis=1), ((0, 0), (1, 0))))


def greedy_rows(height: int, capability: FloatArray, limits: IntArray) -> IntArray:
    """(providers,) rows of each, `height` in all, none above its limit.

    If the limits leave rows over, they do not count: whoever checks the plan's memory tells (`check_memory`).
    """
    if limits.sum() < height:
        limits = np.full_like(limits, height)
    rows = np.zeros(len(limits), dtype=np.int64)
    done = [(1.0 / capability[i], i) for i in range(len(limits)) if limits[i] > 0]
    heapq.heapify(done)
    for _ in range(height):
        _, i = heapq.heappop(done)
        rows[i] += 1
        if rows[i] < limits[i]:
            heapq.heappush(done, ((rows[i] + 1) / capability[i], i))
    return rows


def fitting_rows(task: Task, volume: Volume) -> IntArray:
    """(providers,) rows of a volume whose largest layer, input and output, fits beside the weights of all layers."""
    graph, height = task.graph, volume.height
    weights = sum(layer.params for layer in graph.layers)
    shapes = [(layer, graph.shape(graph.index[layer.inputs[0].source])) for layer in volume.layers]
    elements = max(c * h * w + layer.row_elements * layer.height for layer, (c, h, w) in shapes)
    limits = np.full(len(task.scenario.providers), height)
    for i, has_mb in enumerate(task.scenario.memory_mb):
        if has_mb is not None:
            spare = has_mb * MB / COMPUTE_BYTES - weights
            limits[i] = int(min(max(spare / (elements / height), 0.0), height))
    return limits
