"""`distredge experiment`: files, the page, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from distredge.cli.main import run


def test_files_and_verdicts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["experiment", "fig6", "fig13", "--quick", "--methods", "offload,coedge", "--out", str(tmp_path)]
    assert run([*arguments, "--jobs", "1", "--date", "2026-01-02", "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    verdicts = {claim["name"]: claim["verdict"] for claim in data["claims"]}
    assert verdicts["nonlinear"] in ("holds", "holds partly") and verdicts["alpha-best"] == "not run"
    assert "left" in said.err
    rows = list(csv.DictReader((tmp_path / "fig6.csv").read_text().splitlines()))
    assert len(rows) == 6 * 2 and {row["method"] for row in rows} == {"offload", "coedge"}
    for name in ("fig6", "fig13"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "2026-01-02" in (tmp_path / "report.html").read_text()
    before = (tmp_path / "fig6.csv").read_bytes()
    assert run([*arguments, "--jobs", "1"]) == 0
    assert "claims not run" in capsys.readouterr().out
    assert (tmp_path / "fig6.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fig99"], "unknown experiment 'fig99'"),
        (["fig6", "--methods", "ofload"], "did you mean 'offload'"),
        (["fig6", "--methods", ","], "--methods is empty"),
        ([], "NAME"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], says: str
) -> None:
    assert run(["experiment", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_rows_of_another_seed_are_not_mixed_in(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["experiment", "fig11", "--quick", "--jobs", "1", "--out", str(tmp_path)]
    assert run(arguments) == 0
    capsys.readouterr()
    assert run([*arguments, "--seed", "1"]) == 2
    said = capsys.readouterr().err
    assert "made otherwise (seed 0)" in said and said.count("\n") == 1


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(["experiment", "fig13", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
