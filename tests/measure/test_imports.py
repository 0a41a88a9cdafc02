"""Importing figures: each format is read to the last figure, and bad files are refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.cli.main import run
from distredge.engine.slicing import part_model
from distredge.engine.subgraph import OnnxSource
from distredge.errors import InputError, ProfileError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.measure.imports import Imported, import_profile, read
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.board import undivided_ms
from distredge.profiles.measured import TableFile, Timing, head_signature
from distredge.profiles.table import TableProfile
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import ToyModel, chain, residual, save_model


def loaded(model: onnx.ModelProto, folder: Path) -> LayerGraph:
    folder.mkdir(exist_ok=True)
    return load_model(save_model(model, folder))


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return loaded(chain(np.random.default_rng(0)), tmp_path / "model")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    """The same, for properties."""
    return loaded(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("shared"))


def written(folder: Path, text: str | bytes, name: str = "figures.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for word in words:
        assert word in message


def table_file(*paths: Path, graph: LayerGraph, **options: Any) -> TableFile:
    return import_profile(paths, graph, **{"format": "csv", "name": "here", **options})


# A user's own CSV

PLAIN = "layer,rows,median_ms\nconv1,1,0.5\nconv1,24,2.5\nhead,0,1.25\n"


def test_a_csv_is_read_to_the_last_figure(graph: LayerGraph, tmp_path: Path) -> None:
    conv1 = graph.layers[0].signature
    found = read([written(tmp_path, PLAIN)], graph, "csv")
    alone = Timing(median_ms=2.5, p10_ms=2.5, p90_ms=2.5, p99_ms=2.5, cv=0.0, count=1)
    assert found.layers[conv1][24] == alone
    assert sorted(found.layers[conv1]) == [1, 24]
    assert found.head and found.head.median_ms == 1.25
    assert (found.whole_ms, found.precision, found.notes) == (None, None, ())
    more = "count, p99_ms ,layer,rows,cv,median_ms,p90_ms,p10_ms\n7,4,conv1,3,0.1,2,3,1\n,,conv1,4,,2,3,\n"
    timings = read([written(tmp_path, more)], graph, "csv").layers[conv1]
    assert timings[3] == Timing(median_ms=2, p10_ms=1, p90_ms=3, p99_ms=4, cv=0.1, count=7)
    assert timings[4] == Timing(median_ms=2, p10_ms=2, p90_ms=3, p99_ms=3, cv=0, count=1)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", " , ").replace("\n", "\n\n ,, \n"),
        PLAIN.replace("conv1", '"conv1"'),
        PLAIN.replace("0.5", "5e-1").replace("head,0", "head,"),
        PLAIN.rstrip(),
    ],
)
def test_byte_order_marks_line_ends_spaces_and_quotes_do_not_matter(
    text: str, graph: LayerGraph, tmp_path: Path
) -> None:
    want = read([written(tmp_path, PLAIN)], graph, "csv")
    assert read([written(tmp_path, text)], graph, "csv") == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("no figures in it", "layer,rows,median_ms")),
        ("\n\n", ("no figures",)),
        ("layer,rows,median_ms\n", ("no figures",)),
        ("layer,rows\nconv1,1\n", ("line 1", "'median_ms' is missing")),
        ("layer,rows,median_ms,mean\nconv1,1,2,3\n", ("line 1", "unknown column 'mean'")),
        ("layer,rows,rows,median_ms\nconv1,1,1,2\n", ("line 1", "'rows' stands twice")),
        ("layer;rows;median_ms\nconv1;1;2\n", ("line 1", "unknown column")),
        (PLAIN + "conv1,2\n", ("line 5", "2 values, not 3")),
        (PLAIN + "conv1,2,3,4\n", ("line 5", "4 values, not 3")),
        (PLAIN + 'conv1,2,"3\n', ("line 5", "not valid CSV")),
        (PLAIN + "conv1,2,fast\n", ("line 5", "'fast' in column median_ms is no number")),
        (PLAIN + "conv1,2,nan\n", ("line 5", "'nan'")),
        (PLAIN + "conv1,2,inf\n", ("line 5", "'inf'")),
        (PLAIN + "conv1,2,\n", ("line 5", "'' in column median_ms")),
        (PLAIN + "conv1,2,-1\n", ("line 5", "-1 in column median_ms is not between 0")),
        (PLAIN + "conv1,2,1e300\n", ("line 5", "not between")),
        (PLAIN + "conv1,2,1e999\n", ("line 5", "not between")),
        (PLAIN + "conv1,2,1_0\n", ("line 5", "'1_0'")),
        (PLAIN + "conv1,2," + "9" * 5000 + "\n", ("line 5", "not between")),
        (PLAIN + "conv1,2.5,1\n", ("line 5", "'2.5' in column rows")),
        (PLAIN + "conv1," + "9" * 5000 + ",1\n", ("line 5", "in column rows")),
        (PLAIN + "conv1,0,1\n", ("line 5", "layer 'conv1' has 1 to 24 rows, not 0")),
        (PLAIN + "conv1,25,1\n", ("line 5", "1 to 24 rows, not 25")),
        (PLAIN + "conv1,24,3\n", ("line 5", "a figure for 24 rows already")),
        (PLAIN + "head,0,3\n", ("line 5", "the head has a figure already")),
        (PLAIN + "conv9,1,3\n", ("line 5", "unknown layer 'conv9': did you mean 'conv", "distredge inspect toy")),
        ("layer,rows,median_ms\nfc6,1,1\nhead,0,1\n", ("none of the layers", "another model", "'toy'")),
        ("layer,rows,median_ms,p10_ms\nconv1,1,1,2\n", ("line 2", "should not fall")),
        ("layer,rows,median_ms,count\nconv1,1,1,0\n", ("line 2", "count should be 1 or more")),
        ("layer,rows,median_ms,count\nconv1,1,1,x\n", ("line 2", "'x' in column count")),
        (PLAIN.encode("utf-16"), ("UTF-8",)),
        (b"\xff\xfe\x00", ("UTF-8",)),
        (PLAIN + "conv1,2\x00,3\n", ("line 5",)),
        ("layer,rows,median_ms\n" + "x" * 200_000 + ",1,1\n", ("not valid CSV",)),
    ],
)  # fmt: skip
def test_a_damaged_csv_is_refused_with_its_line(
    text: str | bytes, words: tuple[str, ...], graph: LayerGraph, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    refused(lambda: read([path], graph, "csv"), "figures.csv", *words)


def test_a_missing_file_and_a_folder_are_refused(graph: LayerGraph, tmp_path: Path) -> None:
    for format in ("csv", "nn-meter", "ort"):
        refused(lambda format=format: read([tmp_path / "none"], graph, format), "none", "No such file")  # type: ignore[misc]
        refused(lambda format=format: read([tmp_path], graph, format), "Is a directory")  # type: ignore[misc]
    refused(lambda: read([tmp_path], graph, "onnx"), "unknown format 'onnx'")  # type: ignore[arg-type]


def test_a_model_without_a_head_has_no_line_for_it(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(0), 3, 8, 8)
    graph = loaded(toy.finish(toy.conv(toy.image, 4, name="conv1")), tmp_path / "model")
    path = written(tmp_path, "layer,rows,median_ms\nconv1,6,1\nhead,0,1\n")
    refused(lambda: read([path], graph, "csv"), "line 3", "'toy' has no head")


def test_a_layer_may_be_called_head(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(0), 3, 8, 8)
    graph = loaded(toy.finish(toy.classifier(toy.conv(toy.image, 4, name="head"))), tmp_path / "model")
    found = read([written(tmp_path, "layer,rows,median_ms\nhead,6,1\nhead,0,2\n")], graph, "csv")
    assert found.layers[graph.layers[0].signature][6].median_ms == 1
    assert found.head and found.head.median_ms == 2


def test_alike_layers_share_the_median_of_their_figures(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(0), 4, 8, 8)
    x = toy.image
    for i in range(3):
        x = toy.unary(toy.conv(x, 4, pads=(1, 1, 1, 1), name=f"c{i}"))
    graph = loaded(toy.finish(x), tmp_path / "model")
    assert len({layer.signature for layer in graph.layers}) == 1
    found = read([written(tmp_path, "layer,rows,median_ms\nc0,8,1\nc1,8,2\nc2,8,4\nc0,4,1\n")], graph, "csv")
    assert {rows: t.median_ms for rows, t in found.layers[graph.layers[0].signature].items()} == {4: 1, 8: 2}
    assert "up to 300.0% apart: c0 = c1 = c2" in found.notes[0]


times = st.floats(0, 1e9, allow_nan=False).map(abs)


@given(figures=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(1, 6)), times, min_size=1), head=times)
def test_any_figures_are_read_back_from_a_csv_as_they_were(
    figures: dict[tuple[int, int], float], head: float, shared: LayerGraph, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [f"{shared.layers[i].name},{rows},{ms!r}\n" for (i, rows), ms in figures.items()]
    path = written(tmp_path_factory.mktemp("csv"), f"layer,rows,median_ms\n{''.join(lines)}head,0,{head!r}\n")
    file = table_file(path, graph=shared)
    for (i, rows), ms in figures.items():
        points = {t.rows: t.median_ms for t in file.layers[shared.layers[i].signature]}
        assert points[rows] == ms
    assert sum(map(len, file.layers.values())) == len(figures)
    assert file.heads[head_signature(shared.head)].median_ms == head
    assert TableFile.model_validate_json(file.model_dump_json()) == file


rubbish = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text('layerowsmdin_,01.9e-"\n\r \t', max_size=200).map(lambda text: f"layer,rows,median_ms\n{text}".encode()),
)


@settings(max_examples=150)
@given(data=rubbish)
def test_rubbish_is_refused_in_one_line(
    data: bytes, shared: LayerGraph, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("rubbish"), data)
    for format in ("csv", "nn-meter", "ort"):
        try:
            assert isinstance(read([path], shared, format), Imported)  # type: ignore[arg-type]
        except InputError as error:
            assert "\n" not in str(error)


# ONNX Runtime's profile


def trace(model: onnx.ModelProto, out: Path, runs: int = 5, **options: object) -> Path:
    """Run a model with random images, profiled by ONNX Runtime."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.enable_profiling = True
    chosen.profile_file_prefix = str(out)
    for name, value in options.items():
        setattr(chosen, name, value)
    session = ort.InferenceSession(model.SerializeToString(), chosen, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.random(i.shape, dtype=np.float32) for i in session.get_inputs()}
    for _ in range(runs):
        session.run(None, feeds)
    return Path(session.end_profiling())


