"""DeepThings (Zhao, Barijough, Gerstlauer, TCAD 2018): early layers fused, in equal tiles, the rest in one place.

Fused tile partitioning (FTP) runs a tile of the fused layers' output with its halo, computed again, on one device. It
assumes equal devices and knows neither profiles nor links. Here, as in DistrEdge's comparison (section V-B):

- one tile a device, cut along the height only, fixed beforehand. The original makes a grid of more tiles than devices,
  and idle ones steal them; its rounding up of the tiles' size can leave the last ones less than nothing, ours cannot.
- How many layers are fused is chosen by hand there, by memory (the published code fuses 16 layers of YOLOv2), because
  early layers are heavy in feature maps and late ones in weights. Here: the layers before the first block between two
  partition points whose weights outnumber its feature maps, and at least one block (VGG-16: up to the third pooling).
- The gateway, which does the rest, is the provider with the highest capability in a linear fit, the first of equals: a
  gateway is meant to be the stronger machine. If nothing is left for it but the model's head, the head runs where
  every head does: on the provider with most rows.
"""

from __future__ import annotations

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.linear import linear_models, strategy_of
from distredge.plans.scheme import PartitionScheme


class DeepThings(Planner):
    """One fused volume in equal parts, the rest on the gateway."""

    name = "deepthings"

    def plan(self, task: Task) -> Strategy:
        """One strategy, no search."""
        end = fused_end(task.graph)
        scheme = PartitionScheme(task.graph, (0, end) if end < len(task.graph.layers) else (0,))
        simulator = simulator_for(task, scheme)
        cuts = simulator.equal_cuts()
        gateway = int(np.argmax(linear_models(task).capability))
        cuts[1:] = simulator.single_device_cuts()[gateway, 1:]
        return strategy_of(task, scheme, cuts)


def fused_end(graph: LayerGraph) -> int:
    """The partition point (or end of the layers) where the feature maps no longer outweigh the weights."""
    stops = (*graph.partition_points[1:], len(graph.layers))
    for start, stop in zip(stops, stops[1:], strict=False):
        if weights(graph, start, stop) > feature_maps(graph, start, stop):
            return start
    return len(graph.layers)


def weights(graph: LayerGraph, start: int, stop: int) -> int:
    """Parameters of the layers `[start, stop)`."""
    return sum(layer.params for layer in graph.layers[start:stop])


def feature_maps(graph: LayerGraph, start: int, stop: int) -> int:
    """Elements of what enters the layers `[start, stop)` and of what each of them makes."""
    tensors = {*graph.crossing(start), *range(start, stop)}
    return sum(graph.row_elements(i) * graph.shape(i)[1] for i in tensors)
