"""The vertical-splitting law: by hand, and on random graphs row by row."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume, parts
from distredge.model.graph import LayerGraph
from distredge.model.layer import INPUT
from distredge.model.load import load_model
from distredge.model.rows import EVERYTHING, Listed, RowMap, Spread, Window
from distredge.testing.branchy_models import branchy_model
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import save_model

windows = st.builds(
    Window, kernel=st.integers(1, 5), stride=st.integers(1, 4), dilation=st.integers(1, 3), pad_top=st.integers(-3, 6)
)
spreads = st.builds(Spread, extent=st.integers(1, 9), stride=st.integers(1, 4), pad_top=st.integers(-3, 6))
models = pytest.mark.parametrize("make", [random_model, branchy_model])


def needed(reads: RowMap, out: Interval, height: int) -> Interval:
    return Interval(
        int(reads.starts(np.array([out.start]), height)[0]), int(reads.stops(np.array([out.stop]), height)[0])
    )


@pytest.mark.parametrize(
    ("reads", "out", "height", "expected"),
    [
        (Window(3, 1, 1, 1), Interval(0, 4), 10, Interval(0, 5)),  # top border: one row of padding is not needed
        (Window(3, 1, 1, 1), Interval(4, 7), 10, Interval(3, 8)),  # Eq. 1: (3 - 1) * 1 + 3 = 5 rows
        (Window(3, 1, 1, 1), Interval(7, 10), 10, Interval(6, 10)),
        (Window(2, 2), Interval(3, 5), 10, Interval(6, 10)),  # pooling: no halo
        (Window(7, 2, 1, 3), Interval(1, 3), 20, Interval(0, 8)),  # (2 - 1) * 2 + 7 = 9 rows from -1, one is padding
        (Window(3, 1, 2, 2), Interval(5, 6), 12, Interval(3, 8)),  # dilation 2 reaches five rows
        (Window(1, 3), Interval(1, 3), 9, Interval(3, 7)),  # stride over kernel: rows between are read over
        (Window(2, 1, 1, 5), Interval(0, 2), 8, Interval(0, 1)),  # wholly in padding: the border row, ignored
        (Spread(4, 2, 1), Interval(0, 2), 5, Interval(0, 2)),  # row 1 is reached by the input rows 0 and 1
        (Spread(4, 2, 1), Interval(4, 6), 5, Interval(1, 4)),  # row 4 by 1 and 2, row 5 by 2 and 3
        (Spread(4, 2, 1), Interval(8, 10), 5, Interval(3, 5)),  # bottom border: there is no row 5
        (Spread(2, 2), Interval(3, 5), 6, Interval(1, 3)),  # kernel and stride alike: no overlap
        (Spread(3, 1, 1), Interval(4, 7), 10, Interval(3, 8)),  # stride 1: as a convolution
        (Spread(1, 3), Interval(1, 3), 4, Interval(0, 1)),  # reached by no row: the row before, ignored
        (Spread(1, 3), Interval(2, 7), 4, Interval(0, 3)),
        (Listed((0, 0, 1, 1, 2), (1, 1, 2, 2, 3)), Interval(1, 3), 4, Interval(0, 3)),
        (Listed((2, 1, 0, 1), (2, 1, 0, 1)), Interval(0, 1), 3, Interval(0, 3)),  # mirrored: no more than all up to it
        (EVERYTHING, Interval(3, 4), 9, Interval(0, 9)),
    ],
)
def test_needed_rows_by_hand(reads: RowMap, out: Interval, height: int, expected: Interval) -> None:
    assert needed(reads, out, height) == expected


def check_needed(reads: RowMap, read: set[int], out: Interval, height: int) -> None:
    """The needed rows are the hull of those that are read, padding included, brought into the input."""
    rows = needed(reads, out, height)
    assert 0 <= rows.start < rows.stop <= height
    assert {r for r in read if 0 <= r < height} <= set(range(*rows))
    assert rows == Interval(min(max(min(read), 0), height - 1), max(min(max(read) + 1, height), 1))


@given(window=windows, start=st.integers(0, 30), size=st.integers(1, 10), height=st.integers(1, 60))
def test_needed_is_what_is_read(window: Window, start: int, size: int, height: int) -> None:
    out = Interval(start, start + size)
    read = {o * window.stride - window.pad_top + i * window.dilation for o in range(*out) for i in range(window.kernel)}
    check_needed(window, read, out, height)


@given(spread=spreads, start=st.integers(0, 30), size=st.integers(1, 10), height=st.integers(1, 60))
def test_needed_is_what_is_spread(spread: Spread, start: int, size: int, height: int) -> None:
    """Rows that are reached by none count to the last row that is spread before them."""
    out = Interval(start, start + size)
    reached: dict[int, set[int]] = {o: set() for o in range(*out)}
    for i in range(-20, 60):
        for o in set(range(i * spread.stride - spread.pad_top, i * spread.stride - spread.pad_top + spread.extent)):
            if o in reached:
                reached[o].add(i)
    before = {o: max(i for i in range(-20, 60) if i * spread.stride - spread.pad_top <= o) for o in reached}
    check_needed(spread, set().union(*(rows or {before[o]} for o, rows in reached.items())), out, height)


@given(data=st.data(), height=st.integers(1, 20), out_height=st.integers(1, 20))
def test_needed_holds_what_is_listed(data: st.DataObject, height: int, out_height: int) -> None:
    pairs = [sorted(data.draw(st.tuples(*[st.integers(0, height - 1)] * 2))) for _ in range(out_height)]
    listed = Listed(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
    start, stop = sorted(data.draw(st.sets(st.integers(0, out_height), min_size=2, max_size=2)))
    rows = needed(listed, Interval(start, stop), height)
    assert 0 <= rows.start < rows.stop <= height
    assert all(rows.start <= a and b < rows.stop for a, b in pairs[start:stop])
    edges = np.arange(out_height + 1)
    assert (np.diff(listed.starts(edges, height)) >= 0).all()
    assert (np.diff(listed.stops(edges, height)) >= 0).all()


def random_graph(make: Callable[..., onnx.ModelProto], seed: int) -> LayerGraph:
    with tempfile.TemporaryDirectory() as folder:
        return load_model(save_model(make(np.random.default_rng(seed)), Path(folder)))


def random_volume(graph: LayerGraph, rng: np.random.Generator) -> Volume:
    ends = [*graph.cut_points, len(graph.layers)]
    a, b = sorted(rng.choice(len(ends), 2, replace=False))
    return Volume(graph, ends[a], ends[b])


def read_by_the_last(volume: Volume) -> set[str]:
    """Names of the volume's layers that its last layer depends on, and its own."""
    found = {volume.layers[-1].name}
    for layer in reversed(volume.layers):
        if layer.name in found:
            found.update(source.source for source in layer.inputs)
    return found