def kernels(path: Path) -> list[dict[str, Any]]:
    return [event for event in json.loads(path.read_text()) if event["cat"] == "Node"]


def total_ms(found: Imported) -> float:
    """Of all layers and the head, for a model whose layers have signatures of their own."""
    layers = sum(t.median_ms for timings in found.layers.values() for t in timings.values())
    return layers + (found.head.median_ms if found.head else 0.0)


@pytest.mark.parametrize("make", [chain, residual])
@pytest.mark.parametrize("optimised", [True, False])
def test_a_profile_of_onnx_runtime_is_charged_to_layers_and_head(
    make: Callable[..., onnx.ModelProto], optimised: bool, tmp_path: Path
) -> None:
    model = make(np.random.default_rng(0))
    graph = loaded(model, tmp_path / "model")
    off = {} if optimised else {"graph_optimization_level": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
    path = trace(model, tmp_path / "trace", runs=1, **off)
    found = read([path], graph, "ort")
    assert all(list(found.layers[layer.signature]) == [layer.height] for layer in graph.layers)
    spent = sum(event["dur"] for event in kernels(path)) / 1e3
    if len(found.layers) == len(graph.layers):
        assert total_ms(found) == pytest.approx(spent, abs=1e-5)
    assert found.whole_ms and found.whole_ms.median_ms >= spent
    assert found.precision == "FP32"
    conv = max(event["dur"] for event in kernels(path) if event["args"]["op_name"] == "Conv") / 1e3
    assert conv in {t.median_ms for timings in found.layers.values() for t in timings.values()} or not optimised
    assert any("one run only" in note for note in found.notes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), named=st.booleans())
