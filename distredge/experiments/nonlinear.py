"""Fig. 13: latency against rows is no straight line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distredge.experiments.base import Claim, Effort, Experiment, Judgement, Results, Row, Shown
from distredge.experiments.judging import grade
from distredge.experiments.methods import graph_of
from distredge.profiles.store import load_profile

MODEL = "vgg16"

LAYERS = ("conv2_2", "conv4_2", "conv5_2")
"""Of 112, 28 and 14 rows."""

PROFILES = ("jetson-nano", "jetson-tx2", "jetson-agx-xavier", "raspberry-pi-3b", "pc-x86-1t")
"""The paper's four boards, calibrated, and a PC, measured."""

FAR = 0.1
"""A latency that lies further than this share of the whole layer's from the best line is not on it."""


def _cases(effort: Effort) -> list[Row]:
    return [{"profile": profile, "layer": layer} for profile in PROFILES for layer in LAYERS]


def run(case: Row, effort: Effort) -> list[Row]:
    """Latency of 1 to all rows of a layer, and the best straight line through them."""
    profile = load_profile(str(case["profile"]))
    layer = next(layer for layer in graph_of(MODEL).layers if layer.name == case["layer"])
    rows = np.arange(1, layer.height + 1)
    ms = profile.layer_ms(layer, rows)
    slope, base = np.polyfit(rows, ms, 1)
    return [
        {**case, "kind": profile.kind, "rows": int(n), "ms": float(t), "line_ms": float(slope * n + base)}
        for n, t in zip(rows, ms, strict=True)
    ]


def errors(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
    """Largest distance from the best line, as a share of the whole layer's latency, by profile, its kind and layer."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        key = (str(row["profile"]), str(row["kind"]), str(row["layer"]))
        found.setdefault(key, []).append((float(row["ms"] or 0.0), float(row["line_ms"] or 0.0)))
    return {key: max(abs(ms - line) for ms, line in points) / points[-1][0] for key, points in found.items()}


def judge(results: Results, subject: str) -> Judgement:
    """Whether some layer of every device is far from the best line."""
    worst: dict[str, float] = {}
    for (profile, _, _), error in errors(results["fig13"]).items():
        worst[profile] = max(worst.get(profile, 0.0), error)
    said = ", ".join(f"{profile} {error:.0%}" for profile, error in worst.items())
    return Judgement(grade(sum(error > FAR for error in worst.values()), len(worst)), f"largest distance: {said}")


def _draw(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_lines

    panels: dict[str, dict[str, Any]] = {}
    for profile, kind, layer in errors(rows):
        mine = [r for r in rows if (r["profile"], r["layer"]) == (profile, layer)]
        x = [r["rows"] for r in mine]
        panels[f"{profile} ({kind}), {layer}"] = {
            "latency": (x, [r["ms"] for r in mine]),
            "best line": (x, [r["line_ms"] for r in mine]),
        }
    draw_lines(panels, "output rows", "ms", path)


def _table(rows: Sequence[Row]) -> Shown:
    lines = tuple((*key, 100.0 * error) for key, error in errors(rows).items())
    return Shown(("profile", "kind", "layer", "largest distance from the best line, % of the whole layer"), lines)


FIG13 = Experiment(
    name="fig13",
    title="Fig. 13: latency against output rows (VGG-16)",
    paper="Computing latency against the output width of a layer is nonlinear: a linear ratio cannot balance it.",
    here="Three layers on the four boards (calibrated: the staircase is part of the model, fitted to timings of a"
    " TX1 and an AGX Xavier) and on a PC that was measured (at five numbers of rows a layer, straight between).",
    key=("profile", "layer"),
    columns={"profile": str, "layer": str, "kind": str, "rows": int, "ms": float, "line_ms": float},
    cases=_cases,
    run=run,
    cost_s=lambda case, effort: 0.1,
    draw=_draw,
    table=_table,
)

EXPERIMENTS = (FIG13,)

CLAIMS = (
    Claim(
        "nonlinear", "the relation of computing latency and layer configuration is nonlinear", "section V-G, Fig. 13",
        ("fig13",), f"some layer further than {FAR:.0%} from the best line: on every device, on some, on none", judge,
    ),
)  # fmt: skip
