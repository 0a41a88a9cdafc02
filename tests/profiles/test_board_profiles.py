"""The shipped boards: what their files say is what the code computes, and latency has the shape of real devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProfileError
from distredge.model.layer import Layer, LayerInput
from distredge.model.load import load_model
from distredge.model.rows import Window
from distredge.profiles.board import BoardProfile, undivided_ms
from distredge.profiles.power import Power
from distredge.profiles.store import load_profile
from distredge.resources import data_dir

GPUS = ("jetson-agx-xavier", "jetson-nano", "jetson-orin-nano", "jetson-tx2")
CPUS = ("raspberry-pi-3b", "raspberry-pi-4b")
BOARDS = (*GPUS, *CPUS)
PROFILES = {name: load_profile(name) for name in BOARDS}
FILES = {name: yaml.safe_load((data_dir("profiles") / f"{name}.yaml").read_text()) for name in BOARDS}
FIGURES = {name: file["figures"] for name, file in FILES.items()}
README = (data_dir("profiles") / "README.md").read_text()
EXPORTED_ANYWAY = ("vgg16", "resnet50")


def convolution(
    channels: int, size: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1, inputs: int = 1
) -> Layer:
    out = (size - 1) // stride + 1
    window = Window(kernel, stride, 1, kernel // 2)
    taps = kernel * kernel * channels // groups
    return Layer(
        name="conv",
        op="depthwise" if groups == channels > 1 else "conv",
        inputs=(LayerInput("input", window), *(LayerInput(f"other{i}") for i in range(inputs - 1))),
        in_shape=(channels, size, size),
        out_shape=(out_channels, out, out),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        groups=groups,
        macs=out * out * out_channels * taps,
        params=out_channels * taps,
        nodes=("conv",),
        tensor="out",
    )


def pooling(channels: int, size: int, op: str) -> Layer:
    reads = Window() if op in ("concat", "add") else Window(2, 2)
    out = size if op in ("concat", "add") else size // 2
    return Layer(
        name=op,
        op=op,
        inputs=(LayerInput("a", reads),) * (2 if op in ("concat", "add") else 1),
        in_shape=(channels, size, size),
        out_shape=(channels * (2 if op == "concat" else 1), out, out),
        kernel=(reads.kernel, reads.kernel),
        stride=(reads.stride, reads.stride),
        groups=1,
        macs=0,
        params=0,
        nodes=(op,),
        tensor="out",
    )


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    channels = draw(st.sampled_from([1, 3, 16, 48, 64, 512]))
    size = draw(st.integers(2, 120))
    if draw(st.booleans()):
        return pooling(channels, size, draw(st.sampled_from(["maxpool", "avgpool", "concat", "add", "elementwise"])))
    depthwise = draw(st.booleans())
    return convolution(
        channels,
        size,
        channels if depthwise else draw(st.sampled_from([8, 64, 200, 2048])),
        kernel=draw(st.sampled_from([1, 3, 5, 7])),
        stride=draw(st.sampled_from([1, 2])),
        groups=channels if depthwise else 1,
        inputs=draw(st.sampled_from([1, 2])),
    )


@given(layer=layers(), board=st.sampled_from(BOARDS))
def test_latency_never_falls_when_rows_are_added_and_no_rows_cost_nothing(layer: Layer, board: str) -> None:
    latency = PROFILES[board].layer_ms(layer, np.arange(layer.height + 1))
    assert latency[0] == 0
    assert latency[1] > 0
    assert (np.diff(latency) >= 0).all()


@given(layer=layers(), board=st.sampled_from(BOARDS))
def test_many_row_counts_at_once_are_the_same_as_one_by_one(layer: Layer, board: str) -> None:
    rows = np.arange(layer.height + 1).reshape(1, -1)
    one_by_one = [PROFILES[board].layer_ms(layer, np.array([r]))[0] for r in rows.ravel()]
    together = PROFILES[board].layer_ms(layer, rows)
    assert together.shape == rows.shape
    assert together.ravel().tolist() == one_by_one


@pytest.mark.parametrize("board", GPUS)
def test_small_maps_show_steps_on_a_gpu(board: str) -> None:
    latency = PROFILES[board].layer_ms(convolution(512, 14, 512), np.arange(1, 15))
    assert (latency[:9] == latency[0]).all(), "9 rows of 14 pixels fit a tile of 128"
    assert 1.5 < latency[9] / latency[8] < 2.1
    assert (latency[9:] == latency[9]).all()


@pytest.mark.parametrize("board", GPUS)
def test_large_maps_are_nearly_affine_on_a_gpu(board: str) -> None:
    rows = np.arange(1, 57)
    latency = PROFILES[board].layer_ms(convolution(128, 56, 128), rows)
    affine = np.polyval(np.polyfit(rows, latency, 1), rows)
    assert np.abs(latency - affine).max() < 0.11 * latency.max(), "the median of published TensorRT FP16 layers"


@pytest.mark.parametrize("board", CPUS)
def test_arm_computes_winograd_tiles_of_four_rows_and_single_rows_otherwise(board: str) -> None:
    pi = PROFILES[board]
    winograd = pi.layer_ms(convolution(64, 56, 64), np.arange(1, 9))
    assert (winograd[:4] == winograd[0]).all()
    assert (winograd[4:] == winograd[4]).all()
    assert winograd[4] > 1.2 * winograd[3]
    assert (np.diff(pi.layer_ms(convolution(64, 56, 64, kernel=1), np.arange(1, 9))) > 0).all()


@pytest.mark.parametrize(
    ("board", "index"),
    [
        pytest.param(board, i, marks=() if f["model"] in EXPORTED_ANYWAY else pytest.mark.slow)
        for board in BOARDS
        for i, f in enumerate(FIGURES[board])
    ],
)
def test_stored_residuals_are_those_of_the_code(board: str, index: int) -> None:
    figure = FIGURES[board][index]
    predicted = undivided_ms(PROFILES[board], load_model(figure["model"]))
    assert predicted == pytest.approx(figure["predicted_ms"], abs=6e-4)
    assert predicted / figure["published_ms"] - 1 == pytest.approx(figure["residual"], abs=6e-5)
    assert abs(figure["residual"]) < 0.1


def test_readme_states_the_stored_figures() -> None:
    for board, figures in FIGURES.items():
        for f in figures:
            row = (
                f"| `{board}` | {f['model']} | {f['published_ms']:g} | {f['predicted_ms']:.4g} | "
                f"{f['residual']:+.1%} | {f['leave_one_out']:+.1%} |"
            )
            assert row in README
    left_out = [abs(f["leave_one_out"]) for figures in FIGURES.values() for f in figures]
    assert f"The median left-out error is {np.median(left_out):.0%}" in README


@pytest.mark.parametrize("board", BOARDS)
def test_power_and_memory_are_those_of_the_file_and_the_readme(board: str) -> None:
    profile, power = PROFILES[board], FILES[board]["power"]
    memory = FILES[board]["memory_mb"]
    assert profile.power == Power(**{name: number["value"] for name, number in power.items()})
    assert profile.memory_mb == memory["value"]
    numbers = [*power.values(), memory]
    assert [n["unit"] for n in numbers] == ["W", "W", "W", "MB"]
    assert "| `{}` | {:g} | {:g} | {:g} | {:g} |".format(board, *(n["value"] for n in numbers)) in README
    words = ("measured", "documented", "single sample", "unverified", "stand-in", "assumption")
    assert all(n["origin"].startswith(words) for n in numbers), "each origin begins with how far it can be trusted"


def test_a_profile_that_knows_neither_power_nor_memory_says_none() -> None:
    measured = load_profile("pc-x86-1t")
    assert measured.power is None
    assert measured.memory_mb is None


@pytest.mark.parametrize("board", BOARDS)
def test_provenance_says_calibrated_and_names_every_source(board: str) -> None:
    provenance = PROFILES[board].provenance()
    assert PROFILES[board].kind == provenance["kind"] == "calibrated"
    assert len(FIGURES[board]) >= 3
    assert all(any(mark in f["source"] for mark in ("@", "wiki", "issue #")) for f in FIGURES[board])
    assert provenance["step_evidence"]


def test_a_gpu_copies_only_the_first_branch_of_a_concatenation() -> None:
    """TensorRT lets the other branches write in place: one copy a module in GoogLeNet's published layers."""
    tx2 = PROFILES["jetson-tx2"]
    few, many = (pooling(64, 56, "concat"), replace(pooling(64, 56, "concat"), out_shape=(512, 56, 56)))
    assert tx2.layer_ms(few, np.array([56])) == tx2.layer_ms(many, np.array([56]))