def test_any_model_s_profile_is_charged_without_loss(
    seed: int, named: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("model")
    model = random_model(np.random.default_rng(seed))
    for node in model.graph.node:
        node.name = node.name if named else ""
    graph = loaded(model, folder)
    path = trace(model, folder / "trace", runs=1)
    try:
        found = read([path], graph, "ort")
    except InputError as error:
        assert not named and ("have its nodes no names" in str(error) or "no kernel in it" in str(error))
        return
    if named:
        assert all(layer.signature in found.layers for layer in graph.layers)
    if len({layer.signature for layer in graph.layers}) == len(graph.layers):
        spent = sum(event["dur"] for event in kernels(path)) / 1e3
        assert total_ms(found) == pytest.approx(spent, abs=1e-5)


def test_the_first_runs_are_not_counted(graph: LayerGraph, tmp_path: Path) -> None:
    path = trace(chain(np.random.default_rng(0)), tmp_path / "trace", runs=10)
    events = json.loads(path.read_text())
    whole = sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])
    late = [e for e in events if e["cat"] == "Node" and e["ts"] >= whole[2]["ts"]]
    want = [e["dur"] / 1e3 for e in late if e["name"] == late[0]["name"]]
    timing = read([path], graph, "ort").layers[graph.layers[0].signature][24]
    assert len(want) == timing.count == 8
    assert timing.median_ms == pytest.approx(float(np.median(want)))