@models
@given(seed=st.integers(0, 50_000))
@settings(max_examples=60)
def test_parts_tile_the_outputs_and_hold_what_their_layers_read(
    make: Callable[..., onnx.ModelProto], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(make, seed)
    volume = random_volume(graph, rng)
    cuts = tuple([0, *sorted(int(c) for c in rng.integers(0, volume.height + 1, 3)), volume.height])
    made = parts(volume, cuts)
    assert volume.leaving[-1] == volume.stop - 1
    for k, i in enumerate(volume.leaving):
        owned = [row for part in made if part is not None for row in range(*part.outputs[k])]
        assert owned == list(range(graph.layers[i].height))
    never_empty = read_by_the_last(volume)
    for part in made:
        if part is None:
            continue
        assert part.rows[-1] == (Interval(0, volume.height) if volume.layers[-1].whole else part.outputs[-1])
        have = {layer.name: rows for layer, rows in zip(volume.layers, part.rows, strict=True)}
        index = {INPUT: -1, **{layer.name: i for i, layer in enumerate(graph.layers)}}
        entering = dict(zip(volume.entering, part.inputs, strict=True))
        for i, rows in zip(volume.leaving, part.outputs, strict=True):
            assert not rows.size or rows == rows.overlap(have[graph.layers[i].name])
        for layer, rows in zip(volume.layers, part.rows, strict=True):
            assert 0 <= rows.start <= rows.stop <= layer.height
            if layer.name in never_empty:
                assert rows.size
            if not rows.size:
                continue
            for source in layer.inputs:
                i = index[source.source]
                held = have[source.source] if i >= volume.start else entering[i]
                want = needed(source.reads, rows, graph.shape(i)[1])
                assert held.start <= want.start
                assert want.stop <= held.stop


@models
@given(seed=st.integers(0, 50_000))
@settings(max_examples=60)
def test_tables_say_what_part_says(make: Callable[..., onnx.ModelProto], seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = random_volume(random_graph(make, seed), rng)
    starts, stops = volume.tables
    for _ in range(5):
        a, b = sorted(int(x) for x in rng.integers(0, volume.height + 1, 2))
        if a == b:
            continue
        part = volume.part(Interval(a, b))
        rows = [Interval(int(s), max(int(s), int(e))) for s, e in zip(starts[:, a], stops[:, b], strict=True)]
        assert [*part.inputs, *part.rows] == rows
        assert part.outputs == tuple(volume.owned(i, Interval(a, b)) for i in volume.leaving)


@given(reads=st.one_of(windows, spreads), height=st.integers(1, 40), out_height=st.integers(1, 40))
def test_starts_and_stops_are_monotone(reads: RowMap, height: int, out_height: int) -> None:
    edges = np.arange(out_height + 1)
    assert (np.diff(reads.starts(edges, height)) >= 0).all()
    assert (np.diff(reads.stops(edges, height)) >= 0).all()


@given(seed=st.integers(0, 50_000))
@settings(max_examples=30)
def test_what_leaves_beside_the_last_layer_is_cut_at_the_same_fraction(seed: int) -> None:
    volume = random_volume(random_graph(branchy_model, seed), np.random.default_rng(seed))
    for i in volume.leaving:
        height = volume.graph.layers[i].height
        cuts = volume.cut_rows(i)
        assert cuts[0] == 0 and cuts[-1] == height
        assert np.abs(cuts - np.arange(volume.height + 1) * height / volume.height).max() <= 0.5


def test_several_tensors_cross_a_branchy_model() -> None:
    """What the tests above are about does occur."""
    graphs = [random_graph(branchy_model, seed) for seed in range(20)]
    volumes = [Volume(g, p, len(g.layers)) for g in graphs for p in g.cut_points]
    assert sum(len(volume.entering) > 1 for volume in volumes) >= 20
    assert all(g.to_requester and len(g.head.outputs) > 1 for g in graphs)
    assert sum(len(g.to_head) > 1 and max(g.to_head) < len(g.layers) - 1 for g in graphs) >= 5


def test_the_whole_model_in_one_part_computes_every_row_that_is_read() -> None:
    graph = load_model("resnet50")
    volume = Volume(graph, 0, len(graph.layers))
    part = volume.part(Interval(0, volume.height))
    assert part.inputs == (Interval(0, 224),)
    assert part.outputs == (Interval(0, volume.height),)
    stride_two_shortcuts = {layer.name for layer in graph.layers if layer.stride[0] == 2 and layer.kernel[0] == 1}
    assert stride_two_shortcuts
    assert [r.size for r in part.rows] == [layer.height for layer in volume.layers]
    assert graph.layers[0].inputs[0].source == INPUT
