"""A bound plan as what each provider has to do for every image. Pure; providers need neither plan nor geometry."""

from __future__ import annotations

from distredge.geometry.interval import Interval
from distredge.model.graph import IMAGE
from distredge.plans.plan import BoundPlan
from distredge.runtime.message import Piece, Rows, Send, Stage
from distredge.scenario import REQUESTER


def assignments(bound: BoundPlan) -> dict[str, tuple[Stage, ...]]:
    """The stages of each provider that has any, in order of boundary; the head's is the last."""
    stages = {name: _stages(bound, i) for i, name in enumerate(bound.plan.providers)}
    return {name: own for name, own in stages.items() if own}


def image_rows(bound: BoundPlan) -> tuple[Send, ...]:
    """Which rows of the image go to which provider, in order of boundary and of place."""
    return tuple(
        Send(name, v, IMAGE, _rows(rows))
        for v in range(len(bound.volumes))
        for j, name in enumerate(bound.plan.providers)
        if (rows := bound.needs(v, j).get(IMAGE, Interval(0, 0))).size
    )


def results(bound: BoundPlan) -> tuple[Piece, ...]:
    """The tensors that come to the requester as rows, from the providers that computed them."""
    return tuple(_piece(bound, i, Interval(0, bound.graph.shape(i)[1])) for i in sorted(bound.graph.to_requester))


def _stages(bound: BoundPlan, place: int) -> tuple[Stage, ...]:
    """What the provider at `place` does, one stage after the other."""
    volumes = len(bound.volumes)
    own = [v for v in range(volumes) if bound.part(v, place)]
    head = [volumes] if bound.graph.head.nodes and bound.plan.providers[place] == bound.plan.head_provider else []
    sends: dict[int, list[Send]] = {v: [] for v in own}
    for boundary in range(1, volumes + 2):
        for send in _sends(bound, boundary, place):
            # What this provider needs itself it keeps at once; the rest leaves with its last part before the boundary.
            made = bound.volume_of(send.layer)
            sends[made if not send.peer else max(v for v in own if v < boundary)].append(send)
    last_sent = {layer: v for v in own for layer in bound.volumes[v].leaving}
    last_sent |= {send.layer: v for v in own for send in sends[v]}
    stages = [_part_stage(bound, v, place, tuple(sends[v]), last_sent) for v in own]
    return (*stages, *(_head_stage(bound, place) for _ in head))


def _sends(bound: BoundPlan, boundary: int, place: int) -> list[Send]:
    """What a provider has of the tensors that other nodes, or itself, need at a boundary, in order of receivers.

    What only the head or the requester needs counts at the boundary behind the volume that makes it.
    """
    names, volumes = bound.plan.providers, len(bound.volumes)
    found = []
    if boundary < volumes:
        for j, name in enumerate(names):
            for layer, rows in bound.needs(boundary, j).items():
                held = bound.held(layer, place).overlap(rows) if layer != IMAGE else Interval(0, 0)
                if held.size:
                    found.append(Send("" if j == place else name, boundary, layer, _rows(held)))
    leaving = bound.volumes[boundary - 1].leaving if boundary <= volumes else ()
    for layer in leaving:
        held = bound.held(layer, place)
        if not held.size:
            continue
        if layer in bound.graph.to_head:
            mine = names[place] == bound.plan.head_provider
            found.append(Send("" if mine else bound.plan.head_provider, volumes, layer, _rows(held)))
    for layer in leaving:
        held = bound.held(layer, place)
        if held.size and layer in bound.graph.to_requester:
            found.append(Send(REQUESTER, volumes + 1, layer, _rows(held)))
    return found


def _part_stage(bound: BoundPlan, v: int, place: int, sends: tuple[Send, ...], last_sent: dict[int, int]) -> Stage:
    volume, out, part = bound.volumes[v], bound.owned(v, place), bound.part(v, place)
    assert part is not None
    return Stage(
        boundary=v,
        layers=(volume.start, volume.stop),
        out=_rows(out),
        inputs=tuple(_piece(bound, i, rows) for i, rows in bound.needs(v, place).items()),
        outputs=tuple(_piece(bound, i, rows) for i, rows in zip(volume.leaving, part.outputs, strict=True)),
        sends=sends,
        frees=tuple(sorted(layer for layer, at in last_sent.items() if at == v)),
    )


def _head_stage(bound: BoundPlan, place: int) -> Stage:
    volumes = len(bound.volumes)
    order = {bound.graph.index[name]: k for k, name in enumerate(bound.graph.head.inputs)}
    needs = sorted(bound.needs(volumes, place).items(), key=lambda item: order[item[0]])
    return Stage(volumes, None, (0, 0), tuple(_piece(bound, i, rows) for i, rows in needs), (), (), ())


def _piece(bound: BoundPlan, layer: int, rows: Interval) -> Piece:
    channels, _, width = bound.graph.shape(layer)
    return Piece(layer, _rows(rows), (channels, rows.size, width))


def _rows(rows: Interval) -> Rows:
    return (rows.start, rows.stop) if rows.size else (0, 0)
