"""Pictures of plans and of profiles. Needs matplotlib (extra `plot`), which is loaded when a picture is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distredge.errors import DependencyError, ProfileMissingError
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.plans.plan import Plan
from distredge.profiles import regression
from distredge.profiles.profile import Profile
from distredge.profiles.table import TableProfile
from distredge.scenario import REQUESTER
from distredge.simulate.timeline import Timeline

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255")
"""One a provider, told apart also by colour-blind readers; they repeat after eight."""

HATCHES = ("", "//", "xx")
"""Tell bars of the same colour apart."""


def draw_plan(plan: Plan, timeline: Timeline, path: Path) -> None:
    """Write a PNG: above, the rows of each provider by volume; below, when each provider receives, computes, sends.

    Raises `DependencyError` without matplotlib.
    """
    lanes = len(plan.providers) + 1
    figure = new_figure(11, 2.2 + 0.32 * len(plan.volumes) + 0.45 * lanes)
    rows, times = figure.subplots(2, 1, height_ratios=[0.32 * len(plan.volumes) + 0.6, 0.45 * lanes + 0.6])
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(plan.providers)}
    _draw_rows(rows, plan, colour)
    _draw_timeline(times, plan, timeline, colour)
    figure.suptitle(f"{plan.model.name} on {plan.scenario}, {plan.method}: {timeline.latency_ms:.1f} ms", fontsize=11)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches; raises `DependencyError` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise DependencyError("drawing", "matplotlib", "plot") from exc
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, which appears whole or not at all."""
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


PANELS = 24
"""A picture of profiles shows no more layers than these, the most costly ones."""


def draw_profiles(profiles: Sequence[Profile], graph: LayerGraph, path: Path) -> None:
    """Write a PNG: latency against output rows, a panel a layer, a line a device; measured points are dots.

    Layers of the same signature share a panel. Layers that a measured profile lacks are left out of its lines.
    Raises `DependencyError` without matplotlib.
    """
    layers = list({layer.signature: layer for layer in reversed(graph.layers)}.values())[::-1]
    costly = sorted(layers, key=lambda layer: -layer.macs)[:PANELS]
    shown = [layer for layer in layers if layer in costly]
    figure, panels = _panels(len(shown))
    for axes, layer in zip(panels, shown, strict=True):
        rows = np.arange(1, layer.height + 1)
        for i, profile in enumerate(profiles):
            _draw_latency(axes, profile, layer, rows, COLOURS[i % len(COLOURS)])
        axes.set_title(layer.name[-28:], fontsize=8)
    _legend(figure, panels[0])
    left_out = len(layers) - len(shown)
    figure.suptitle(
        f"{graph.name}: latency against output rows" + (f" ({left_out} cheaper layers left out)" * bool(left_out))
    )
    save_figure(figure, path)


def _draw_latency(axes: Any, profile: Profile, layer: Layer, rows: Any, colour: str) -> None:
    try:
        latency = profile.layer_ms(layer, rows)
    except ProfileMissingError:
        return
    label = profile.name if profile.kind == "measured" else f"{profile.name} (calibrated)"
    axes.plot(rows, latency, color=colour, lw=1.0, label=label)
    if isinstance(profile, TableProfile):
        axes.plot(*profile.points[layer.signature], ".", color=colour, ms=4)


def draw_residuals(profile: TableProfile, path: Path) -> None:
    """Write a PNG: each layer's points and the fit of each representation, and below what the fits leave.

    Raises `DependencyError` without matplotlib.
    """
    known = sorted(profile.points.items(), key=lambda item: -float(item[1][1].max()))[:PANELS]
    figure, panels = _panels(2 * len(known))
    for i, (signature, (rows, ms)) in enumerate(known):
        fits, residuals = panels[2 * i], panels[2 * i + 1]
        at = np.linspace(rows[0], rows[-1], 200)
        for k, name in enumerate(regression.REPRESENTATIONS):
            curve = regression.fit(name, rows, ms)
            width = 1.6 if name == profile.representation else 0.7
            fits.plot(at, curve(at), color=COLOURS[k], lw=width, label=name)
            residuals.plot(rows, 100 * (curve(rows) / ms - 1), ".-", color=COLOURS[k], lw=width, ms=3)
        fits.plot(rows, ms, ".", color="black", ms=4)
        fits.set_title(signature, fontsize=7)
        residuals.axhline(0, color="black", lw=0.5)
        residuals.set_ylabel("residual %", fontsize=7)
    _legend(figure, panels[0])
    figure.suptitle(f"{profile.name}: fits against measured points, and what they leave")
    save_figure(figure, path)


