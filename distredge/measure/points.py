"""What can be measured of a model: some rows of a layer, its head, whole split-parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distredge.engine.slicing import part_model
from distredge.engine.subgraph import OnnxSource, head_model
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.measure.bench import Piece
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.plans.plan import Plan
from distredge.profiles.fusion import volume_signature

PART_SHARES = (0.125, 0.25, 0.5, 1.0)
"""Heights of the random split-parts, as shares of their volumes'."""


@dataclass(frozen=True)
class Point:
    """One thing to measure; `key` tells it from all others, of any model: a kind and what identifies it."""

    key: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class HeadPoint(Point):
    """The head."""


@dataclass(frozen=True)
class LayerPoint(Point):
    """`rows` output rows of a layer, from the middle of its height."""

    layer: Layer
    rows: int


@dataclass(frozen=True)
class PartPoint(Point):
    """The split-part that computes the rows `out` of a volume's last layer."""

    volume: Volume
    out: Interval


def head_point(signature: str) -> HeadPoint:
    """The head, by its `head_signature`."""
    return HeadPoint(("head", signature), "head")


def layer_point(layer: Layer, rows: int) -> LayerPoint:
    """Rows of a layer."""
    return LayerPoint(("layer", layer.signature, str(rows)), f"{layer.name}, {rows} rows", layer, rows)


def part_point(volume: Volume, out: Interval) -> PartPoint:
    """A split-part."""
    key = ("part", volume_signature(volume), str(out.start), str(out.stop))
    return PartPoint(key, f"{volume_title(volume)}, rows {out.start} to {out.stop}", volume, out)


def volume_title(volume: Volume) -> str:
    """A volume in words: the model, and its first and last layer."""
    first, last = volume.layers[0].name, volume.layers[-1].name
    return f"{volume.graph.name}: {first}" + (f" .. {last}" if first != last else "")


def random_parts(graph: LayerGraph, count: int, rng: np.random.Generator) -> Iterator[PartPoint]:
    """Random rows of volumes of random lengths, short ones as often as long ones, between partition points.

    A volume spans two intervals between partition points at least, if there are two: one layer alone tells nothing new.
    """
    ends = [*graph.partition_points, len(graph.layers)]
    least = min(2, len(ends) - 1)
    for _ in range(count):
        first = int(rng.integers(0, len(ends) - least))
        length = round(float(np.exp(rng.uniform(np.log(least), np.log(len(ends) - 1 - first)))))
        volume = Volume(graph, ends[first], ends[min(first + length, len(ends) - 1)])
        size = max(1, round(volume.height * float(rng.choice(PART_SHARES))))
        start = int(rng.integers(0, volume.height - size + 1))
        yield part_point(volume, Interval(start, start + size))


def plan_parts(graph: LayerGraph, plan: Plan) -> Iterator[PartPoint]:
    """All split-parts of a plan; raises `PlanError` if it is not for this model."""
    for volume, chosen in zip(plan.bind(graph).volumes, plan.volumes, strict=True):
        for a, b in zip(chosen.cuts[:-1], chosen.cuts[1:], strict=True):
            if b > a:
                yield part_point(volume, Interval(a, b))


def piece_of(source: OnnxSource, graph: LayerGraph, point: Point) -> Piece:
    """The ONNX model of a point."""
    if isinstance(point, PartPoint):
        model = part_model(source, point.volume, point.out)
    elif isinstance(point, LayerPoint):
        at = graph.index[point.layer.name]
        first = (point.layer.height - point.rows) // 2
        model = part_model(source, Volume(graph, at, at + 1), Interval(first, first + point.rows))
    else:
        model = head_model(source, graph)
    return Piece(point.title, model, source.folder)
