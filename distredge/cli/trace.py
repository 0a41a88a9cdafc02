"""`distredge trace`: why a frame of a recorded run took so long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, table
from distredge.errors import InputError
from distredge.resources import check_writable
from distredge.runtime.explain import Explanation, Segment, critical_path, explain, stage_name
from distredge.runtime.frame_view import FrameView, part_times
from distredge.runtime.trace_file import PlanRun, Trace, read
from distredge.scenario import REQUESTER

if TYPE_CHECKING:
    from distredge.plots import Bar

TIMES = ("start", "receive", "wait", "compute", "send")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trace")(trace)


def trace(
    trace_file: Annotated[Path, typer.Argument(metavar="TRACE", help="What `distredge run --trace` has written.")],
    frame: Annotated[
        str, typer.Option("--frame", metavar="N|slowest|median", help="Which image, counted from 0.")
    ] = "slowest",
    plot: Annotated[Path | None, typer.Option(help="Draw the frame above its prediction into this PNG.")] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Explain an image of a recorded run: measured beside predicted, and where the time went.

    Example: distredge trace out.json --frame slowest --plot frame.png
    """
    if plot is not None:
        check_writable(plot)
    recorded = read(trace_file)
    image = _image(recorded, frame)
    run, view = recorded.run_of(image), recorded.view(image)
    found = explain(image, view, run.predicted, run.head, recorded.is_resent(image))
    if plot is not None:
        _draw(plot, recorded, run, view, found)

    def show() -> None:
        _show(recorded, image, run, view, found)
        if plot is not None:
            console.print(f"wrote {plot}")

    emit(as_json, trace_data(recorded, image, run, view, found), show)


def _image(recorded: Trace, text: str) -> int:
    if text in ("slowest", "median"):
        return recorded.slowest() if text == "slowest" else recorded.median()
    if not text.isdecimal():
        raise InputError(f"--frame '{text}': give an image's number, 'slowest' or 'median'")
    return int(text)


def trace_data(recorded: Trace, image: int, run: PlanRun, view: FrameView, found: Explanation) -> dict[str, object]:
    """A frame beside its prediction, as JSON-ready data."""
    about, result = recorded.about, recorded.results[image]
    return {
        "model": about.model,
        "scenario": about.scenario,
        "images": len(recorded.results),
        "frame": image,
        "epoch": result.epoch,
        "plan": run.reason,
        "latency_ms": found.latency_ms,
        "predicted_ms": found.predicted_ms,
        "difference_ms": found.latency_ms - found.predicted_ms,
        "explanation": found.sentence,
        "parts": _parts(view, run),
        "path": [_segment(segment) for segment in found.path],
        "causes": [_segment(segment) for segment in found.causes],
        "clocks": {
            name: {"offset_ms": 1000.0 * clock.offset_s, "bound_ms": 1000.0 * clock.bound_s}
            for name, clock in about.clocks.items()
        },
        "dropped": about.dropped,
    }


def _segment(segment: Segment) -> dict[str, object]:
    return {**asdict(segment), "ms": segment.ms, "excess_ms": segment.excess_ms}


def _parts(view: FrameView, run: PlanRun) -> list[dict[str, object]]:
    """Each part of the plan, in order of volume: times measured and predicted; None for what was not recorded."""
    names = run.plan["providers"]
    found = []
    for part in sorted(run.predicted.parts, key=lambda p: (p.volume, names.index(p.node))):
        done = view.by_place.get((part.node, part.volume))
        predicted = part_times(run.predicted, part)
        measured = part_times(view, done) if done else None
        found.append(
            {
                "volume": part.volume,
                "provider": part.node,
                "rows": part.rows[1] - part.rows[0],
                "predicted": asdict(predicted),
                "measured": asdict(measured) if measured else None,
                "difference_ms": measured.stop_ms - predicted.stop_ms if measured else None,
            }
        )
    return found


