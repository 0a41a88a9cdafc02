"""DADS: one device and one server, the layers shared by a minimum s-t cut of the DAG (Hu et al., INFOCOM 2019)."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx  # type: ignore[import-untyped]

from distredge.model.graph import IMAGE, LayerGraph
from distredge.placement import layerwise
from distredge.planners.base import Planner, Strategy, Task, simulator_for

_PER_UNIT = 1e6
"""Capacities are whole nanoseconds: a flow of integers is exact."""

_WEIGHTS = (1, 2, 4)
"""Of a stage, for heavy load."""


@dataclass(frozen=True)
class Tensor:
    """A tensor made by the node `maker` (`IMAGE`: the model's input) and read by the nodes `readers`.

    `cost` is paid once if a reader is on the server and the tensor was made on the device, or is the input.
    """

    maker: int
    readers: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class Surgery:
    """What is cut: nodes with their times on the device and on the server, and the tensors between them.

    `entry` is paid if the device reads the input.
    """

    device: tuple[float, ...]
    server: tuple[float, ...]
    tensors: tuple[Tensor, ...]
    entry: float = 0.0

    def stages(self, kept: frozenset[int]) -> tuple[float, float, float]:
        """Time of the device, of the link and of the server if the nodes `kept` stay on the device."""
        made = [t for t in self.tensors if t.maker == IMAGE or t.maker in kept]
        sent = sum(t.cost for t in made if not kept.issuperset(t.readers))
        if any(t.maker == IMAGE and kept.intersection(t.readers) for t in self.tensors):
            sent += self.entry
        device = sum(ms for i, ms in enumerate(self.device) if i in kept)
        return device, sent, sum(ms for i, ms in enumerate(self.server) if i not in kept)

    def least(self) -> float:
        """No cut has stages with a lesser sum."""
        image = [self.entry, sum(t.cost for t in self.tensors if t.maker == IMAGE)]
        return sum(map(min, self.device, self.server)) + min(image)


def minimum_cut(surgery: Surgery, weights: Sequence[float] = (1.0, 1.0, 1.0)) -> frozenset[int]:
    """The nodes that stay on the device, for the least weighted sum of device, link and server time.

    The graph is that of DADS: from the device `e` to each node its time on the server, from each node to the server
    `c` its time on the device, from each tensor's maker over an auxiliary node, so that it is paid once, to its
    readers, and back from reader to maker an infinite edge, so that what the server makes never comes back. The input
    is pinned: its maker is `e`. An auxiliary node `in`, bound to the input's readers by infinite edges, charges its way
    to the device.
    """
    cut = nx.DiGraph()
    for i, (mine, other) in enumerate(zip(surgery.device, surgery.server, strict=True)):
        cut.add_edge("e", i, capacity=_whole(other * weights[2]))
        cut.add_edge(i, "c", capacity=_whole(mine * weights[0]))
    cut.add_edge("in", "c", capacity=_whole(surgery.entry * weights[1]))
    for k, tensor in enumerate(surgery.tensors):
        maker = "e" if tensor.maker == IMAGE else tensor.maker
        cut.add_edge(maker, ("sent", k), capacity=_whole(tensor.cost * weights[1]))
        for reader in tensor.readers:
            cut.add_edge(("sent", k), reader)  # no capacity: infinite
            cut.add_edge(reader, "in" if tensor.maker == IMAGE else maker)
    _, (kept, _) = nx.minimum_cut(cut, "e", "c")
    return frozenset(i for i in kept if isinstance(i, int))


def slowest_stage_cut(surgery: Surgery) -> frozenset[int]:
    """DSH: a cut whose slowest stage is short, the best of the minimum cuts for a grid of weights of the stages.

    The problem is NP-hard. With equal weights alone the slowest stage is at most three times the least possible one,
    as in DADS: it is no longer than the sum of all, which is minimal, and that is at most three times the slowest.
    """
    found = [minimum_cut(surgery, w) for w in itertools.product(_WEIGHTS, repeat=3) if min(w) == 1]
    return min(found, key=lambda kept: (max(surgery.stages(kept)), sum(surgery.stages(kept)), sorted(kept)))


def _whole(cost: float) -> int:
    return round(cost * _PER_UNIT)


class Dads(Planner):
    """Each layer on the device or on the server, what the server makes never coming back (DADS, by the survey of 2026).

    The original's text is not among our sources: this follows the survey (section 3.1, graph-based cut), with the input
    node that its reference [65] adds for the upload at the start. Light load (DSL): least device + link + server time.
    Heavy load (DSH) shortens the slowest of the three, see `slowest_stage_cut`; a scenario sends the next image when
    the last one's result is back, which DADS itself would call light load, so `dads` is DSL, and DSH is
    `Dads(load="heavy")`.

    Device and server are two of the providers: all ordered pairs are tried, the best by the method's own costs is
    taken. Others stay idle. The requester sends the image to the device, to the server, or to both. Layers between two
    neighbouring `LayerGraph.cut_points` cannot be separated by a plan: infinite edges both ways would tie them, here
    they are one node from the start, and so is the head with the last of them. Times are those of the simulator's
    profiles, for messages without its queues; its overlap of device and server on parallel branches is not foreseen.
    """

    name = "dads"

    def __init__(self, load: Literal["light", "heavy"] = "light") -> None:
        self._heavy = load == "heavy"

    def plan(self, task: Task) -> Strategy:
        """One minimum cut (heavy load: some) for each pair of providers that can still be better."""
        points = task.graph.cut_points
        owners = [0] * len(points)
        best: float | None = None
        for device, server, surgery in sorted(surgeries(task, points), key=lambda pair: pair[2].least()):
            if best is not None and surgery.least() / (3.0 if self._heavy else 1.0) >= best:
                break
            kept = slowest_stage_cut(surgery) if self._heavy else minimum_cut(surgery)
            stages = surgery.stages(kept)
            cost = max(stages) if self._heavy else sum(stages)
            if best is None or cost < best:
                best, owners = cost, [device if k in kept else server for k in range(len(points))]
        scheme, cuts = layerwise.placed(task.graph, points, owners, len(task.scenario.providers))
        latency = float(simulator_for(task, scheme).evaluate(cuts[None])[0])
        task.progress(1.0, latency)
        return Strategy(scheme, task.scenario, cuts, latency)


def surgeries(task: Task, points: Sequence[int]) -> Iterator[tuple[int, int, Surgery]]:
    """Each ordered pair (device, server) of providers with its problem; pairs like one before are left out."""
    graph, scenario = task.graph, task.scenario
    count, unit = len(scenario.providers), scenario.element_bytes
    messages = layerwise.Messages.of(scenario)
    times = layerwise.block_ms(task.costs, scenario, layerwise.blocks(graph, points))
    times[:, -1] += layerwise.head_ms(task.costs, scenario)
    for k, size in _outputs(graph, points, unit):
        times[:, k] += [messages.ms(i, count, size) for i in range(count)]
    image = layerwise.image_bytes(graph, unit)
    shapes = list(_tensors(graph, points, unit))
    seen: set[Hashable] = set()
    nodes = zip(scenario.providers, scenario.profiles, strict=True)
    kinds = [(task.costs.kind_of[id(p)], n.bandwidth_mbps, n.io) for n, p in nodes]
    for device, server in itertools.permutations(range(count), 2):
        if (kinds[device], kinds[server]) in seen:
            continue
        seen.add((kinds[device], kinds[server]))
        tensors = tuple(
            Tensor(maker, readers, messages.ms(count if maker == IMAGE else device, server, size))
            for maker, readers, size in shapes
        )
        entry = messages.ms(count, device, image)
        yield device, server, Surgery(tuple(times[device].tolist()), tuple(times[server].tolist()), tensors, entry)


def _tensors(graph: LayerGraph, points: Sequence[int], unit: int) -> Iterator[tuple[int, tuple[int, ...], float]]:
    """Block (or `IMAGE`) that makes a tensor, blocks behind it that read it, bytes; the head is in the last block."""
    block = [k for k, part in enumerate(layerwise.blocks(graph, points)) for _ in part.layers]
    readers: dict[int, set[int]] = {}
    for i, layer in enumerate(graph.layers):
        for source in layer.inputs:
            readers.setdefault(graph.index[source.source], set()).add(block[i])
    for i in graph.to_head if graph.head.nodes else ():
        readers.setdefault(i, set()).add(len(points) - 1)
    for i in sorted(readers):
        maker = IMAGE if i == IMAGE else block[i]
        if behind := tuple(sorted(readers[i] - {maker})):
            yield maker, behind, layerwise.tensor_bytes(graph, i, unit)


def _outputs(graph: LayerGraph, points: Sequence[int], unit: int) -> Iterator[tuple[int, float]]:
    """Block that makes an output of the model, and its bytes."""
    for k, part in enumerate(layerwise.blocks(graph, points)):
        for i in sorted(graph.to_requester.intersection(range(part.start, part.stop))):
            yield k, layerwise.tensor_bytes(graph, i, unit)
    if graph.head.nodes:
        yield len(points) - 1, float(graph.head.result_elements * unit)
