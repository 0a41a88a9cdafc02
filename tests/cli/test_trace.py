"""`distredge trace` on traces with known delays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.model.load import load_model
from distredge.runtime.explain import critical_path
from distredge.runtime.trace_file import Trace, write
from distredge.testing.providers import equal_plan, toy_scenario
from distredge.testing.toy_models import chain, save_model
from distredge.testing.traces import OddClock, Place, Replay

DELAY_MS = 12.0


@pytest.fixture
def delayed(tmp_path: Path) -> tuple[Path, Trace, Place]:
    """A trace of four images, of which the third is held up in a known place."""
    graph = load_model(save_model(chain(np.random.default_rng(0), 56, 30), tmp_path))
    names = ("nano-0", "nano-1", "nano-2")
    made = Replay(equal_plan(graph, names), toy_scenario(names), {"nano-1": OddClock(77.0, 5e-5)})
    longest = max((s for s in critical_path(made.view, 2) if s.cause == "compute"), key=lambda s: s.ms)
    place = ("compute", longest.node, "", longest.volume)
    trace = made.trace([{}, {}, {}, {place: DELAY_MS}, {}], np.random.default_rng(0))
    write(tmp_path / "out.json", trace)
    return tmp_path / "out.json", trace, place


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_slowest_image_is_explained_by_default(
    capsys: pytest.CaptureFixture[str], delayed: tuple[Path, Trace, Place]
) -> None:
    path, _, (_, node, _, volume) = delayed
    code, out, err = call(capsys, "trace", path)
    assert (code, err) == (0, "")
    assert "image 2 of 4" in out
    assert f"frame 2 took 12.0 ms longer than predicted: 12.0 ms in volume {volume} on {node}, computing" in " ".join(
        out.split()
    )
    assert "clocks are known to" in out


def test_json_has_measured_beside_predicted_for_each_part(
    capsys: pytest.CaptureFixture[str], delayed: tuple[Path, Trace, Place]
) -> None:
    path, trace, (_, node, _, volume) = delayed
    code, out, _ = call(capsys, "trace", path, "--frame", "2", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["difference_ms"] == pytest.approx(DELAY_MS, abs=0.1)
    parts = {(p["provider"], p["volume"]): p for p in data["parts"]}
    assert len(parts) == len(trace.run_of(2).predicted.parts)
    late = parts[node, volume]
    assert late["measured"]["compute_ms"] - late["predicted"]["compute_ms"] == pytest.approx(DELAY_MS, abs=0.1)
    for place, part in parts.items():
        if place != (node, volume):
            assert part["measured"]["compute_ms"] == pytest.approx(part["predicted"]["compute_ms"], abs=0.1)
    assert sum(step["ms"] for step in data["path"]) == pytest.approx(data["latency_ms"])
    assert (data["causes"][0]["node"], data["causes"][0]["volume"]) == (node, volume)
    assert data["clocks"]["nano-1"]["offset_ms"] == pytest.approx(77_000.0, abs=100.0)


def test_the_median_image_took_as_long_as_predicted(
    capsys: pytest.CaptureFixture[str], delayed: tuple[Path, Trace, Place]
) -> None:
    code, out, _ = call(capsys, "trace", delayed[0], "--frame", "median", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["frame"] != 2
    assert data["latency_ms"] == pytest.approx(data["predicted_ms"], rel=0.01)
    assert "from the predicted" in data["explanation"]


def test_a_picture_is_drawn(
    capsys: pytest.CaptureFixture[str], delayed: tuple[Path, Trace, Place], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "new" / "frame.png"
    code, out, _ = call(capsys, "trace", delayed[0], "--plot", picture)
    assert code == 0
    assert "wrote" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("frame", ["4", "-1", "fastest"])
def test_an_image_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], delayed: tuple[Path, Trace, Place], frame: str
) -> None:
    code, out, err = call(capsys, "trace", delayed[0], f"--frame={frame}")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_what_is_no_trace_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"traceEvents": []}')
    for path in (tmp_path / "t.json", tmp_path / "absent.json"):
        code, out, err = call(capsys, "trace", path)
        assert (code, out, err.count("\n")) == (2, "", 1)
