"""CoEdge (Zeng et al., ToN 2020): one vector of ratios for all layers, by a linear programme over linear models.

With shares `x` of every layer's rows, layers run one after the other (bulk-synchronous), so that

    T = sum over layers of ( max_i compute + max_i transfer ),    compute of i in layer l = a_i * F_l * x_i + b_i

is least at the solution of an LP. A share is zero or at least the halo threshold (the largest halo of a layer by the
layer's rows), so that halos come from direct neighbours only; where the LP gives less, the provider with the least
share is dropped and the LP solved again (survey of 2026, section 3.6, has the threshold; the rest is known in outline).

Transfers: shares of the image from the requester, halos between neighbours, shares of the last output to where the head
runs; each is bytes by the rate of the provider's link.

Simplified: the objective is latency (the original minimises energy under a deadline); a DAG's layers are what lies
between partition points; halos are those of even cuts, an inner part has two and a part at the border one; layers of
which every row needs all rows have no threshold. Rounded to rows, a share may fall a row short of its threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distredge.geometry.split import Volume
from distredge.planners.base import Planner, Strategy, Task
from distredge.planners.linear import LinearModels, layer_by_layer, linear_models, strategy_of, volume_operations
from distredge.profiles.profile import FloatArray
from distredge.simulate.starts import proportional_cuts

SLACK = 1e-9
"""By so much a share may miss the threshold: the solver's rounding."""


@dataclass(frozen=True, eq=False)
class Workload:
    """A model as CoEdge sees it.

    `operations`, `parts` (layers in them), `halo_bytes` (of one side) are (layers,); `threshold` is the least share.
    """

    operations: FloatArray
    parts: FloatArray
    halo_bytes: FloatArray
    image_bytes: float
    output_bytes: float
    threshold: float


class CoEdge(Planner):
    """The LP's ratios for every layer, rounded cumulatively."""

    name = "coedge"

    def plan(self, task: Task) -> Strategy:
        """One strategy, after as many LPs as providers are dropped."""
        scheme = layer_by_layer(task.graph)
        volumes = scheme.parts
        models = linear_models(task)
        shares = solve(workload(task, volumes), models)
        heights = np.array([volume.height for volume in volumes])
        return strategy_of(task, scheme, proportional_cuts(heights, shares))


def workload(task: Task, volumes: tuple[Volume, ...]) -> Workload:
    """Sizes of a task's layers."""
    graph, unit = task.graph, task.scenario.element_bytes
    channels, height, width = graph.image
    last = graph.layers[-1]
    halos = [halo_rows(volume) for volume in volumes]
    entering = [graph.shape(volume.entering[-1]) for volume in volumes]
    return Workload(
        operations=np.array([volume_operations(volume) for volume in volumes]),
        parts=np.array([float(len(volume.layers)) for volume in volumes]),
        halo_bytes=np.array([float(n * c * w * unit) for n, (c, _, w) in zip(halos, entering, strict=True)]),
        image_bytes=float(channels * height * width * unit),
        output_bytes=float(last.row_elements * last.height * unit),
        threshold=max(n / h for n, (_, h, _) in zip(halos, entering, strict=True)),
    )


def halo_rows(volume: Volume) -> int:
    """Most rows of its input that a part needs beyond one side of its own, both cut at the same fraction.

    0 where every row needs all rows.
    """
    if volume.height < 2 or any(layer.whole for layer in volume.layers):
        return 0
    k = len(volume.entering) - 1
    height = volume.graph.shape(volume.entering[k])[1]
    starts, stops = (table[k] for table in volume.tables)
    own = np.rint(np.arange(volume.height + 1) * (height / volume.height)).astype(np.int64)
    above, below = (own - starts)[1:-1], (stops - own)[1:-1]
    return int(min(max(above.max(), below.max(), 0), height))


def solve(load: Workload, models: LinearModels) -> FloatArray:
    """(providers,) shares, each 0 or at least the threshold; they add up to 1."""
    shares = np.zeros(len(models.layer_ms))
    kept = list(range(len(shares)))
    while True:
        found = optimum(load, models, kept)
        least = min(range(len(kept)), key=lambda k: (found[k], -k))
        if len(kept) == 1 or found[least] > max(load.threshold - SLACK, 0.0):
            shares[kept] = found
            return shares
        del kept[least]


def optimum(load: Workload, models: LinearModels, kept: list[int]) -> FloatArray:
    """(kept,) shares that minimise T if just these providers take part, without regard to the threshold.

    Variables: the shares, each layer's longest compute, the longest transfer of the image and of the last output.
    """
    from scipy.optimize import linprog

    layers, count = len(load.operations), len(kept)
    rows, limits = [], []
    for k, i in enumerate(kept):
        compute = np.zeros((layers, count + layers + 2))
        compute[:, k] = load.operations * models.operation_ms[i]
        compute[np.arange(layers), count + np.arange(layers)] = -1.0
        transfer = np.zeros((2, count + layers + 2))
        transfer[:, k] = load.image_bytes * models.source_byte_ms[i], load.output_bytes * models.byte_ms[i]
        transfer[0, -2] = transfer[1, -1] = -1.0
        halo_ms = halos_of(k, count) * load.halo_bytes[0] * models.source_byte_ms[i]
        rows += [compute, transfer]
        limits += [-load.parts * models.layer_ms[i], np.array([-halo_ms, 0.0])]
    bounds, right = np.vstack(rows), np.concatenate(limits)
    unit_ms = float(np.abs(bounds[:, :count]).max())  # of about 1, lest the solver's tolerances matter
    bounds[:, :count] /= unit_ms
    cost = np.concatenate([np.zeros(count), np.ones(layers + 2)])
    whole = np.concatenate([np.ones(count), np.zeros(layers + 2)])[None]
    found = linprog(cost, A_ub=bounds, b_ub=right / unit_ms, A_eq=whole, b_eq=[1.0], method="highs")
    shares = np.maximum(found.x[:count], 0.0)
    return np.asarray(shares / shares.sum())


def predicted_ms(load: Workload, models: LinearModels, shares: FloatArray) -> float:
    """T for given shares, of whoever has one; the halos between layers depend on who that is, not on how much."""
    kept = np.flatnonzero(shares)
    sides = np.array([halos_of(k, len(kept)) for k in range(len(kept))])
    x, byte_ms = shares[kept], models.byte_ms[kept]
    compute = np.outer(load.operations, models.operation_ms[kept] * x) + np.outer(load.parts, models.layer_ms[kept])
    first = (load.image_bytes * x + sides * load.halo_bytes[0]) * models.source_byte_ms[kept]
    halos = np.outer(load.halo_bytes[1:], sides * byte_ms)
    last = load.output_bytes * byte_ms * x
    return float(compute.max(axis=1).sum() + first.max() + halos.max(axis=1).sum() + last.max())


def halos_of(place: int, count: int) -> int:
    """Halos of the part at a place among `count`: two inside, one at either border, none if it is alone."""
    return (place > 0) + (place < count - 1)
