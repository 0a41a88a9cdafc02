"""`distredge query`: every form of a demand, measured blocks from CSV, scenarios, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.testing.toy_models import chain, save_model

# The three blocks of tests/planners/test_scission.py, and a second edge that is slower by 10 ms a block.
BLOCKS = """\
tier,resource,block,first_layer,last_layer,time_s,output_bytes
device,pi,0,0,1,0.1,1000000
device,pi,1,2,2,0.4,100000
device,pi,2,3,3,0.3,4000
edge,box,0,0,1,0.05,1000000
edge,box,1,2,2,0.1,100000
edge,box,2,3,3,0.1,4000
edge,2500,0,0,1,0.06,1000000
edge,2500,1,2,2,0.11,100000
edge,2500,2,3,3,0.11,4000
cloud,gpu,0,0,1,0.01,1000000
cloud,gpu,1,2,2,0.01,100000
cloud,gpu,2,3,3,0.01,4000
"""

NETWORK = """\
source,destination,ping_ms,bandwidth_mbps
device,edge,20,20
device,cloud,45,20
edge,cloud,25,50
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "blocks.csv").write_text(BLOCKS)
    (tmp_path / "network.csv").write_text(NETWORK)
    return ["--benchmarks", str(tmp_path / "blocks.csv"), "--network", str(tmp_path / "network.csv")]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["query", *arguments, "--json"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["query", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_rows_are_best_first(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    data = ask(capsys, "any", *files)
    # 4 native, 2 cuts on device-edge (2 edges), device-cloud, edge-cloud (2), 1 on three tiers (2 edges)
    assert data["placements"] == data["allowed"] == 4 + 2 * (2 + 1 + 2) + 2
    assert len(data["rows"]) == 5
    latencies = [row["latency_s"] for row in data["rows"]]
    assert latencies == sorted(latencies)
    first, second = data["rows"][:2]
    assert list(first) == [
        "latency_s", "transfer_mb", "device", "device_layers", "edge", "edge_layers", "cloud", "cloud_layers",
    ]  # fmt: skip
    # 45 ms + 0.15 MB at 20 Mbit/s + 3 * 10 ms; then 20 ms + 60 ms + 0.15 + 25 ms + 16 ms + 10 ms
    assert (first["latency_s"], first["cloud"], first["cloud_layers"]) == (pytest.approx(0.135), "gpu", "0-3")
    assert first["device"] is first["device_layers"] is first["edge"] is first["edge_layers"] is None
    assert second == {
        "latency_s": pytest.approx(0.281), "transfer_mb": pytest.approx(0.25), "device": None, "device_layers": None,
        "edge": "box", "edge_layers": "0-2", "cloud": "gpu", "cloud_layers": "3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("demands", "latency_s", "where"),
    [
        (["--device", "2"], 0.595, ("0-2", None, "3")),
        (["--device", "0,!2"], 0.565, ("0-1", None, "2-3")),
        (["--device", "3"], 0.8, ("0-3", None, None)),
        (["--cloud", "-1"], 0.33, (None, "0-3", None)),
        (["--cloud", "!gpu"], 0.33, (None, "0-3", None)),
        (["--edge", "!-1"], 0.281, (None, "0-2", "3")),
        (["--edge", "box"], 0.281, (None, "0-2", "3")),
        # The other edge: 2 * 10 ms more. Its name is a number that is no layer.
        (["--edge", "2500"], 0.301, (None, "0-2", "3")),
        (["--edge", "!-1,!box"], 0.301, (None, "0-2", "3")),
        (["--edge", "box,2500"], 0.281, (None, "0-2", "3")),
        (["--edge", " !3 , 0 "], 0.281, (None, "0-2", "3")),
        (["--device", "!-1", "--edge", "!-1", "--cloud", "!-1"], 0.671, ("0-1", "2", "3")),
        # Of 0.1, 0.15 and 1 MB that the device can send: 0.1 behind layer 2.
        (["--max-upload", "device=0.12"], 0.595, ("0-2", None, "3")),
        (["--max-upload", "device=0.05"], 0.8, ("0-3", None, None)),
        (["--edge", "!-1", "--max-upload", "edge=0"], 0.33, (None, "0-3", None)),
        (["--device", "!-1", "--max-time", "device=0.1"], 0.565, ("0-1", None, "2-3")),
        # 10 ms of cloud after 0.15 of edge are 6.25 %, 20 ms after 0.05 of edge 29 %.
        (["--cloud", "!-1", "--max-time", "cloud=29%"], 0.281, (None, "0-2", "3")),
        (["--cloud", "!-1", "--max-time", "cloud=6.2%"], 0.301, (None, "0-2", "3")),
        (["--max-time", "cloud=0.015", "--max-upload", "device=0.2,edge=0.05"], 0.33, (None, "0-3", None)),
        (["--max-time", "cloud=0.01", "--max-time", "edge=0", "--device", "!-1"], 0.595, ("0-2", None, "3")),
        # 30 MB of input: 45 ms + 12 s + 0.03; so the device keeps its own.
        (["--input-bytes", "30000000"], 0.565, ("0-1", None, "2-3")),
    ],
)
def test_demands(
    capsys: pytest.CaptureFixture[str], files: list[str], demands: list[str], latency_s: float, where: tuple[str | None]
) -> None:
    data = ask(capsys, "any", *files, *demands, "--top", "1")
    assert len(data["rows"]) == 1
    row = data["rows"][0]
    assert row["latency_s"] == pytest.approx(latency_s)
    assert (row["device_layers"], row["edge_layers"], row["cloud_layers"]) == where


@pytest.mark.parametrize(
    ("demands", "words"),
    [
        (["--edge", "1,-1"], "--edge 1 cannot be met together with --edge -1"),
        (["--device", "3", "--cloud", "2", "--edge", "!box"], "--device 3 cannot be met together with --cloud 2"),
        (
            ["--device", "2", "--max-time", "device=0.3"],
            "--max-time device=0.3 cannot be met together with --device 2: it takes at least 0.5 s",
        ),
        (
            ["--device", "!3", "--max-upload", "device=0.01", "--edge", "!box"],
            "--max-upload device=0.01 cannot be met together with --device !3: it takes at least 0.1 MB",
        ),
        (
            ["--max-time", "device=99%", "--device", "3"],
            "device=99% cannot be met together with --device 3: it takes at",
        ),
        (["--edge", "9"], "--edge 9: there is no layer 9: give 0 to 3"),
        (["--edge", "bux"], "unknown edge resource 'bux': did you mean 'box'?"),
        (["--cloud", "box"], "unknown cloud resource 'box': known: gpu"),
        (["--edge", "1,,2"], "--edge '1,,2': an item is empty"),
        (["--edge", "!"], "--edge '!': an item is empty"),
        (["--max-upload", "fog=1"], "--max-upload 'fog=1': give TIER=MB, the tier being device, edge, cloud"),
        (["--max-upload", "edge=5%"], "--max-upload 'edge=5%': give TIER=MB, a number >= 0"),
        (["--max-time", "edge=fast"], "--max-time 'edge=fast': give TIER=SECONDS or TIER=PERCENT%, a number >= 0"),
        (["--max-time", "edge=-1"], "a number >= 0"),
        (["--max-time", "edge=nan"], "a number >= 0"),
        (["--top", "0"], "--top"),
        (["--input-bytes", "inf"], "--input-bytes inf: give a number of bytes"),
        (["--scenario", "db-50"], "--benchmarks stands for itself"),
    ],
)
def test_what_cannot_be_met_is_named(
    capsys: pytest.CaptureFixture[str], files: list[str], demands: list[str], words: str
) -> None:
    assert words in refused(capsys, "any", *files, *demands)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("blocks.csv", BLOCKS, "", "blocks.csv:1: no lines"),
        ("blocks.csv", "time_s", "seconds", "blocks.csv:1: no column 'time_s'"),
        ("blocks.csv", "pi,1,2,2,0.4", "pi,1,2,2,soon", "blocks.csv:3: time_s 'soon' must be a number >= 0"),
        ("blocks.csv", "pi,1,2,2,0.4", "pi,1,2,2,-0.4", "blocks.csv:3: time_s '-0.4' must be a number >= 0"),
        ("blocks.csv", "pi,1,2,2,0.4", "pi,1,2,2,nan", "blocks.csv:3: time_s 'nan' must be a number >= 0"),
        ("blocks.csv", "0.3,4000", "0.3,inf", "blocks.csv:4: output_bytes 'inf' must be a number >= 0"),
        ("blocks.csv", "pi,1,2,2", "pi,1,2.5,2", "blocks.csv:3: first_layer '2.5' must be a whole number >= 0"),
        ("blocks.csv", "pi,1,2,2", "pi,1,3,2", "blocks.csv:3: last_layer 2 stands before first_layer 3"),
        ("blocks.csv", "pi,2,3,3", "pi,2,4,4", "blocks.csv:4: the block of 'pi' must begin at layer 3, not 4"),
        ("blocks.csv", "box,2,3,3", "box,2,3,4", "blocks.csv:7: 'box' has a block of layers 3-4 where the first"),
        ("blocks.csv", "cloud,gpu,2,3,3,0.01,4000\n", "", "blocks.csv:12: 'gpu' has no block of layers 3-3"),
        (
            "blocks.csv",
            "cloud,gpu,2,3,3,0.01,4000",
            "cloud,gpu,2,3,3,0.01,4\ncloud,gpu,3,4,4,1,1",
            "blocks.csv:14: 'gpu' has",
        ),
        ("blocks.csv", "edge,box,1", "fog,box,1", "blocks.csv:6: unknown tier 'fog'"),
        ("blocks.csv", "edge,box,1", "edge,,1", "blocks.csv:6: resource is empty"),
        ("blocks.csv", "box,1,2,2,0.1", "box,1,2,2", "blocks.csv:6: 6 fields, expected 7"),
        ("network.csv", "ping_ms", "rtt", "network.csv:1: no column 'ping_ms'"),
        ("network.csv", "45,20", "45,0", "network.csv:3: bandwidth_mbps '0' must be a number above 0"),
        (
            "network.csv",
            "device,cloud",
            "device,edge",
            "network.csv:3: the link from 'device' to 'edge' is given twice",
        ),
    ],
)
def test_malformed_files_are_told_by_line(
    capsys: pytest.CaptureFixture[str], files: list[str], name: str, old: str, new: str, words: str
) -> None:
    path = Path(files[1]).parent / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert words in refused(capsys, "any", *files)


def test_unreadable_files_and_missing_options(
    capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path
) -> None:
    assert "--benchmarks needs --network" in refused(capsys, "any", *files[:2])
    assert "unknown network '5g': give 3g, 4g, wired" in refused(capsys, "any", *files[:3], "5g")
    assert "cannot read" in refused(capsys, "any", *files[:3], str(tmp_path / "none.csv"))
    (tmp_path / "blocks.csv").write_bytes(b"\xff\x00")
    assert "it is not a text file" in refused(capsys, "any", *files)
    assert "say where" in refused(capsys, "vgg16")
    assert "unknown model" in refused(capsys, "vgg17", "--scenario", "db-50")


def test_links_by_name_go_before_links_by_tier(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    network = Path(files[3])
    network.write_text(NETWORK.replace("ping_ms", "ping(ms)") + "pi,  2500,  1,  1000\n\nunheard-of,box,1,1\n")
    row = ask(capsys, "any", *files, "--edge", "!-1", "--cloud", "-1")["rows"][0]
    # 1 ms + 1.2 ms + 0.06 + 0.11 + 0.11
    assert (row["edge"], row["latency_s"]) == ("2500", pytest.approx(0.2822))


def test_a_missing_link_is_a_warning(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    Path(files[3]).write_text(NETWORK.replace("device,cloud,45,20\n", ""))
    assert run(["query", "any", *files]) == 0
    out, err = capsys.readouterr()
    assert "warning: no link from pi to gpu" in err
    assert "0.2810" in out


def test_the_papers_networks(capsys: pytest.CaptureFixture[str], files: list[str]) -> None:
    # wired is NETWORK; 3G: 67 ms + 25 ms + 0.75 s + 0.03 against 0.8 on the device
    assert ask(capsys, "any", *files[:3], "wired")["rows"] == ask(capsys, "any", *files)["rows"]
    assert ask(capsys, "any", *files[:3], "3g")["rows"][0]["device_layers"] == "0-3"


def test_a_scenario_needs_no_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    toy = str(save_model(chain(np.random.default_rng(0)), tmp_path))
    data = ask(capsys, toy, "--scenario", "db-50", "--edge", "!-1", "--device", "0")
    assert data["tiers"] == {"device": ["nano-0"], "edge": ["xavier-1", "nano-1"], "cloud": ["xavier-0"]}
    assert data["rows"][0]["device"] == "nano-0"
    told = ask(
        capsys, toy, "--scenario", "db-50", "--tier", "device=nano-1", "--tier", "cloud=xavier-1", "--network", "4g"
    )
    assert told["tiers"] == {"device": ["nano-1"], "edge": [], "cloud": ["xavier-1"]}
    assert run(["query", toy, "--tier", "device=raspberry-pi-4b", "--tier", "edge=jetson-nano", "--network", "3g"]) == 0
    assert "calibrated from published figures" in " ".join(capsys.readouterr().out.split())
    assert "unknown provider 'nano-7'" in refused(capsys, toy, "--scenario", "db-50", "--tier", "edge=nano-7")
    assert "a provider stands on two tiers" in refused(
        capsys, toy, "--scenario", "db-50", "--tier", "edge=nano-0", "--tier", "cloud=nano-0"
    )
    assert "--tier 'edge': give TIER=NAME" in refused(capsys, toy, "--scenario", "db-50", "--tier", "edge")
