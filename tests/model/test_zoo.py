"""The zoo: published sizes, layers, partition points, and exports that are whole and the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from distredge.errors import DependencyError, UnknownNameError
from distredge.model import zoo
from distredge.model.export import export, exported
from distredge.model.load import load_model
from distredge.model.onnx_file import model_files, model_sha256

SMALLEST = "squeezenet1_1"


def test_every_layer_of_vgg16_is_a_partition_point() -> None:
    graph = load_model("vgg16")
    convs = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
    expected = [n for s, c in convs.items() for n in (*(f"conv{s}_{i + 1}" for i in range(c)), f"pool{s}")]
    assert [layer.name for layer in graph.layers] == expected
    assert graph.partition_points == tuple(range(18))
    assert graph.layers[0].nodes == ("conv1_1", "conv1_1/relu")
    assert graph.layers[-1].out_shape == (512, 7, 7)
    assert [op for op in graph.head.ops if op == "Gemm"] == ["Gemm"] * 3


def test_resnet50_is_cut_between_blocks_and_never_inside_one() -> None:
    graph = load_model("resnet50")
    blocks = [f"layer{s}.{b}" for s, count in enumerate((3, 4, 6, 3), start=1) for b in range(count)]
    begins = [graph.layers[p].name for p in graph.partition_points]
    assert begins == ["conv1", "maxpool", *(f"{block}.conv1" for block in blocks)]
    assert len(graph.layers) == 2 + 3 * 16 + 4


def test_resnet50_fuses_the_sum_into_the_later_branch() -> None:
    graph = load_model("resnet50")
    projected = graph.layers[graph.index["layer2.0.downsample.0"]]
    assert [source.source for source in projected.inputs] == ["layer1.2.conv3", "layer2.0.conv3"]
    assert projected.stride == (2, 2) and projected.out_shape == (512, 28, 28)
    identity = graph.layers[graph.index["layer2.1.conv3"]]
    assert [source.source for source in identity.inputs] == ["layer2.1.conv2", "layer2.0.downsample.0"]
    assert identity.nodes == ("layer2.1.conv3", "layer2.1.bn3", "layer2.1/add", "layer2.1/relu_2")


def test_depthwise_convolutions_are_told_apart() -> None:
    ops = [layer.op for layer in load_model("mobilenet_v1").layers]
    assert ops == ["conv"] + ["depthwise", "conv"] * 13


LARGE = ("openpose", "ssd_resnet50", "ssd_vgg16", "voxelnet")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in zoo.NAMES])
def test_untrained_weights_keep_the_signal_alive(name: str) -> None:
    session = onnxruntime.InferenceSession(exported(name).path)
    rng, shape = np.random.default_rng(0), zoo.zoo_entry(name).input_shape
    first, second = (session.run(None, {"image": rng.random(shape, dtype=np.float32)})[0] for _ in range(2))
    assert 0.05 < first.std() < 50
    assert np.abs(first - second).max() > 1e-3 * first.std()


def test_two_exports_give_the_same_bytes(tmp_path: Path) -> None:
    entry = zoo.zoo_entry(SMALLEST)
    hashes = set()
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        hashes.add(model_sha256(export(entry, folder / f"{SMALLEST}.onnx")))
    assert hashes == {exported(SMALLEST).sha256}


def test_an_export_tells_nothing_of_the_machine() -> None:
    path, data = model_files(exported("resnet50").path)
    assert data.name == "resnet50.onnx.data"
    content = path.read_bytes()
    for trace in (b"torch", b".py", b"site-packages", str(Path(zoo.__file__).parent).encode()):
        assert trace not in content


def test_a_damaged_export_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path))
    before = load_model(SMALLEST)
    _, data = model_files(before.path)
    data.write_bytes(b"half")
    assert load_model(SMALLEST) == before
    assert model_sha256(before.path) == before.sha256
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_torch_is_needed_for_the_first_export_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load_model(SMALLEST)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert load_model(SMALLEST) == graph
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path))
    with pytest.raises(DependencyError, match=r"torch: pip install 'distredge\[train\]'"):
        load_model(SMALLEST)


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'vgg-16': did you mean 'vgg16'"):
        load_model("vgg-16")


@pytest.mark.slow
def test_processes_that_export_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path))
    code = f"from distredge.model.load import load_model; print(load_model('{SMALLEST}').sha256)"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0] == results[1] == (f"{load_model(SMALLEST).sha256}\n", "")