def draw_front(front: Mapping[str, Any], path: Path) -> None:
    """Latency against another goal, from what `distredge pareto` gives."""
    figure = new_figure(5, 4)
    axes = figure.subplots()
    key, words = {
        "energy": ("energy_j", "energy of a frame (J)"),
        "cost": ("cost", "cost of a frame"),
        "redundant": ("redundant_share", "redundant share of operations"),
        "failures": ("reliability", "reliability"),
    }[front["against"]]
    points = front["points"]
    axes.plot([p["latency_ms"] for p in points], [p[key] for p in points], "o-", drawstyle="steps-post")
    axes.set(xlabel="latency (ms)", ylabel=words, title=f"{front['model']} on {front['scenario']}")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _legend(figure: Any, axes: Any) -> None:
    """One legend for all panels, below them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def _panels(count: int) -> tuple[Any, list[Any]]:
    """A figure of so many small panels in rows of four, with their axes labelled."""
    columns = min(4, count)
    lines = math.ceil(count / columns)
    figure = new_figure(3.2 * columns, 2.1 * lines + 0.4)
    grid = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.set_visible(False)
    for axes in grid[:count]:
        axes.tick_params(labelsize=7)
        axes.set_xlabel("rows", fontsize=7)
        axes.set_ylabel("ms", fontsize=7)
    return figure, grid[:count]


def draw_comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG of images a second by method, a panel a model, a group of bars a scenario.

    `rows` have `model`, `scenario`, `method` and `ips`, None where a method cannot serve. Raises `DependencyError`
    without matplotlib.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = new_figure(2.0 + 0.16 * len(methods) * len(scenarios) + 2.0, 2.6 * len(models) + 0.6)
    panels = figure.subplots(len(models), 1, squeeze=False).ravel()
    width = 0.85 / len(methods)
    for axes, model in zip(panels, models, strict=True):
        ips = {(row["scenario"], row["method"]): row["ips"] for row in rows if row["model"] == model}
        for k, method in enumerate(methods):
            at = np.arange(len(scenarios)) + (k - (len(methods) - 1) / 2) * width
            bars = [ips.get((scenario, method)) or 0.0 for scenario in scenarios]
            axes.bar(
                at, bars, width, label=method, color=COLOURS[k % len(COLOURS)], hatch=HATCHES[k // len(COLOURS) % 3]
            )
        axes.set_xticks(range(len(scenarios)), scenarios, fontsize=8)
        axes.set_ylabel("images/s", fontsize=8)
        axes.set_title(model, fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    save_figure(figure, path)


LOG_TICKS = (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
"""Where a logarithmic axis has figures."""


def draw_lines(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[Any]]]],
    x: str,
    y: str,
    path: Path,
    wide: bool = False,
    logarithmic: bool = False,
) -> None:
    """Write a PNG of lines: by panel and label (x, y) or (x, y, least, most), the latter as a band around the line.

    `wide`: one panel a row; `logarithmic`: the y axis is, for values from 1 to 100. Raises `DependencyError` without
    matplotlib.
    """
    columns = 1 if wide else 2 if len(panels) == 4 else min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(9.0, (2.2 if wide else 2.4) * lines + 0.4)
    grid = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, series) in zip(grid, panels.items(), strict=False):
        for k, (label, (at, values, *band)) in enumerate(series.items()):
            axes.plot(at, values, color=COLOURS[k], lw=1.0, marker="o" if band else None, ms=3, label=label)
            if band:
                axes.fill_between(at, *band, color=COLOURS[k], alpha=0.25)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlabel(x, fontsize=7)
        axes.set_ylabel(y, fontsize=7)
        if logarithmic:
            axes.set_yscale("log", subs=[])
            axes.set_yticks([t for t in LOG_TICKS if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]])
            axes.yaxis.set_major_formatter("{x:g}")
    if any(label for series in panels.values() for label in series):
        _legend(figure, grid[0])
    save_figure(figure, path)


def draw_bars(series: Mapping[str, Mapping[str, float]], y: str, path: Path) -> None:
    """Write a PNG of grouped bars, with their figures: by label, a value for each group's name.

    Raises `DependencyError` without matplotlib.
    """
    groups = list(dict.fromkeys(name for values in series.values() for name in values))
    figure = new_figure(1.5 + 0.85 * len(groups), 3.2)
    axes, width = figure.subplots(), 0.8 / len(series)
    for k, (label, values) in enumerate(series.items()):
        at = np.arange(len(groups)) + (k - (len(series) - 1) / 2) * width
        bars = axes.bar(at, [values.get(name, 0.0) for name in groups], width, label=label, color=COLOURS[k])
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(groups)), groups, fontsize=8, rotation=20)
    axes.set_ylabel(y, fontsize=8)
    _legend(figure, axes)
    save_figure(figure, path)


def draw_bar_panels(panels: Mapping[str, Mapping[str, float]], y: str, path: Path) -> None:
    """Write a PNG of bars, four panels a row, each with a scale of its own: by panel, a value for each label.

    Raises `DependencyError` without matplotlib.
    """
    labels = list(dict.fromkeys(label for values in panels.values() for label in values))
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(2.6 * columns + 0.6, 2.2 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, values) in zip(grid, panels.items(), strict=False):
        for k, label in enumerate(labels):
            hatch = HATCHES[k // len(COLOURS) % 3]
            axes.bar(k, values.get(label, 0.0), 0.9, label=label, color=COLOURS[k % len(COLOURS)], hatch=hatch)
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.tick_params(labelsize=7)
        axes.set_ylabel(y, fontsize=7)
    fit = int(15 * figure.get_figwidth() / (max(map(len, labels)) + 8))  # about so many letters an inch
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=max(1, min(6, fit)), fontsize=8, frameon=False)
    save_figure(figure, path)


Bar = tuple[str, str, float, float, str, bool]
"""Lane, what is done (`send`, `compute`, `receive`), from and to (ms), what is written on it, whether it is marked."""

_STRIPES = {"send": (-0.29, 0.16, "#dddddd"), "compute": (0.0, 0.4, ""), "receive": (0.29, 0.16, "#f4e3b2")}
"""Where in its lane a bar stands, how high it is, and its colour, unless it has its lane's."""