def test_split_parts_in_several_files_tell_of_several_heights(graph: LayerGraph, tmp_path: Path) -> None:
    source, paths = OnnxSource.of(graph), []
    for i, rows in enumerate((2, 4, 6)):
        part = part_model(source, Volume(graph, 0, len(graph.layers)), Interval(0, rows))
        paths.append(trace(part, tmp_path / f"part{i}"))
    paths.append(trace(chain(np.random.default_rng(0)), tmp_path / "whole"))
    found = read(paths, graph, "ort")
    last = found.layers[graph.layers[-1].signature]
    assert sorted(last) == [2, 4, 6]
    assert last[6].looks == 2, "the whole model and the last part made all rows"
    assert len(found.layers[graph.layers[0].signature]) >= 3
    assert found.head
    alone = read(paths[:1], graph, "ort")
    assert alone.head is None and alone.whole_ms is None


def edited(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> Path:
    events = json.loads(path.read_text())
    edit(events)
    return written(path.parent, json.dumps(events), "edited.json")


def each_node(change: Callable[[dict[str, Any]], object]) -> Callable[[list[dict[str, Any]]], object]:
    return lambda events: [change(event) for event in events if event["cat"] == "Node"]


def test_a_profile_of_another_model_device_or_precision_is_refused(graph: LayerGraph, tmp_path: Path) -> None:
    path = trace(chain(np.random.default_rng(0)), tmp_path / "trace")
    other = loaded(residual(np.random.default_rng(0)), tmp_path / "other")
    refused(lambda: read([path], other, "ort"), path.name)
    wide = loaded(chain(np.random.default_rng(0), width=12), tmp_path / "wide")
    refused(lambda: read([path], wide, "ort"), "--input-shape")
    renamed = edited(path, each_node(lambda event: event.update(name=f"x{event['name']}")))
    refused(lambda: read([renamed], graph, "ort"), "no kernel in it is of 'toy'")
    on_gpu = edited(path, each_node(lambda event: event["args"].update(provider="CUDAExecutionProvider")))
    refused(lambda: read([on_gpu], graph, "ort"), "CUDAExecutionProvider only starts")
    refused(lambda: table_file(path, graph=graph, format="ort", precision="FP16"), "computed in FP32, not in FP16")
    half = edited(path, each_node(lambda event: event["args"].update(input_type_shape=[{"float16": [1]}])))
    assert table_file(half, graph=graph, format="ort").provenance.subject.precision == "FP16"


def test_runs_at_the_same_time_and_none_are_refused(graph: LayerGraph, tmp_path: Path) -> None:
    path = trace(chain(np.random.default_rng(0)), tmp_path / "trace")
    at_once = edited(path, lambda events: [e.update(ts=1000, dur=9000) for e in events if e["name"] == "model_run"])
    refused(lambda: read([at_once], graph, "ort"), "runs overlap")
    none = edited(path, lambda events: [e.update(name="x") for e in events if e["name"] == "model_run"])
    refused(lambda: read([none], graph, "ort"), "no run in this profile")
    no_shapes = edited(path, each_node(lambda event: event["args"].pop("output_type_shape")))
    assert any("no shapes" in note for note in read([no_shapes], graph, "ort").notes)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", "null", "[1]", '[{"cat": "Node"}]', '[{"cat":"Node","name":"a_kernel_time","ts":-1,"dur":1}]',
     '[{"cat":"Node","name":"a_kernel_time","ts":1,"dur":"x"}]', '[{"cat":"Node","name":"a","ts":1e300,"dur":1}]',
     '[{"cat":"Node","name":"a","ts":NaN,"dur":1}]', "[" * 100_000],
)  # fmt: skip
def test_a_file_that_is_no_profile_of_onnx_runtime_is_refused(text: str, graph: LayerGraph, tmp_path: Path) -> None:
    path = written(tmp_path, text, "trace.json")
    refused(lambda: read([path], graph, "ort"), "trace.json")


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*at, key))
    else:
        yield at


