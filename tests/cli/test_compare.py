"""`distredge compare`: a row a method, refusals beside them, and a verdict on sharing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from distredge.cli.main import run


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run(["compare", *arguments, "--json"]) == 0
    data: dict[str, object] = json.loads(capsys.readouterr().out)
    return data


def test_rows_speed_ups_and_verdicts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = "--csv", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "rows.png")
    data = compared(capsys, "vgg16", "--scenario", "db-50", "na-nano", "--methods", "offload,equal", *files)
    rows = data["rows"]
    assert isinstance(rows, list)
    assert [(r["scenario"], r["method"]) for r in rows] == [
        ("db-50", "offload"), ("db-50", "equal"), ("na-nano", "offload"), ("na-nano", "equal"),
    ]  # fmt: skip
    for r in rows:
        assert r["ips"] == pytest.approx(1000 / r["latency_ms"])
    assert rows[0]["speed_up"] == 1.0
    assert rows[1]["speed_up"] == pytest.approx(rows[0]["latency_ms"] / rows[1]["latency_ms"])
    verdicts = data["verdicts"]
    assert isinstance(verdicts, list)
    assert "xavier-0 alone is fastest" in verdicts[0]["verdict"] and "waits" in verdicts[0]["verdict"]
    assert verdicts[1]["verdict"].startswith("sharing pays: equal")
    assert data["calibrated_profiles"] == ["jetson-agx-xavier", "jetson-nano"]
    written = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [float(w["latency_ms"]) for w in written] == [r["latency_ms"] for r in rows]
    assert (tmp_path / "rows.png").read_bytes()[:4] == b"\x89PNG"


def test_a_method_that_cannot_serve_is_a_row_with_the_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "one.yaml").write_text(
        "schema_version: 1\nname: one\nproviders: [{name: a, profile: jetson-nano, bandwidth_mbps: 50}]\n"
    )
    data = compared(capsys, "vgg16", "--scenario", str(tmp_path / "one.yaml"), "--methods", "osds,offload")
    rows = data["rows"]
    assert isinstance(rows, list)
    assert rows[0]["latency_ms"] is None and "one provider" in rows[0]["refusal"]
    assert rows[1]["latency_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vgg16", "--scenario", "db-50", "--methods", "ofload"], "did you mean 'offload'"),
        (["vgg16", "--scenario", "db-51"], "did you mean 'db-50'"),
        (["--scenario", "db-50"], "MODEL"),
        (["db-50", "--scenario", "na-nano"], "at least one model"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert run(["compare", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
