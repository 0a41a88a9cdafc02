"""What methods that hand whole layers to single providers are made of: block times, messages between nodes, plans.

The costs are those of the simulator with its queues left out: a message from one node to another takes a fixed time and
a time a byte, that of the slower of both links, whatever else is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE, LayerGraph
from distredge.placement.rank import FloatArray, IntArray
from distredge.plans.scheme import PartitionScheme
from distredge.profiles.network import ms_per_byte
from distredge.scenario import MB, Scenario
from distredge.simulate.costs import VolumeCosts


def blocks(graph: LayerGraph, points: Sequence[int]) -> tuple[Volume, ...]:
    """The blocks that begin at `points`, the first of which is 0."""
    return tuple(Volume(graph, a, b) for a, b in zip(points, (*points[1:], len(graph.layers)), strict=True))


def block_ms(costs: VolumeCosts, scenario: Scenario, parts: Sequence[Volume]) -> FloatArray:
    """(providers, blocks) latency of each whole block, run as one, on each provider; the head is in none."""
    kinds = [costs.kind_of[id(p)] for p in scenario.profiles]
    return np.stack([costs.table(part)[kinds, 0, part.height] for part in parts], axis=1)


def head_ms(costs: VolumeCosts, scenario: Scenario) -> FloatArray:
    """(providers,) latency of the head."""
    return costs.head_ms[[costs.kind_of[id(p)] for p in scenario.profiles]]


@dataclass(frozen=True)
class Messages:
    """Times of messages between nodes, sender by receiver; the last node is the requester.

    `fixed_ms` (nodes, nodes) reads and writes a message, `byte_ms` (nodes, nodes) is a byte's time on the slower link,
    with reading and writing it.
    """

    fixed_ms: FloatArray
    byte_ms: FloatArray

    @classmethod
    def of(cls, scenario: Scenario) -> Messages:
        """Those of a scenario."""
        io = [*(p.io for p in scenario.providers), scenario.requester.io]
        rates = [*(p.bandwidth_mbps for p in scenario.providers), scenario.requester_mbps]
        link = np.array([ms_per_byte(rate) for rate in rates])
        read, write = np.array([n.read_ms for n in io]), np.array([n.write_ms for n in io])
        read_byte = np.array([n.read_ms_per_mb for n in io]) / MB
        write_byte = np.array([n.write_ms_per_mb for n in io]) / MB
        return cls(
            read[:, None] + write[None, :],
            np.maximum(link[:, None], link[None, :]) + read_byte[:, None] + write_byte[None, :],
        )

    def ms(self, sender: int, receiver: int, payload_bytes: float) -> float:
        """Time of one message; 0 to oneself."""
        if sender == receiver:
            return 0.0
        return float(self.fixed_ms[sender, receiver] + payload_bytes * self.byte_ms[sender, receiver])


def tensor_bytes(graph: LayerGraph, layer: int, element_bytes: float) -> float:
    """Bytes of the whole tensor that a layer makes; of the image for `IMAGE`."""
    return float(graph.row_elements(layer) * graph.shape(layer)[1] * element_bytes)


def leaving_bytes(graph: LayerGraph, points: Sequence[int], element_bytes: float) -> FloatArray:
    """(blocks,) bytes that pass behind each block: what later layers read of it and of all before, or the head reads.

    Nothing is left to pass behind the last one.
    """
    passing = []
    for point in points[1:]:
        to_head = {i for i in graph.to_head if i < point} if graph.head.nodes else set()
        passing.append(sum(tensor_bytes(graph, i, element_bytes) for i in to_head | set(graph.crossing(point))))
    return np.array([*passing, 0.0])


def result_bytes(graph: LayerGraph, element_bytes: float) -> float:
    """Bytes of the model's outputs, from the head or from layers."""
    layers = sum(tensor_bytes(graph, i, element_bytes) for i in graph.to_requester)
    return layers + graph.head.result_elements * element_bytes


def image_bytes(graph: LayerGraph, element_bytes: float) -> float:
    """Bytes of the image."""
    return tensor_bytes(graph, IMAGE, element_bytes)


def placed(
    graph: LayerGraph, points: Sequence[int], owners: Sequence[int], providers: int
) -> tuple[PartitionScheme, IntArray]:
    """Scheme and cuts under which provider `owners[k]` computes all of the block that begins at `points[k]`.

    Neighbouring blocks of one owner make one volume.
    """
    starts = [k for k, owner in enumerate(owners) if k == 0 or owner != owners[k - 1]]
    scheme = PartitionScheme(graph, tuple(points[k] for k in starts))
    cuts = np.zeros((len(starts), providers + 1), dtype=np.int64)
    for row, k, part in zip(cuts, starts, scheme.parts, strict=True):
        row[owners[k] + 1 :] = part.height
    return scheme, cuts