def draw_frames(panels: Mapping[str, Sequence[Bar]], lanes: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG of what happened to a frame, a panel above the other by the same clock, a lane a device.

    Marked bars have a black edge. Raises `DependencyError` without matplotlib.
    """
    figure = new_figure(11, 1.1 + len(panels) * (0.7 + 0.45 * len(lanes)))
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True).ravel()
    colours = dict(zip(lanes, ["#222222", *COLOURS * len(lanes)], strict=False))
    for axes, (name, bars) in zip(grid, panels.items(), strict=True):
        for lane, done, start_ms, stop_ms, text, marked in bars:
            offset, height, colour = _STRIPES[done]
            at, edge = lanes.index(lane) + offset, {"edgecolor": "black", "lw": 1.2} if marked else {"lw": 0}
            axes.barh(at, stop_ms - start_ms, left=start_ms, height=height, color=colour or colours[lane], **edge)
            axes.text(
                (start_ms + stop_ms) / 2, at, text, ha="center", va="center", fontsize=7, color="white", clip_on=True
            )
        axes.set_yticks(range(len(lanes)), lanes, fontsize=8)
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.set_title(name, fontsize=9)
    grid[-1].set_xlabel(
        "ms; each lane: sending (grey, above), computing (coloured, number of the volume), receiving (yellow, below);"
        " black edges: what the result waited for",
        fontsize=8,
    )
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)