def test_depthwise_rows_cost_memory_on_a_new_tensorrt_and_nothing_on_an_old_one() -> None:
    layer = convolution(512, 112, 512, groups=512)
    old, new = (PROFILES[board].layer_ms(layer, np.array([1, 112])) for board in ("jetson-tx2", "jetson-orin-nano"))
    assert old[1] < 1.1 * old[0]
    assert new[1] > 5 * new[0]


def test_the_head_is_bound_by_memory() -> None:
    vgg, resnet = load_model("vgg16"), load_model("resnet50")
    for profile in PROFILES.values():
        ratio = profile.head_ms(vgg) / profile.head_ms(resnet)
        assert 0.3 < ratio / (vgg.head.params / resnet.head.params) < 1.1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("schema_version: 1", "schema_version: 2", "schema_version"),
        ("kind: calibrated", "kind: guessed", "kind"),
        ("spatial_share:", "spacial_share:", "did you mean 'spatial_share'"),
        ("precision: FP16", "precision: FP16\ncolour: red", "unknown key 'colour'"),
        ("value: 25.6", "value: -1", "parameters.dram_gbps.value"),
        ("value: 10.0", "value: 0.5", "idle_w is 1.6, more than active_w, 0.5"),
        ("schema_version: 1", "schema_version: [", "not valid YAML"),
    ],
)
def test_a_bad_board_file_is_refused_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = (data_dir("profiles") / "jetson-nano.yaml").read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ProfileError) as refusal:
        BoardProfile.load(path)
    message = str(refusal.value)
    assert says in message
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_parameter_is_named(tmp_path: Path) -> None:
    data = yaml.safe_load((data_dir("profiles") / "jetson-nano.yaml").read_text())
    del data["parameters"]["tile_pixels"]
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ProfileError, match="parameter 'tile_pixels' is missing"):
        BoardProfile.load(path)
