"""Exporting a profile: the CSV says what plans are made with, and is read back as it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cli.main import run
from distredge.errors import ProfileMissingError
from distredge.measure.export import Row, exported, to_csv
from distredge.measure.imports import import_profile
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.store import load_profile
from distredge.profiles.table import TableProfile
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import chain, residual, save_model


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path))


def imported(rows: list[Row], graph: LayerGraph, folder: Path) -> TableProfile:
    path = folder / "exported.csv"
    path.write_text(to_csv(rows))
    file = import_profile([path], graph, format="csv", name="again")
    file.save(folder / "again.json")
    return TableProfile.load(folder / "again.json")


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    granularity=st.integers(1, 40),
    board=st.sampled_from(["jetson-nano", "jetson-agx-xavier", "raspberry-pi-3b"]),
)
def test_what_is_exported_is_imported_with_equal_latencies(
    seed: int, granularity: int, board: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("export")
    graph = load_model(save_model(random_model(np.random.default_rng(seed)), folder))
    rows = list(exported(load_profile(board), graph, granularity))
    again = list(exported(imported(rows, graph, folder), graph, granularity))
    assert [row[:2] for row in again] == [row[:2] for row in rows]
    signatures = {layer.name: layer.signature for layer in graph.layers} | {"head": "head"}
    alike: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        alike.setdefault((signatures[row.layer], row.rows), []).append(row.median_ms)
    for row in again:  # what a profile knows by one signature has one latency
        told = alike[signatures[row.layer], row.rows]
        assert min(told) <= row.median_ms <= max(told)
    for layer in graph.layers:
        known = [row.rows for row in rows if row.layer == layer.name and row.rows]
        assert known == sorted({1, *range(granularity, layer.height + 1, granularity), layer.height})
    heads = [row for row in rows if row.rows == 0]
    assert [row.layer for row in heads] == (["head"] if graph.head.nodes else [])


def test_a_measured_profile_is_exported_as_plans_see_it(graph: LayerGraph, tmp_path: Path) -> None:
    lines = [f"{layer.name},{rows},{rows / 7 + 0.1}\n" for layer in graph.layers for rows in (1, layer.height)]
    path = tmp_path / "figures.csv"
    path.write_text(f"layer,rows,median_ms\n{''.join(lines)}head,0,0.3\n")
    file = import_profile([path], graph, format="csv", name="here")
    rows = list(exported(TableProfile(file), graph))
    assert len(rows) == sum(layer.height for layer in graph.layers) + 1
    assert rows[11].median_ms == pytest.approx(12 / 7 + 0.1), "on the line between what was measured"
    assert rows[-1] == Row("head", 0, 0.3)


def test_a_layer_that_was_not_measured_is_named(graph: LayerGraph, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = load_model(save_model(residual(np.random.default_rng(0)), tmp_path / "other"))
    profile = imported(list(exported(load_profile("jetson-nano"), graph)), graph, tmp_path)
    with pytest.raises(ProfileMissingError, match="layer 'a1'"):
        list(exported(profile, other))


def test_the_command_writes_a_file_or_prints(
    graph: LayerGraph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["profile-export", "jetson-nano", "--model", str(graph.path), "--granularity", "9"]
    assert run(asked) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("layer,rows,median_ms\nconv1,1,")
    assert run([*asked, "--out", str(tmp_path / "new" / "nano.csv")]) == 0
    assert (tmp_path / "new" / "nano.csv").read_text() == printed
    capsys.readouterr()
    assert run([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["name"], told["kind"]) == (None, "jetson-nano", "calibrated")
    assert [[str(v) for v in row.values()] for row in told["rows"]] == list(csv.reader(printed.splitlines()))[1:]
    for wrong in (["--granularity", "0"], ["--out", str(tmp_path)], ["--input-shape", "x"]):
        assert run([*asked, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