@pytest.fixture(scope="module")
def real_trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = trace(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("trace") / "trace", runs=2)
    return path.read_text()


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_profiles_are_read_or_refused_in_one_line(
    data: st.DataObject, real_trace: str, shared: LayerGraph, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if data.draw(st.booleans(), label="truncated"):
        text = real_trace[: data.draw(st.integers(0, len(real_trace) - 2))]
    else:
        events = json.loads(real_trace)
        *way, last = data.draw(st.sampled_from(list(leaves(events))))
        inner = events
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(st.sampled_from([None, -1, 1e308, "x", [], {}, True, 10**30, float("nan")]))
        text = json.dumps(events)
    path = written(tmp_path_factory.mktemp("damaged"), text, "trace.json")
    try:
        file = table_file(path, graph=shared, format="ort")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(math.isfinite(t.median_ms) for timings in file.layers.values() for t in timings)


# nn-Meter's kernel data


def square(tmp_path: Path) -> LayerGraph:
    toy = ToyModel(np.random.default_rng(0), 3, 16, 16)
    x = toy.unary(toy.conv(toy.image, 8, pads=(1, 1, 1, 1), name="stem"))
    x = toy.conv(x, 8, pads=(1, 1, 1, 1), groups=8, name="depth")
    y = toy.conv(x, 8, kernel=(1, 1), name="point")
    x = toy.unary(toy.binary(y, x, name="sum"))
    x = toy.pool(x, name="pool")
    return loaded(toy.finish(toy.classifier(x)), tmp_path / "square")


CONFIGS: dict[str, dict[str, Any]] = {
    "conv-bn-relu": {
        "AAAAAA": {"model": "m", "shapes": [[16, 16, 3]],
                   "config": {"HW": 16, "CIN": 3, "COUT": 8, "KERNEL_SIZE": 3, "STRIDES": 1}},
        "BBBBBB": {"config": {"HW": 16, "CIN": 8, "COUT": 8, "KERNEL_SIZE": 1, "STRIDES": 1}},
        "CCCCCC": {"config": {"HW": 99, "CIN": 8, "COUT": 8, "KERNEL_SIZE": 1, "STRIDES": 1}},
    },
    "dwconv-bn-relu": {"A": {"config": {"HW": 16, "CIN": 8, "COUT": 8, "KERNEL_SIZE": 3, "STRIDES": 1}}},
    "maxpool": {"A": {"config": {"HW": 16, "CIN": 8, "KERNEL_SIZE": 2, "POOL_STRIDES": 2}}},
    "addrelu": {"A": {"config": {"HW": 16, "CIN": 8}}},
    "fc": {"A": {"config": {"CIN": 8, "COUT": 5}}},
    "global-avgpool": {"A": {"config": {"HW": 8, "CIN": 8}}},
    "mine": {"A": {"config": {"DEPTH": 8}}},
}  # fmt: skip

LATENCIES: dict[str, dict[str, Any]] = {
    "conv-bn-relu": {"AAAAAA": {"latency": "4.0 +- 0.4"}, "BBBBBB": {"latency": "1e0 +- 0.3"},
                     "CCCCCC": {"latency": "9 +- 0"}},
    "dwconv-bn-relu": {"A": {"latency": 2}}, "maxpool": {"A": {"latency": 0.5}},
    "addrelu": {"A": {"latency": "1.0 +- 0.4"}}, "fc": {"A": {"latency": "3.0"}},
    "global-avgpool": {"A": {"latency": 0.25}}, "mine": {"A": {"latency": 1}},
}  # fmt: skip


def nn_meter_files(folder: Path, *contents: object) -> list[Path]:
    return [written(folder, json.dumps(data), f"kernels{i}.json") for i, data in enumerate(contents)]


def test_nn_meter_s_kernels_are_found_by_their_features(tmp_path: Path) -> None:
    graph = square(tmp_path)
    found = read(nn_meter_files(tmp_path, CONFIGS, LATENCIES), graph, "nn-meter")
    by_name = {layer.name: found.layers[layer.signature][layer.height] for layer in graph.layers}
    assert {name: t.median_ms for name, t in by_name.items()} == {"stem": 4, "depth": 2, "point": 2, "pool": 0.5}
    assert by_name["stem"].cv == pytest.approx(0.1)
    assert by_name["point"].cv == pytest.approx(0.25), "two independent deviations, of 0.3 and 0.4"
    assert found.head and found.head.median_ms == 3.25
    assert "7 of 9 kernels" in found.notes[0]
    assert len(found.notes) == 1
    both = {
        kernel: {name: entry | LATENCIES[kernel][name] for name, entry in entries.items()}
        for kernel, entries in CONFIGS.items()
    }
    assert read(nn_meter_files(tmp_path, both), graph, "nn-meter") == found


def test_what_nn_meter_does_not_tell_is_noted(tmp_path: Path) -> None:
    graph = square(tmp_path)
    some = {k: LATENCIES[k] for k in ("conv-bn-relu", "maxpool")}
    configs = {k: CONFIGS[k] for k in some}
    found = read(nn_meter_files(tmp_path, configs, some), graph, "nn-meter")
    assert found.head is None
    assert any("no kernel is like depth" in note for note in found.notes)
    assert any("no kernel for the addition in point" in note for note in found.notes)
    file = table_file(*nn_meter_files(tmp_path, configs, some), graph=graph, format="nn-meter")
    notes = " ".join(file.provenance.notes)
    assert "toy: no figure for depth" in notes
    assert "toy: no figure for the head" in notes


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([{}], ("none of the 0 kernels",)),
        ([[]], ("not nn-Meter's kernel data",)),
        ([{"conv": 1}], ("wrong at conv",)),
        ([CONFIGS], ("has no latency",)),
        ([LATENCIES], ("has no config",)),
        ([{"conv": {"A": {"config": {"HW": 1}, "latency": 1}}}], ("conv 'A'", "lacks COUT")),
        ([{"conv": {"A": {"config": {"HW": "x"}, "latency": 1}}}], ("wrong at conv / A",)),
        ([{"fc": {"A": {"config": {"CIN": 1, "COUT": 2}, "latency": "fast"}}}], ("fc 'A'", "'fast' is no latency")),
        ([{"fc": {"A": {"config": {"CIN": 1, "COUT": 2}, "latency": -1}}}], ("'-1.0' is no latency",)),
        ([{"fc": {"A": {"config": {"CIN": 1, "COUT": 2}, "latency": "1e99"}}}], ("is no latency",)),
        ([{"fc": {"A": {"config": {"CIN": 1, "COUT": 2}, "latency": float("nan")}}}], ("is no latency",)),
        ([LATENCIES, CONFIGS, {"fc": {"A": {"latency": 7}}}], ("fc 'A' is given twice, and differs",)),
        ([{"fc": {"A": {"config": {"CIN": 1, "COUT": 2}, "latency": 1}}}], ("none of the 1 kernels", "'toy'")),
    ],
)  # fmt: skip
def test_damaged_kernel_data_are_refused(contents: list[object], words: tuple[str, ...], tmp_path: Path) -> None:
    paths = nn_meter_files(tmp_path, *contents)
    refused(lambda: read(paths, square(tmp_path), "nn-meter"), "kernels", *words)


