"""Scission: contiguous blocks of layers on up to three providers, by exhaustive ranking (Lockhart et al., 2020)."""

from __future__ import annotations

import numpy as np

from distredge.placement import layerwise
from distredge.placement.rank import Prices, best_chain
from distredge.planners.base import Planner, Strategy, Task, simulator_for


class Scission(Planner):
    """The best of all contiguous placements of the blocks between partition points (section III-B, steps 1 to 5).

    A block ends where a single tensor crosses (`LayerGraph.partition_points`). End-to-end latency is the sum of block
    times and, per hop, latency + bytes / bandwidth (section IV-A). All orders of one, two or three providers are tried,
    each with at least one block: exhaustive for Scission's three tiers, not for longer chains.

    Here, and not there: no provider holds the input, so the image's way from the requester and the result's way
    back count as hops; a block is as fast as the profile says instead of being benchmarked; bandwidth is that of the
    slower link with headers and pacing, latency what the scenario says of reading and writing a message. Left out of
    the ranking, and in the latency that is returned: a message passes two links one quantum behind the other, blocks
    that are run as one may be quicker than apart, and what only the head reads leaves at once instead of hop by hop.
    Where a model has several outputs, all are charged to whoever computes last.
    """

    name = "scission"

    def plan(self, task: Task) -> Strategy:
        """The first of the ranking."""
        points = task.graph.partition_points
        chain, cuts, _ = best_chain(prices(task, points))
        owners = np.repeat(chain, np.diff(cuts)).tolist()
        scheme, rows = layerwise.placed(task.graph, points, owners, len(task.scenario.providers))
        latency = float(simulator_for(task, scheme).evaluate(rows[None])[0])
        task.progress(1.0, latency)
        return Strategy(scheme, task.scenario, rows, latency)


def prices(task: Task, points: tuple[int, ...]) -> Prices:
    """What Scission knows of a task whose blocks begin at `points`, in ms."""
    graph, scenario = task.graph, task.scenario
    count, unit = len(scenario.providers), scenario.element_bytes
    messages = layerwise.Messages.of(scenario)
    image, result = layerwise.image_bytes(graph, unit), layerwise.result_bytes(graph, unit)
    left = layerwise.leaving_bytes(graph, points, unit)
    return Prices(
        time=layerwise.block_ms(task.costs, scenario, layerwise.blocks(graph, points)),
        left_bytes=np.broadcast_to(left, (count, len(points))),
        entry=np.array([messages.ms(count, i, image) for i in range(count)]),
        exit=layerwise.head_ms(task.costs, scenario) + [messages.ms(i, count, result) for i in range(count)],
        hop=messages.fixed_ms[:count, :count],
        hop_byte=messages.byte_ms[:count, :count],
    )
