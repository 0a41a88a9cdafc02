"""Pictures of every kind, and a page of what is complete only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distredge.experiments.base import QUICK, Row
from distredge.experiments.publish import publish
from distredge.experiments.registry import EXPERIMENTS
from distredge.experiments.runner import run

ONE = replace(QUICK, methods=("offload",))


def rows(*models: str) -> list[Row]:
    return [
        {
            "model": model, "scenario": "na-nano", "method": method, "seed": 0, "latency_ms": 10.0, "ips": 100.0,
            "volumes": 1, "workers": "nano-0", "max_transmission_ms": 5.0, "max_compute_ms": 6.0, "refusal": "",
        }
        for model in models
        for method in ("aofl", "osds")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "models"), [("fig10", ("vgg16", "resnet50")), ("fig8", ("vgg16",)), ("fig14", ("vgg16",))]
)
def test_pictures_of_compared_methods(tmp_path: Path, name: str, models: tuple[str, ...]) -> None:
    path = tmp_path / "picture.png"
    EXPERIMENTS[name].draw(rows(*models), path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert EXPERIMENTS[name].table(rows(*models)).rows


def test_the_page_has_what_is_complete_only(tmp_path: Path) -> None:
    few = [EXPERIMENTS[name] for name in ("table1", "fig6", "fig11")]
    run(few, tmp_path, ONE)
    lines = (tmp_path / "fig6.csv").read_text().splitlines(keepends=True)
    (tmp_path / "fig6.csv").write_text("".join(lines[:-1]))
    judged = publish(tmp_path, ONE, "1.2.3", "2026-01-02")["report.html"]
    page = (tmp_path / "report.html").read_text()
    assert 'id="table1"' in page and 'id="fig11"' in page and 'id="fig6"' not in page
    assert "Methods: offload only" in page
    assert {item.verdict for item in judged} == {"not run"}
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["fig11.png", "table1.png"]