# The profile


def test_a_profile_says_where_its_figures_come_from(graph: LayerGraph, tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    file = table_file(path, graph=graph, device="Jetson Nano", runtime="TensorRT", runtime_version="8.2", threads=0)
    source = file.provenance
    assert (source.subject.backend, source.subject.device) == ("import", "Jetson Nano")
    assert (source.subject.runtime, source.subject.runtime_version) == ("TensorRT", "8.2")
    assert source.subject.precision == "FP32"
    assert source.method.order == "unknown"
    assert source.models == {graph.sha256: "toy"}
    assert source.complete and file.representation == "table"
    notes = "\n".join(source.notes)
    for words in ("imported from 'figures.csv', sha256 ", "FP32 was assumed", "toy: no figure for conv2, pool1"):
        assert words in notes


def test_figures_are_added_to_a_profile_and_never_replaced(graph: LayerGraph, tmp_path: Path) -> None:
    out = tmp_path / "here.json"
    table_file(written(tmp_path, PLAIN), graph=graph, precision="FP16").save(out)
    more = written(tmp_path, "layer,rows,median_ms\nconv1,12,1.5\nconv1,24,2.5\nconv2,24,4\n", "more.csv")
    both = table_file(more, graph=graph, precision="FP16", add_to=out)
    assert [(t.rows, t.median_ms) for t in both.layers[graph.layers[0].signature]] == [(1, 0.5), (12, 1.5), (24, 2.5)]
    assert len(both.heads) == 1
    notes = "\n".join(both.provenance.notes)
    assert "'figures.csv'" in notes and "'more.csv'" in notes
    assert "no figure for pool1" in notes and "no figure for conv2" not in notes
    assert table_file(more, graph=graph, precision="FP16", add_to=out).layers == both.layers
    for text in ("conv1,24,2.6\n", "head,0,9\n"):
        other = written(tmp_path, f"layer,rows,median_ms\n{text}", "other.csv")
        with pytest.raises(ProfileError, match="another figure for"):
            table_file(other, graph=graph, precision="FP16", add_to=out)
    for change in ({"precision": "FP32"}, {"device": "another"}, {"runtime": "torch"}, {"threads": 2}):
        with pytest.raises(ProfileError, match="was measured with"):
            table_file(more, graph=graph, **{"precision": "FP16", "add_to": out, **change})


def test_one_height_is_taken_in_proportion_and_the_profile_says_so(graph: LayerGraph, tmp_path: Path) -> None:
    path = trace(chain(np.random.default_rng(0)), tmp_path / "trace", runs=20)
    file = table_file(path, graph=graph, format="ort")
    assert any("toy: only one number of rows is known of every layer" in note for note in file.provenance.notes)
    assert any("the whole model took" in note for note in file.provenance.notes)
    file.save(tmp_path / "here.json")
    profile = TableProfile.load(tmp_path / "here.json")
    layer = graph.layers[0]
    whole, half, none = profile.layer_ms(layer, np.array([24, 12, 0])).tolist()
    assert (half, none) == (pytest.approx(whole / 2), 0.0)
    assert undivided_ms(profile, graph) == pytest.approx(total_ms(read([path], graph, "ort")))


# The command


def test_the_command_writes_a_profile_and_says_what_it_lacks(
    graph: LayerGraph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, PLAIN)
    given = ["profile-import", str(path), "--format", "csv", "--model", str(graph.path), "--out", str(tmp_path / "out")]
    assert run([*given, "--name", "board", "--device", "Nano", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["points"] == 3
    assert told["missing"] == ["conv2", "pool1", "conv3", "pool2"]
    assert told["subject"]["device"] == "Nano"
    assert TableFile.model_validate_json(Path(told["file"]).read_text()).name == "board"
    assert run([*given, "--name", "board", "--device", "Nano"]) == 0
    assert "wrote" in capsys.readouterr().out
    for wrong in (["--name", "a/b"], ["--name", "board"], ["--name", "x", "--precision", "FP8"]):
        assert run([*given, *wrong]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
