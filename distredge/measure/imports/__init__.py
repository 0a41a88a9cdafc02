"""Figures that others measured, or predicted, become a measured profile: one reader a format, one file a reader."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from distredge.errors import InputError, ProfileError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.profiles.measured import Method, Precision, Subject, TableFile, Timing, head_signature

if TYPE_CHECKING:
    from distredge.measure.ledger import Ledger

LONGEST_MS = 1e9
"""A longer latency, of eleven days, is no latency but a mistake."""

MUCH_APART = 0.1
"""Layers whose sum is further from the whole model's time than this share are doubtful."""

Format = Literal["csv", "nn-meter", "ort", "trtexec"]

Layers = dict[str, dict[int, Timing]]
"""Timings by `Layer.signature`, then by the number of output rows."""


@dataclass(frozen=True)
class Imported:
    """What a reader found for one model.

    `layers` has timings by `Layer.signature`, then by the number of output rows; `head` is that of the model's head,
    `whole_ms` that of the whole model in one session, both None where the files do not tell. `notes` say what was
    assumed, a sentence each. `precision` is what the files themselves tell, None if nothing.
    """

    layers: Layers
    head: Timing | None = None
    whole_ms: Timing | None = None
    notes: tuple[str, ...] = ()
    precision: Precision | None = None


class _Reader(NamedTuple):
    """Where a format's `read(paths, graph) -> Imported` is, and what runtime it is of if nobody says."""

    module: str
    runtime: str


_READERS: dict[Format, _Reader] = {
    "csv": _Reader("rows_csv", "not known"),
    "nn-meter": _Reader("nn_meter", "not known"),
    "ort": _Reader("ort_profile", "onnxruntime"),
    "trtexec": _Reader("trtexec", "TensorRT"),
}

FORMATS: tuple[Format, ...] = get_args(Format)


def read(paths: Sequence[Path], graph: LayerGraph, format: Format) -> Imported:
    """What files of a format tell of a model.

    Raises `InputError`, in one line with the file's name, for what cannot be read or belongs to another model.
    """
    if format not in _READERS:
        raise UnknownNameError("format", format, _READERS)
    found = import_module(f"{__name__}.{_READERS[format].module}").read(paths, graph)
    assert isinstance(found, Imported)
    return found


def import_profile(
    paths: Sequence[Path],
    graph: LayerGraph,
    *,
    format: Format,
    name: str,
    device: str = "not known",
    runtime: str | None = None,
    runtime_version: str = "",
    precision: Precision | None = None,
    threads: int = 0,
    add_to: Path | None = None,
) -> TableFile:
    """The measured profile that files tell, together with what the profile `add_to` holds already, if it exists.

    `runtime` None: the format's own; `precision` None: what the files tell, else FP32, which is noted. Points read off
    between the imported ones lie on straight lines, so that every imported figure is given back as it is.

    Raises `InputError` for what `read` refuses, a precision that the files contradict or a latency that is none, and
    `ProfileError` where `add_to` is of another subject or has other figures for the same points.
    """
    from distredge.measure.ledger import Ledger

    found = read(paths, graph, format)
    _check(found, graph)
    if precision and found.precision and precision != found.precision:
        raise InputError(f"'{paths[0]}' was computed in {found.precision}, not in {precision}: leave out --precision")
    subject = Subject(
        backend="import",
        host="not known",
        device=device,
        runtime=runtime or _READERS[format].runtime,
        runtime_version=runtime_version,
        precision=precision or found.precision or "FP32",
        threads=threads,
    )
    ledger = Ledger.open(name, add_to, subject) if add_to else Ledger(name, subject)
    _add(ledger, found, graph, add_to)
    notes = [*_files(paths, format), *found.notes]
    if precision is None and found.precision is None:
        notes.append(f"{format}: nothing tells the precision: FP32 was assumed")
    ledger.notes = _with_notes(ledger, graph, [*notes, *_comparison(found, graph)])
    ledger.models[graph.sha256] = graph.name
    file = ledger.file(Method(row_counts="those of the imported files"), complete=False)
    # A complete ledger would choose a representation; here every figure is to be given back as it is.
    provenance = file.provenance.model_copy(update={"complete": True})
    return file.model_copy(update={"representation": "table", "provenance": provenance})


def missing_layers(graph: LayerGraph, layers: Layers) -> list[str]:
    """Names of a model's layers of which no timing is known, `head` for its head not among them."""
    return [layer.name for layer in graph.layers if layer.signature not in layers]


