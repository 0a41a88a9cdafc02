"""Neurosurgeon: one cut between a device and a server, from regressions for each type of layer (Kang et al., 2017)."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import nnls

from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.placement import layerwise
from distredge.placement.rank import FloatArray
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.profiles.profile import Profile

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of a layer's rows, at which the regressions see a profile."""


def layer_type(layer: Layer) -> str:
    """What layers share a regression by: the operator, grouped convolutions apart."""
    return f"{layer.op} in groups" if layer.groups > 1 else layer.op


def predicted_ms(profile: Profile, graph: LayerGraph) -> FloatArray:
    """(layers,) latency of each whole layer by the regression of its type.

    For each type a fit `a * operations + b * elements read and written + c`, none of them negative, to what the
    profile says of the model's layers of that type at `SHARES` of their rows, with least relative errors.
    """
    found = np.zeros(len(graph.layers))
    types = [layer_type(layer) for layer in graph.layers]
    for name in dict.fromkeys(types):
        members = [i for i, other in enumerate(types) if other == name]
        samples = [_samples(profile, graph.layers[i]) for i in members]
        features, ms = np.concatenate([f for f, _ in samples]), np.concatenate([t for _, t in samples])
        if not np.any(ms > 0.0):
            continue
        weight = 1.0 / np.maximum(ms, ms.max() * 1e-6)
        scale = np.maximum(features.max(axis=0), 1.0)
        fitted, _ = nnls(features / scale * weight[:, None], ms * weight)
        found[members] = [features_of(graph.layers[i], 1.0) / scale @ fitted for i in members]
    return found


def _samples(profile: Profile, layer: Layer) -> tuple[FloatArray, FloatArray]:
    rows = np.unique(np.ceil(np.array(SHARES) * layer.height).astype(np.int64))
    return np.stack([features_of(layer, r / layer.height) for r in rows]), profile.layer_ms(layer, rows)


def features_of(layer: Layer, share: float) -> FloatArray:
    """(3,) operations, elements read and written, and 1, for a share of a layer's rows."""
    elements = np.prod(layer.in_shape) * len(layer.inputs) + np.prod(layer.out_shape)
    return np.array([layer.macs * share, float(elements) * share, 1.0])


def best_cut(device_ms: FloatArray, server_ms: FloatArray, transfer_ms: FloatArray) -> tuple[int, float]:
    """How many blocks the device computes, and the latency: argmin over cuts of device + transfer + server.

    `device_ms` and `server_ms` are (blocks,), `transfer_ms` (blocks + 1,): all that is sent if the cut is there. Of
    equal cuts the first, with the least on the device.
    """
    device = np.concatenate([[0.0], np.cumsum(device_ms)])
    server = np.concatenate([np.cumsum(server_ms[::-1])[::-1], [0.0]])
    total = device + transfer_ms + server
    cut = int(np.argmin(total))
    return cut, float(total[cut])


class Neurosurgeon(Planner):
    """`argmin over cuts of device + transfer + server` (Neurosurgeon, by the surveys of 2023 and 2026, section 3.1).

    The original's text is not among our sources. Per device and type of layer a regression stands for the profile
    (`predicted_ms`); the method sees only those, and its plan is costed by the simulator with the profile itself. The
    head is the only layer of its type, so that its fit is exact. The objective is latency, not the mobile's energy.

    A cut is one of `LayerGraph.cut_points`: all that crosses there, or that the head still needs, is sent in one
    message. Device and server are two of the providers: all ordered pairs are tried, the best by the method's own
    model is taken, others stay idle. The requester has the image and sends it to whoever computes first, and gets the
    result from whoever computes last (the original's mobile has both). Server load is not modelled.
    """

    name = "neurosurgeon"

    def plan(self, task: Task) -> Strategy:
        """The best cut of the best pair."""
        points = task.graph.cut_points
        device, server, cut = choose(task, points)
        owners = [device] * cut + [server] * (len(points) - cut)
        scheme, cuts = layerwise.placed(task.graph, points, owners, len(task.scenario.providers))
        latency = float(simulator_for(task, scheme).evaluate(cuts[None])[0])
        task.progress(1.0, latency)
        return Strategy(scheme, task.scenario, cuts, latency)


def choose(task: Task, points: tuple[int, ...]) -> tuple[int, int, int]:
    """Device, server, and how many blocks the device computes; a single provider computes all."""
    graph, scenario = task.graph, task.scenario
    count, unit = len(scenario.providers), scenario.element_bytes
    messages = layerwise.Messages.of(scenario)
    seen = {id(p): np.add.reduceat(predicted_ms(p, graph), np.array(points)) for p in scenario.profiles}
    heads = layerwise.head_ms(task.costs, scenario)
    image, result = layerwise.image_bytes(graph, unit), layerwise.result_bytes(graph, unit)
    left = layerwise.leaving_bytes(graph, points, unit)
    entry = [messages.ms(count, i, image) for i in range(count)]
    exits = [heads[i] + messages.ms(i, count, result) for i in range(count)]
    best, chosen = np.inf, (0, 0, 0)
    for device, server in itertools.permutations(range(count), 2):
        transfer = np.array(
            [
                entry[server] + exits[server],
                *(entry[device] + messages.ms(device, server, size) + exits[server] for size in left[:-1]),
                entry[device] + exits[device],
            ]
        )
        cut, total = best_cut(seen[id(scenario.profiles[device])], seen[id(scenario.profiles[server])], transfer)
        if total < best:
            best, chosen = total, (device, server, cut)
    return chosen
