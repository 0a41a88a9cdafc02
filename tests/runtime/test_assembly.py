"""Assignments send every provider exactly the rows that it needs, and their assembly is the tensor."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.engine.base import FloatRows
from distredge.geometry.interval import Interval
from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan
from distredge.runtime.assembly import MAX_IN_FLIGHT, Assembly
from distredge.runtime.assignment import assignments, image_rows, results
from distredge.runtime.message import MessageError, Piece, RowsChunk
from distredge.scenario import REQUESTER
from distredge.testing.branchy_models import branchy_model
from distredge.testing.providers import random_plan
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import save_model

NEEDS = (Piece(-1, (10, 17), (3, 7, 5)), Piece(4, (2, 4), (2, 2, 3)), Piece(6, (0, 0), (2, 0, 3)))
"""Two tensors of which rows are needed, and one of which none are."""

Done = list[tuple[int, int, list[FloatRows]]]


def assembly(values: bool = True) -> tuple[Assembly, Done]:
    done: Done = []
    return Assembly({2: NEEDS}, "float32", lambda *ready: done.append(ready), values), done


def chunks(frame: int, layer: int, rows: tuple[int, int], block: FloatRows, size: int) -> list[tuple[RowsChunk, bytes]]:
    data = block.tobytes()
    return [
        (RowsChunk("s", "a", 1, frame, 2, layer, rows, o, 1.0), data[o : o + size]) for o in range(0, len(data), size)
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sets(st.integers(11, 16)), st.booleans())
def test_blocks_in_any_order_are_the_whole_input(seed: int, chunk_bytes: int, cuts: set[int], values: bool) -> None:
    rng = np.random.default_rng(seed)
    tensors = [rng.standard_normal((1, *piece.shape)).astype(np.float32) for piece in NEEDS]
    edges = [10, *sorted(cuts), 17]
    blocks = [(-1, a, b, tensors[0][:, :, a - 10 : b - 10]) for a, b in zip(edges, edges[1:], strict=False)]
    blocks += [(4, a, a + 1, tensors[1][:, :, a - 2 : a - 1]) for a in (2, 3)]
    gathering, done = assembly(values)
    if len(blocks) > 3:  # what a provider makes itself
        layer, first, stop, block = blocks.pop(0)
        gathering.add_rows(0, 2, layer, Interval(first, stop), block)
    arriving = [chunks(0, layer, (a, b), np.ascontiguousarray(block), 4 * chunk_bytes) for layer, a, b, block in blocks]
    order = random.Random(seed)
    while arriving:
        stream = order.choice(arriving)
        gathering.add_chunk(*stream.pop(0))
        arriving = [s for s in arriving if s]
        assert bool(done) == (not arriving)
    assert len(done) == 1 and done[0][:2] == (0, 2)
    for got, tensor in zip(done[0][2], tensors, strict=True):
        np.testing.assert_array_equal(got, tensor if values else np.zeros_like(tensor))


@pytest.mark.parametrize(
    ("chunk", "payload"),
    [
        (RowsChunk("s", "a", 1, 0, 1, -1, (10, 12), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, 5, (10, 12), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, 4, (10, 12), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, 6, (0, 1), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, -1, (9, 12), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, -1, (16, 18), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, -1, (12, 12), 0, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, -1, (10, 12), 4, 1.0), b"x"),
        (RowsChunk("s", "a", 1, 0, 2, -1, (10, 12), 0, 1.0), bytes(121)),
    ],
)
def test_rows_that_nobody_wants_are_refused(chunk: RowsChunk, payload: bytes) -> None:
    gathering, done = assembly()
    with pytest.raises(MessageError):
        gathering.add_chunk(chunk, payload)
    assert not done


def test_memory_is_bounded() -> None:
    gathering, _ = assembly()
    row = np.zeros((1, 3, 1, 5), np.float32)
    for frame in range(MAX_IN_FLIGHT):
        gathering.add_rows(frame, 2, -1, Interval(10, 11), row)
    with pytest.raises(MessageError, match="frames"):
        gathering.add_rows(MAX_IN_FLIGHT, 2, -1, Interval(10, 11), row)


def some_plan(make: Callable[..., onnx.ModelProto], seed: int, count: int) -> BoundPlan:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        return random_plan(rng, load_model(save_model(make(rng), Path(folder))), [f"p{i}" for i in range(count)])


models = pytest.mark.parametrize("make", [random_model, branchy_model])


@models
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
@settings(max_examples=60)
def test_every_needed_row_comes_from_exactly_one_place(
    make: Callable[..., onnx.ModelProto], seed: int, count: int
) -> None:
    bound = some_plan(make, seed, count)
    work, graph, volumes = assignments(bound), bound.graph, len(bound.volumes)
    coming: dict[tuple[str, int, int], list[int]] = {}
    for send in image_rows(bound):
        coming.setdefault((send.peer, send.boundary, send.layer), []).extend(range(*send.rows))
    for name, stages in work.items():
        for stage in stages:
            for send in stage.sends:
                assert send.boundary > stage.boundary and send.peer != name
                key = (send.peer or name, send.boundary, send.layer)
                coming.setdefault(key, []).extend(range(*send.rows))
    coming = {key: sorted(rows) for key, rows in coming.items() if rows}
    wanted = {
        (name, stage.boundary, piece.layer): list(range(*piece.rows))
        for name, stages in work.items()
        for stage in stages
        for piece in stage.inputs
        if piece.shape[1]
    }
    made = {graph.index[output.layer] for output in graph.head.outputs if output.layer is not None}
    wanted |= {(REQUESTER, volumes + 1, i): list(range(graph.shape(i)[1])) for i in made}
    assert coming == wanted
    assert {piece.layer: piece.rows for piece in results(bound)} == {i: (0, graph.shape(i)[1]) for i in made}
    heads = [n for n, stages in work.items() if stages[-1].layers is None]
    assert heads == ([bound.plan.head_provider] if graph.head.nodes else [])
    for name in heads:
        assert tuple(graph.layers[piece.layer].name for piece in work[name][-1].inputs) == graph.head.inputs


@models
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
@settings(max_examples=60)
def test_rows_are_sent_from_what_is_held_and_nothing_is_held_for_good(
    make: Callable[..., onnx.ModelProto], seed: int, count: int
) -> None:
    bound = some_plan(make, seed, count)
    for stages in assignments(bound).values():
        held: dict[int, tuple[int, int]] = {}
        for stage in stages:
            for piece in (*stage.inputs, *stage.outputs):
                channels, _, width = bound.graph.shape(piece.layer)
                assert piece.shape == (channels, piece.rows[1] - piece.rows[0], width)
            held.update((piece.layer, piece.rows) for piece in stage.outputs)
            for send in stage.sends:
                first, stop = held[send.layer]
                assert first <= send.rows[0] < send.rows[1] <= stop
            for layer in stage.frees:
                del held[layer]
        assert not held


@models
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
@settings(max_examples=60)
def test_no_message_is_empty(make: Callable[..., onnx.ModelProto], seed: int, count: int) -> None:
    bound = some_plan(make, seed, count)
    sends = [*image_rows(bound)]
    sends += [send for stages in assignments(bound).values() for stage in stages for send in stage.sends]
    assert all(send.rows[0] < send.rows[1] for send in sends)
