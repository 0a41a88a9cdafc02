"""Reads what `trtexec` exported of a whole model: a profile, and the times and the layer information if given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from distredge.errors import InputError
from distredge.measure.imports import Imported, listed
from distredge.measure.imports.gather import Gathered, figure, read_text, timed
from distredge.measure.trtexec_files import Attribution, attribute, read_layer_info, read_profile, read_times
from distredge.model.graph import LayerGraph

USUAL_WARM_UP_MS = 200.0
"""What trtexec runs for first if not told otherwise, and before TensorRT 8.5 exports as well."""

_KINDS = {"computeMs": "--exportTimes", "averageMs": "--exportProfile", "Layers": "--exportLayerInfo"}
"""What is in the file of a flag, and in no other's."""


def read(paths: Sequence[Path], graph: LayerGraph) -> Imported:
    """See `imports.read`; the files are of one run of the model's own ONNX file, and tell of all its rows.

    What TensorRT computes in one kernel across layers is nobody's time, so these layers are left out; where there is
    no such kernel, a layer without kernels is done by another's and takes none. Raises `InputError` as well where no
    profile is among the files, or none of its kernels is this model's.
    """
    texts = _by_flag(paths)
    if "--exportProfile" not in texts:
        raise InputError(f"'{paths[0]}' does not tell times by layer: add the file of trtexec's --exportProfile")
    nodes = read_layer_info(texts["--exportLayerInfo"]) if "--exportLayerInfo" in texts else {}
    account = attribute(read_profile(texts["--exportProfile"]), graph, nodes)
    if not account.layers_ms:
        hint = "" if nodes else "; --exportLayerInfo with --profilingVerbosity=detailed may name them"
        raise InputError(f"'{paths[0]}' names no layer of '{graph.name}': it must be of the same ONNX file{hint}")
    gathered, fused = Gathered(graph), []
    for layer in graph.layers:
        if layer.name in account.layers_ms:
            gathered.add(layer, layer.height, figure(account.layers_ms[layer.name]), str(paths[0]))
        elif not account.unattributed:
            fused.append(layer.name)
            gathered.add(layer, layer.height, figure(0.0), str(paths[0]))
    trace = texts.get("--exportTimes", "[]")
    times = read_times(trace, USUAL_WARM_UP_MS) or read_times(trace)
    return Imported(
        layers=gathered.layers,
        head=figure(account.head_ms) if account.head_ms else None,
        whole_ms=timed([times]) if times else None,
        notes=(*_notes(account, fused), *gathered.notes()),
    )


def _by_flag(paths: Sequence[Path]) -> dict[str, str]:
    """The files' texts by the flag of trtexec that they are of."""
    texts: dict[str, str] = {}
    for path in paths:
        text = read_text(path)
        kinds = [flag for word, flag in _KINDS.items() if f'"{word}"' in text]
        if not kinds:
            raise InputError(f"'{path}' is no file of trtexec's {', '.join(_KINDS.values())}")
        if kinds[0] in texts:
            raise InputError(f"'{path}' is a second file of {kinds[0]}: give those of one run")
        texts[kinds[0]] = text
    return texts


def _notes(account: Attribution, fused: Sequence[str]) -> Iterator[str]:
    yield "trtexec: a profiled run takes longer than others"
    yield from (f"trtexec: {note}" for note in account.notes())
    if fused:
        yield f"trtexec: no kernel of their own, taken as 0 ms since others do their work: {listed(fused)}"
