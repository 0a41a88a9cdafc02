"""A bound plan as what each provider has to do for every image. Pure; providers need neither plan nor geometry."""

from __future__ import annotations

from distredge.geometry.interval import Interval
from distredge.plans.plan import BoundPlan
from distredge.runtime.message import Rows, Send, Stage

Shape = tuple[int, int, int]


def assignments(bound: BoundPlan) -> dict[str, tuple[Stage, ...]]:
    """The stages of each provider that has any, in order of boundary; the head's is the last."""
    providers = bound.plan.providers
    boundaries = range(len(bound.volumes) + 1)
    stages = {name: tuple(s for v in boundaries if (s := _stage(bound, v, i))) for i, name in enumerate(providers)}
    return {name: own for name, own in stages.items() if own}


def image_rows(bound: BoundPlan) -> tuple[Send, ...]:
    """Which rows of the image go to which provider, in ascending order of place."""
    return _sends(bound, 0, Interval(0, bound.graph.input_shape[2]), without=None)


def _stage(bound: BoundPlan, boundary: int, place: int) -> Stage | None:
    """What the provider at `place` does at a boundary; None if nothing."""
    want = _needs(bound, boundary, place)
    if not want.size:
        return None
    in_shape = _shape(bound, boundary, want)
    if boundary == len(bound.volumes):
        return Stage(boundary, None, _rows(want), in_shape, (0, 0), None, (0, 0), ())
    volume, out = bound.volumes[boundary], bound.owned(boundary, place)
    return Stage(
        boundary=boundary,
        layers=(volume.start, volume.stop),
        input=_rows(want),
        in_shape=in_shape,
        output=_rows(out),
        out_shape=_shape(bound, boundary + 1, out),
        keep=_rows(out.overlap(_needs(bound, boundary + 1, place))),
        sends=_sends(bound, boundary + 1, out, without=place),
    )


def _sends(bound: BoundPlan, boundary: int, there: Interval, without: int | None) -> tuple[Send, ...]:
    """To each provider but one, what it needs at a boundary of the rows that are there."""
    shares = ((i, there.overlap(_needs(bound, boundary, i))) for i in range(len(bound.plan.providers)) if i != without)
    return tuple(Send(bound.plan.providers[i], _rows(rows)) for i, rows in shares if rows.size)


def _needs(bound: BoundPlan, boundary: int, place: int) -> Interval:
    """Rows that a provider needs of the tensor at a boundary; behind the last volume the head takes all."""
    if boundary < len(bound.volumes):
        return bound.needs(boundary, place)
    is_head = bound.plan.providers[place] == bound.plan.head_provider
    return Interval(0, bound.volumes[-1].height if is_head else 0)


def _shape(bound: BoundPlan, boundary: int, rows: Interval) -> Shape:
    """Shape of some rows of the tensor at a boundary."""
    if boundary == 0:
        _, channels, _, width = bound.graph.input_shape
    else:
        channels, _, width = bound.graph.layers[bound.volumes[boundary - 1].stop - 1].out_shape
    return channels, rows.size, width


def _rows(rows: Interval) -> Rows:
    return (rows.start, rows.stop) if rows.size else (0, 0)
