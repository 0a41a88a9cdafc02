"""The vertical-splitting law: by hand, and on random graphs row by row."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.geometry.interval import Interval
from distredge.geometry.receptive import needed, needed_starts, needed_stops, unclipped
from distredge.geometry.split import Volume, parts
from distredge.model.graph import LayerGraph
from distredge.model.layer import INPUT, Window
from distredge.model.load import load_model
from distredge.testing.toy_models import random_model, save_model

windows = st.builds(
    Window, kernel=st.integers(1, 5), stride=st.integers(1, 4), dilation=st.integers(1, 3), pad_top=st.integers(0, 6)
)


@pytest.mark.parametrize(
    ("window", "out", "height", "expected"),
    [
        (Window(3, 1, 1, 1), Interval(0, 4), 10, Interval(0, 5)),  # top border: one row of padding is not needed
        (Window(3, 1, 1, 1), Interval(4, 7), 10, Interval(3, 8)),  # Eq. 1: (3 - 1) * 1 + 3 = 5 rows
        (Window(3, 1, 1, 1), Interval(7, 10), 10, Interval(6, 10)),
        (Window(2, 2), Interval(3, 5), 10, Interval(6, 10)),  # pooling: no halo
        (Window(7, 2, 1, 3), Interval(1, 3), 20, Interval(0, 8)),  # (2 - 1) * 2 + 7 = 9 rows from -1, one is padding
        (Window(3, 1, 2, 2), Interval(5, 6), 12, Interval(3, 8)),  # dilation 2 reaches five rows
        (Window(1, 3), Interval(1, 3), 9, Interval(3, 7)),  # stride over kernel: rows between are read over
        (Window(2, 1, 1, 5), Interval(0, 2), 8, Interval(0, 1)),  # wholly in padding: the border row, ignored
    ],
)
def test_needed_rows_by_hand(window: Window, out: Interval, height: int, expected: Interval) -> None:
    assert needed(window, out, height) == expected


@given(window=windows, start=st.integers(0, 30), size=st.integers(1, 10), height=st.integers(1, 60))
def test_needed_is_what_is_read(window: Window, start: int, size: int, height: int) -> None:
    out = Interval(start, start + size)
    read = {o * window.stride - window.pad_top + i * window.dilation for o in range(*out) for i in range(window.kernel)}
    inside = {r for r in read if 0 <= r < height}
    rows = needed(window, out, height)
    assert 0 <= rows.start < rows.stop <= height
    assert inside <= set(range(*rows))
    if inside:
        assert rows == Interval(min(inside), max(inside) + 1) or min(read) < 0 or max(read) >= height
    assert unclipped(window, out) == Interval(min(read), max(read) + 1)


def random_graph(seed: int) -> LayerGraph:
    with tempfile.TemporaryDirectory() as folder:
        return load_model(save_model(random_model(np.random.default_rng(seed)), Path(folder)))


def random_volume(graph: LayerGraph, rng: np.random.Generator) -> Volume:
    ends = [*graph.partition_points, len(graph.layers)]
    a, b = sorted(rng.choice(len(ends), 2, replace=False))
    return Volume(graph, ends[a], ends[b])


@given(seed=st.integers(0, 50_000))
@settings(max_examples=60)
def test_parts_tile_the_output_and_hold_what_their_layers_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(seed)
    volume = random_volume(graph, rng)
    cuts = tuple([0, *sorted(int(c) for c in rng.integers(0, volume.height + 1, 3)), volume.height])
    made = parts(volume, cuts)
    covered = [row for part in made if part is not None for row in range(*part.rows[-1])]
    assert covered == list(range(volume.height))
    for part in made:
        if part is None:
            continue
        have = {layer.name: rows for layer, rows in zip(volume.layers, part.rows, strict=True)}
        for layer, rows in zip(volume.layers, part.rows, strict=True):
            assert 0 <= rows.start < rows.stop <= layer.height
            for source in layer.inputs:
                inside = source.source in have
                held = have[source.source] if inside else part.input
                height = graph.layers[graph.index[source.source]].height if inside else volume.input_height
                want = needed(source.window, rows, height)
                assert held.start <= want.start
                assert want.stop <= held.stop


@given(seed=st.integers(0, 50_000))
@settings(max_examples=60)
def test_tables_say_what_part_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = random_volume(random_graph(seed), rng)
    starts, stops = volume.tables
    for _ in range(5):
        a, b = sorted(int(x) for x in rng.integers(0, volume.height + 1, 2))
        if a == b:
            continue
        part = volume.part(Interval(a, b))
        assert part.input == Interval(starts[0, a], stops[0, b])
        assert part.rows == tuple(Interval(starts[i + 1, a], stops[i + 1, b]) for i in range(len(volume.layers)))


@given(window=windows, height=st.integers(1, 40), out_height=st.integers(1, 40))
def test_starts_and_stops_are_monotone(window: Window, height: int, out_height: int) -> None:
    edges = np.arange(out_height + 1)
    assert (np.diff(needed_starts(window, edges, height)) >= 0).all()
    assert (np.diff(needed_stops(window, edges, height)) >= 0).all()


def test_the_whole_model_in_one_part_computes_every_row_that_is_read() -> None:
    graph = load_model("resnet50")
    volume = Volume(graph, 0, len(graph.layers))
    part = volume.part(Interval(0, volume.height))
    assert part.input == Interval(0, 224)
    stride_two_shortcuts = {layer.name for layer in graph.layers if layer.stride[0] == 2 and layer.kernel[0] == 1}
    assert stride_two_shortcuts
    assert [r.size for r in part.rows] == [layer.height for layer in volume.layers]
    assert graph.layers[0].inputs[0].source == INPUT
