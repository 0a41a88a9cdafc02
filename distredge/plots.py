"""Pictures of plans. Needs matplotlib (extra `plot`), which is loaded when a picture is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distredge.errors import DependencyError
from distredge.plans.plan import Plan
from distredge.scenario import REQUESTER
from distredge.simulate.timeline import Timeline

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255")
"""One a provider, told apart also by colour-blind readers; they repeat after eight."""


def draw_plan(plan: Plan, timeline: Timeline, path: Path) -> None:
    """Write a PNG: above, the rows of each provider by volume; below, when each provider receives, computes, sends.

    Raises `DependencyError` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise DependencyError("drawing", "matplotlib", "plot") from exc
    lanes = len(plan.providers) + 1
    figure = Figure(figsize=(11, 2.2 + 0.32 * len(plan.volumes) + 0.45 * lanes), layout="constrained")
    FigureCanvasAgg(figure)
    rows, times = figure.subplots(2, 1, height_ratios=[0.32 * len(plan.volumes) + 0.6, 0.45 * lanes + 0.6])
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(plan.providers)}
    _draw_rows(rows, plan, colour)
    _draw_timeline(times, plan, timeline, colour)
    figure.suptitle(f"{plan.model.name} on {plan.scenario}, {plan.method}: {timeline.latency_ms:.1f} ms", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=130)
    part.replace(path)


def _draw_rows(axes: Any, plan: Plan, colour: dict[str, str]) -> None:
    """A bar a volume, from the first row to the last, in the providers' colours."""
    seen: set[str] = set()
    for v, volume in enumerate(plan.volumes):
        height = volume.cuts[-1]
        for name, a, b in zip(plan.providers, volume.cuts[:-1], volume.cuts[1:], strict=True):
            if b == a:
                continue
            label = name if name not in seen else None
            seen.add(name)
            axes.barh(v, (b - a) / height, left=a / height, color=colour[name], label=label, edgecolor="white")
            axes.text((a + b) / 2 / height, v, str(b - a), ha="center", va="center", fontsize=7, color="white")
    axes.set_yticks(range(len(plan.volumes)), [_span(v.layers) for v in plan.volumes], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["top of the image", "rows of each volume's output", "bottom"], fontsize=8)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _span(layers: tuple[str, ...]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} .. {layers[-1]}"


def _draw_timeline(axes: Any, plan: Plan, timeline: Timeline, colour: dict[str, str]) -> None:
    """A lane a device: above the line what its uplink sends, on it what it computes, below it what it receives."""
    lanes = {name: i for i, name in enumerate((REQUESTER, *plan.providers))}
    for sent in timeline.transfers:
        axes.barh(
            lanes[sent.sender] - 0.29,
            sent.sent_ms - sent.start_ms,
            left=sent.start_ms,
            height=0.16,
            color="#dddddd",
            edgecolor="#999999",
            lw=0.4,
        )
    for work in timeline.work:
        lane = lanes[work.provider]
        axes.barh(
            lane + 0.29, work.receive_ms, left=work.called_ms, height=0.16, color="#f4e3b2", edgecolor="#b59b3a", lw=0.4
        )
        axes.barh(
            lane,
            work.compute_ms,
            left=work.start_ms,
            height=0.4,
            color=colour[work.provider],
            edgecolor="white",
            lw=0.6,
        )
    axes.axvline(timeline.latency_ms, color="black", lw=0.8, ls=":")
    axes.set_yticks(list(lanes.values()), list(lanes), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, timeline.latency_ms * 1.02)
    axes.set_xlabel("ms; each lane: sending (grey, above), computing (coloured), receiving (yellow, below)", fontsize=8)
