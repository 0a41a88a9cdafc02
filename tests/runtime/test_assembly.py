"""Assignments send every provider exactly the rows that it needs, and their assembly is the tensor."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.engine.base import FloatRows
from distredge.geometry.interval import Interval
from distredge.model.load import load_model
from distredge.runtime.assembly import MAX_IN_FLIGHT, Assembly
from distredge.runtime.assignment import assignments, image_rows
from distredge.runtime.message import MessageError, RowsChunk, Stage
from distredge.testing.providers import random_plan
from distredge.testing.toy_models import random_model, save_model

NEEDS = Stage(2, (0, 1), (10, 17), (3, 7, 5), (4, 6), (3, 2, 5), (0, 0), ())


def assembly() -> tuple[Assembly, list[tuple[int, int, FloatRows]]]:
    done: list[tuple[int, int, FloatRows]] = []
    return Assembly([NEEDS], "float32", lambda *ready: done.append(ready)), done


def chunks(frame: int, rows: tuple[int, int], block: FloatRows, size: int) -> list[tuple[RowsChunk, bytes]]:
    data = block.tobytes()
    return [(RowsChunk("s", frame, 2, rows, o, 1.0), data[o : o + size]) for o in range(0, len(data), size)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sets(st.integers(11, 16)))
def test_blocks_in_any_order_are_the_whole_input(seed: int, chunk_bytes: int, cuts: set[int]) -> None:
    tensor = np.random.default_rng(seed).standard_normal((1, 3, 7, 5)).astype(np.float32)
    edges = [10, *sorted(cuts), 17]
    streams = [
        chunks(0, (a, b), np.ascontiguousarray(tensor[:, :, a - 10 : b - 10]), chunk_bytes)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    kept, *arriving = streams if len(streams) > 1 else [None, *streams]
    gathering, done = assembly()
    if kept:
        first, stop = kept[0][0].rows
        gathering.add_rows(0, 2, Interval(first, stop), tensor[:, :, first - 10 : stop - 10])
    order = random.Random(seed)
    while arriving:
        stream = order.choice(arriving)
        gathering.add_chunk(*stream.pop(0))
        arriving = [s for s in arriving if s]
        assert bool(done) == (not arriving)
    assert done[0][:2] == (0, 2)
    np.testing.assert_array_equal(done[0][2], tensor)


@pytest.mark.parametrize(
    ("chunk", "payload"),
    [
        (RowsChunk("s", 0, 1, (10, 12), 0, 1.0), b"x"),
        (RowsChunk("s", 0, 2, (9, 12), 0, 1.0), b"x"),
        (RowsChunk("s", 0, 2, (16, 18), 0, 1.0), b"x"),
        (RowsChunk("s", 0, 2, (12, 12), 0, 1.0), b"x"),
        (RowsChunk("s", 0, 2, (10, 12), 4, 1.0), b"x"),
        (RowsChunk("s", 0, 2, (10, 12), 0, 1.0), bytes(121)),
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
        gathering.add_rows(frame, 2, Interval(10, 11), row)
    with pytest.raises(MessageError, match="frames"):
        gathering.add_rows(MAX_IN_FLIGHT, 2, Interval(10, 11), row)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
@settings(max_examples=60)
def test_every_needed_row_comes_from_exactly_one_place(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        bound = random_plan(rng, load_model(save_model(random_model(rng), Path(folder))), names)
    work = assignments(bound)
    coming: dict[tuple[str, int], list[int]] = {}
    for send in image_rows(bound):
        coming.setdefault((send.peer, 0), []).extend(range(*send.rows))
    for name, stages in work.items():
        for stage in stages:
            coming.setdefault((name, stage.boundary + 1), []).extend(range(*stage.keep))
            for send in stage.sends:
                coming.setdefault((send.peer, stage.boundary + 1), []).extend(range(*send.rows))
    coming = {key: sorted(rows) for key, rows in coming.items() if rows}
    wanted = {(name, s.boundary): list(range(*s.input)) for name, stages in work.items() for s in stages}
    assert coming == wanted
    assert [n for n, stages in work.items() if stages[-1].layers is None] == [bound.plan.head_provider]