def _show(recorded: Trace, image: int, run: PlanRun, view: FrameView, found: Explanation) -> None:
    digits = 1 if found.predicted_ms >= 20.0 else 2
    rows = [
        [
            "head" if part["volume"] == run.head else str(part["volume"]),
            part["provider"],
            part["rows"],
            *(_both(part["measured"], part["predicted"], f"{name}_ms", digits) for name in TIMES),
            f"{part['difference_ms']:+.2f}" if part["difference_ms"] is not None else "-",
        ]
        for part in _parts(view, run)
    ]
    about, epoch = recorded.about, recorded.results[image].epoch
    title = f"{about.model} on {about.scenario}, image {image} of {len(recorded.results)}, plan {epoch}"
    table(f"{title}: ms measured / predicted", ["volume", "provider", "rows", *TIMES, "later by"], rows)
    steps = [
        [_step(s, run.head), s.start_ms, s.ms, s.predicted_ms, f"{s.excess_ms:+.2f}"]
        for s in found.path
        if max(abs(s.ms), abs(s.predicted_ms)) >= 0.005
    ]
    table("what the result waited for", ["", "from ms", "ms", "predicted ms", "more"], steps)
    console.print(f"{found.latency_ms:.2f} ms, predicted {found.predicted_ms:.2f}")
    console.print(found.sentence)
    for note in _notes(recorded):
        console.print(note)


def _both(measured: object, predicted: object, key: str, digits: int) -> str:
    there = f"{measured[key]:.{digits}f}" if isinstance(measured, Mapping) else "-"
    assert isinstance(predicted, Mapping)
    return f"{there} / {predicted[key]:.{digits}f}"


def _step(segment: Segment, head: int) -> str:
    """A segment in words."""
    where = stage_name(segment.volume, head)
    if segment.cause == "compute":
        return f"{segment.node} computes {where}"
    if segment.cause == "link":
        return f"{segment.node} to {segment.peer}, for {where}"
    if segment.cause == "unknown":
        return f"not recorded, before {where} on {segment.node}"
    behind = f" for frame {segment.behind}" if segment.behind >= 0 else ""
    return f"{segment.node} waits{behind}, before {where}" if segment.node != REQUESTER else "the requester ends it"


def _notes(recorded: Trace) -> list[str]:
    """What limits the trace's worth."""
    about = recorded.about
    bounds = {name: clock.bound_s for name, clock in about.clocks.items() if name != REQUESTER}
    notes = []
    if bounds:
        worst = max(bounds, key=lambda name: bounds[name])
        notes.append(f"clocks are known to {1000 * bounds[worst]:.2f} ms ({worst}): transfers are no more exact")
    lost = {name: count for name, count in about.dropped.items() if count}
    if lost:
        notes.append(f"not recorded: {', '.join(f'{count} spans of {name}' for name, count in lost.items())}")
    return notes


def _draw(path: Path, recorded: Trace, run: PlanRun, view: FrameView, found: Explanation) -> None:
    from distredge.plots import draw_frames

    about = recorded.about
    draw_frames(
        {
            f"measured: {found.latency_ms:.1f} ms": _bars(view, found.path),
            f"predicted: {found.predicted_ms:.1f} ms": _bars(run.predicted, critical_path(run.predicted, run.head)),
        },
        (REQUESTER, *run.plan["providers"]),
        f"{about.model} on {about.scenario}\n{fill(found.sentence, 120)}",
        path,
    )


def _bars(view: FrameView, path: Sequence[Segment]) -> list[Bar]:
    """A frame as bars of a picture; those of its critical path are marked."""
    computed = {(s.node, s.volume) for s in path if s.cause == "compute"}
    sent = {(s.node, s.peer, s.volume) for s in path if s.cause == "link"}
    found: list[Bar] = [
        (p.node, "compute", p.start_ms, p.stop_ms, str(p.volume), (p.node, p.volume) in computed) for p in view.parts
    ]
    for d in view.deliveries:
        marked = (d.sender, d.receiver, d.volume) in sent
        found.append((d.sender, "send", d.ready_ms, d.sent_ms, "", marked))
        found.append((d.receiver, "receive", d.ready_ms, d.arrived_ms, "", marked))
    return found