def _check(found: Imported, graph: LayerGraph) -> None:
    """Refuse, whatever the reader, what no profile may hold."""
    heights: dict[str, int] = {}
    for layer in graph.layers:
        heights[layer.signature] = max(layer.height, heights.get(layer.signature, 0))
    if not found.layers and found.head is None:
        raise InputError(f"nothing was found in the files for '{graph.name}'")
    for signature, timings in found.layers.items():
        for rows in timings:
            if not 1 <= rows <= heights.get(signature, 0):
                raise InputError(f"'{graph.name}' has no layer {signature} of {rows} rows")
    every = [t for timings in found.layers.values() for t in timings.values()]
    for timing in (*every, *([found.head] if found.head else [])):
        values = (timing.median_ms, timing.p10_ms, timing.p90_ms, timing.p99_ms, timing.cv)
        if not all(math.isfinite(value) and value <= LONGEST_MS for value in values):
            raise InputError(f"a latency of {max(values):g} ms is none: are the files damaged?")


def _add(ledger: Ledger, found: Imported, graph: LayerGraph, path: Path | None) -> None:
    """Add what was found to a ledger; raises `ProfileError` where that has another figure already."""

    def same(known: Timing | None, new: Timing, what: str) -> Timing:
        if known is not None and known != new:
            raise ProfileError(
                f"'{path}' has another figure for {what}, {known.median_ms:g} ms and not {new.median_ms:g} ms: "
                "choose another --name, or remove that file"
            )
        return new

    names = {layer.signature: layer.name for layer in reversed(graph.layers)}
    for signature, timings in found.layers.items():
        known = ledger.layers.setdefault(signature, {})
        for rows, timing in timings.items():
            known[rows] = same(known.get(rows), timing, f"layer '{names[signature]}' at {rows} rows")
    if found.head is not None:
        key = head_signature(graph.head)
        ledger.heads[key] = same(ledger.heads.get(key), found.head, f"the head of '{graph.name}'")


def _files(paths: Sequence[Path], format: Format) -> Iterator[str]:
    """Which files were read: what was imported can be found again."""
    for path in paths:
        yield f"{format}: imported from '{path.name}', sha256 {sha256(path.read_bytes()).hexdigest()}"


def _comparison(found: Imported, graph: LayerGraph) -> Iterator[str]:
    """What the whole model took beside its layers and its head, if all of these are known."""
    whole = found.whole_ms
    known = [found.layers.get(layer.signature, {}).get(layer.height) for layer in graph.layers]
    if whole is None or whole.median_ms == 0 or None in known or (graph.head.nodes and found.head is None):
        return
    apart = sum(t.median_ms for t in known if t) + (found.head.median_ms if found.head else 0.0)
    share = apart / whole.median_ms
    doubt = ": was the device busy, or is something missing?" if abs(share - 1) > MUCH_APART else ""
    yield (
        f"the whole model took {whole.median_ms:.4g} ms a run, its layers and head together {apart:.4g} ms "
        f"({share:.1%}){doubt}"
    )


def _with_notes(ledger: Ledger, graph: LayerGraph, new: Sequence[str]) -> tuple[str, ...]:
    """The notes of before and new ones, none of them twice; what a profile lacks is told anew."""
    mine = f"{graph.name}: "
    kept = [note for note in ledger.notes if not note.startswith(mine)]
    return tuple(dict.fromkeys([*kept, *new, *(mine + lack for lack in _lacks(ledger, graph))]))


def _lacks(ledger: Ledger, graph: LayerGraph) -> Iterator[str]:
    """What the figures do not tell, and what is taken for it."""
    missing = missing_layers(graph, ledger.layers)
    if missing:
        yield f"no figure for {_layers(missing, graph)}: plans need one of every layer"
    if graph.head.nodes and head_signature(graph.head) not in ledger.heads:
        yield "no figure for the head: plans need one"
    known = [(layer, ledger.layers[layer.signature]) for layer in graph.layers if layer.name not in missing]
    if single := [layer.name for layer, timings in known if len(timings) == 1 and layer.height > 1]:
        yield (
            f"only one number of rows is known of {_layers(single, graph)}: fewer rows are assumed to take time in "
            "proportion, 0 rows 0 ms; on real devices few rows take longer than that"
        )
    if begins := [layer.name for layer, timings in known if len(timings) > 1 and min(timings) > 1]:
        yield f"fewer rows than the least known are assumed to take as long as these, in {_layers(begins, graph)}"
    if short := [layer.name for layer, timings in known if max(timings) < layer.height]:
        yield f"nothing is known of all rows, the full height, of {_layers(short, graph)}: plans may need it"


def _layers(names: Sequence[str], graph: LayerGraph) -> str:
    """Some of a model's layers, in words."""
    return listed(names) if len(names) < len(graph.layers) else "every layer"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas between, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
