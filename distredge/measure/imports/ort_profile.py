"""Reads the profiles that ONNX Runtime writes (`SessionOptions.enable_profiling`): each kernel of each run.

They are Chrome traces, a list of events with microseconds. A run is an event `model_run` of category `Session`; within
its time lie the events of category `Node` that are called `NAME_kernel_time`. NAME is that of an ONNX node, or what the
optimiser made of it: `fused NODE` (an activation in a matrix product), `TENSOR_nchwc` (a convolution or pooling whose
result TENSOR is laid out in blocks), `NODE/MatMulAddFusion`, each with `_token_N` behind it where it was taken. Nodes
without a name are `OPERATOR_POSITION`. What the optimiser adds is named after nothing: `ReorderInput`, `ReorderOutput`.
Seen in profiles of version 1.31.
"""

from __future__ import annotations

import bisect
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from distredge.engine.subgraph import OnnxSource
from distredge.errors import InputError
from distredge.measure.imports import Imported, listed
from distredge.measure.imports.gather import Gathered, read_text, timed
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.measured import Precision

WARM_UP = 0.2
"""The first runs, as a share of all of a file, are not counted."""

MOST_UNNAMED = 1 / 3
"""A larger share of the time in convolutions and matrix products that the model does not name is not of this model."""

HEAD = -1
"""Stands for the head among the positions of layers."""

Shape = tuple[int, ...]

Point = tuple[int, int]
"""The position of a layer and a number of its rows; the head is `(HEAD, 0)`."""

_KERNEL = "_kernel_time"
_PRECISIONS: dict[str, Precision] = {"float": "FP32", "float16": "FP16", "int8": "INT8", "uint8": "INT8"}
_HEAVY = re.compile("Conv|Gemm|MatMul")
_ASYNCHRONOUS = ("CUDA", "ROCM", "MIGraphX", "Tensorrt", "NvTensorRTRTX", "Dml", "WebGpu", "Js")


class _Event(BaseModel):
    """An event of the trace; times are microseconds."""

    cat: str
    name: str
    ts: float = Field(ge=0, le=1e15)
    dur: float = Field(ge=0, le=1e15)
    args: dict[str, Any] = {}


class _Kernel(NamedTuple):
    """A kernel's run: what the runtime calls it, its operator, and the type and shape of its first output if told."""

    name: str
    op: str
    ms: float
    input_type: str
    shape: Shape | None


class _Run(NamedTuple):
    ms: float
    kernels: list[_Kernel]


@dataclass
class _Account:
    """Where the time of all runs went, and what was seen on the way."""

    total_ms: float = 0.0
    moved_ms: float = 0.0
    unnamed_ms: dict[str, float] = field(default_factory=dict)
    fused: set[str] = field(default_factory=set)
    types: Counter[str] = field(default_factory=Counter)
    short: bool = False
    shapeless: bool = False
    wholes: list[list[float]] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """What a reader of the profile must know."""
        total = self.total_ms or 1.0
        yield "ort: the profiler slows runs down a little, and tells times in whole microseconds"
        if self.moved_ms:
            yield f"ort: {self.moved_ms / total:.1%} of the time lays data out anew, charged to the layer behind it"
        if self.unnamed_ms:
            share, names = sum(self.unnamed_ms.values()) / total, listed(sorted(self.unnamed_ms))
            yield f"ort: {share:.1%} of the time is in kernels without a node, charged to the layer before: {names}"
        if self.fused:
            yield f"ort: no kernel of their own, taken as 0 ms since others do their work: {listed(sorted(self.fused))}"
        if self.short:
            yield "ort: a file with one run only: nothing was warmed up"
        if self.shapeless:
            yield "ort: no shapes in the file: its kernels are taken to make all rows"


def read(paths: Sequence[Path], graph: LayerGraph) -> Imported:
    """See `imports.read`; runs of split-parts tell of the rows that they made, and may be in several files."""
    owners = _Owners(graph)
    account = _Account()
    looks: dict[Point, list[list[float]]] = {}
    for path in paths:
        runs = _runs(path)
        account.short |= len(runs) == 1
        times: dict[Point, list[float]] = {}
        wholes: list[float] = []
        for run in _warm(runs):
            charged = _charge(run, owners, account, path)
            if _is_whole({at for at, _ in charged}, graph):
                wholes.append(run.ms)
            for point, ms in charged.items():
                times.setdefault(point, []).append(ms)
        for point, ms_of_runs in times.items():
            looks.setdefault(point, []).append(ms_of_runs)
        account.wholes += [wholes] if wholes else []
    gathered = Gathered(graph)
    head = looks.pop((HEAD, 0), None)
    for (at, rows), found in sorted(looks.items()):
        gathered.add(graph.layers[at], rows, timed(found), str(paths[0]))
    kind = account.types.most_common(1)[0][0] if account.types else ""
    return Imported(
        gathered.layers,
        timed(head) if head and graph.head.nodes else None,
        timed(account.wholes) if account.wholes else None,
        (*account.notes(), *gathered.notes()),
        _PRECISIONS.get(kind),
    )


def _warm(runs: Sequence[_Run]) -> Sequence[_Run]:
    return runs[math.ceil(WARM_UP * len(runs)) if len(runs) > 1 else 0 :]


def _runs(path: Path) -> list[_Run]:
    """The complete runs of a file, in order; raises `InputError` if there is none or the file is no such profile."""
    try:
        events = TypeAdapter(list[_Event]).validate_python(json.loads(read_text(path)))
    except (ValidationError, RecursionError) as error:
        raise InputError(f"{path}: this is no profile of ONNX Runtime, which is a list of events") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON, was `end_profiling` called? {error}") from error
    whole = sorted((e for e in events if e.cat == "Session" and e.name == "model_run"), key=lambda e: e.ts)
    if any(before.ts + before.dur > after.ts for before, after in zip(whole[:-1], whole[1:], strict=True)):
        raise InputError(f"{path}: runs overlap: profile a session that runs one image at a time")
    begins = [event.ts for event in whole]
    runs = [_Run(event.dur / 1e3, []) for event in whole]
    for event in sorted((e for e in events if e.cat == "Node" and e.name.endswith(_KERNEL)), key=lambda e: e.ts):
        at = bisect.bisect_right(begins, event.ts) - 1
        if at >= 0 and event.ts <= whole[at].ts + whole[at].dur:
            runs[at].kernels.append(_kernel(event, path))
    if not any(run.kernels for run in runs):
        raise InputError(f"{path}: no run in this profile: run the session before `end_profiling`")
    return [run for run in runs if run.kernels]


def _kernel(event: _Event, path: Path) -> _Kernel:
    provider = str(event.args.get("provider", ""))
    if provider.startswith(_ASYNCHRONOUS):
        raise InputError(
            f"{path}: {provider} only starts its kernels in the times told here: measure it with `distredge profile`"
        )
    kind, _ = _first_tensor(event.args.get("input_type_shape"))
    _, shape = _first_tensor(event.args.get("output_type_shape"))
    name = event.name.removesuffix(_KERNEL)
    return _Kernel(name, str(event.args.get("op_name", "")), event.dur / 1e3, kind, shape)


def _first_tensor(told: object) -> tuple[str, Shape | None]:
    """Type and shape of the first tensor of a list as `[{"float": [1, 3, 224, 224]}]`."""
    if isinstance(told, list) and told and isinstance(told[0], dict) and len(told[0]) == 1:
        kind, sizes = next(iter(told[0].items()))
        if isinstance(sizes, list) and all(isinstance(size, int) and size >= 0 for size in sizes):
            return str(kind), tuple(sizes)
    return "", None


class _Owners:
    """Whose kernels are whose, by their names."""

    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        source = OnnxSource.of(graph)
        self._nodes = {name: i for i, layer in enumerate(graph.layers) for name in layer.nodes}
        self._nodes |= dict.fromkeys(graph.head.nodes, HEAD)
        for name, owner in list(self._nodes.items()):  # a Split is one kernel, but a layer for each of its parts
            self._nodes.setdefault(re.sub(r"/part\d+(_\d+)?$", "", name), owner)
        self._tensors = {
            tensor: owner
            for name, owner in self._nodes.items()
            if name in source.nodes
            for tensor in source.nodes[name].output
        }

    def of(self, kernel: str) -> int | None:
        """The position of the layer, or `HEAD`, that a kernel is of; None if its name does not tell."""
        if kernel in self._nodes:
            return self._nodes[kernel]
        name = re.sub(r"_token_\d+$", "", kernel)
        if name.endswith("_nchwc"):
            return self._tensors.get(_uncut(name.removesuffix("_nchwc")))
        name = name.removeprefix("fused ").removesuffix("/MatMulAddFusion")
        owner = self._nodes.get(name)
        return self._tensors.get(_uncut(name)) if owner is None else owner


def _uncut(tensor: str) -> str:
    """The model's tensor that one of a split-part stands for: see `engine.subgraph.SubGraph`."""
    return tensor.partition("§")[0]


def _charge(run: _Run, owners: _Owners, account: _Account, path: Path) -> dict[Point, float]:
    """Milliseconds of a run by position of layer and rows that it made, the head's at `(HEAD, 0)`.

    Raises `InputError` for a run of another model, or of one for another size of image.
    """
    named = [owners.of(kernel.name) for kernel in run.kernels]
    before, behind = _filled(named), _filled(named[::-1])[::-1]
    spent: dict[int, float] = {}
    unnamed_ms = 0.0
    for kernel, owner, last, following in zip(run.kernels, named, before, behind, strict=True):
        moves = owner is None and kernel.op.startswith(("Reorder", "Transpose"))
        charged = next((o for o in ((following, last) if moves else (last, following)) if o is not None), None)
        if charged is None:
            raise InputError(f"{path}: no kernel in it is of '{owners.graph.name}', the first is '{kernel.name}'")
        spent[charged] = spent.get(charged, 0.0) + kernel.ms
        account.moved_ms += kernel.ms if moves else 0.0
        if owner is None and not moves:
            account.unnamed_ms[kernel.name] = account.unnamed_ms.get(kernel.name, 0.0) + kernel.ms
            unnamed_ms += kernel.ms if _HEAVY.search(kernel.op) else 0.0
        if _HEAVY.search(kernel.op):
            account.types[kernel.input_type] += 1
    total = sum(spent.values())
    if unnamed_ms > MOST_UNNAMED * total:
        raise InputError(
            f"{path}: {unnamed_ms / total:.0%} of the time is in convolutions and products that '{owners.graph.name}' "
            "does not name: is it of another model, or have its nodes no names?"
        )
    account.total_ms += total
    return _by_rows(run, spent, named, owners.graph, account, path)


def _filled(owners: Sequence[int | None]) -> list[int | None]:
    """Each of them, where it is None the one before."""
    found: list[int | None] = []
    for owner in owners:
        found.append(owner if owner is not None or not found else found[-1])
    return found


def _is_whole(positions: Collection[int], graph: LayerGraph) -> bool:
    """Whether a run with kernels of these layers (or `HEAD`) is one of the whole model, and not of a split-part."""
    return 0 in positions and (HEAD if graph.head.nodes else len(graph.layers) - 1) in positions


def _by_rows(
    run: _Run, spent: dict[int, float], named: Sequence[int | None], graph: LayerGraph, account: _Account, path: Path
) -> dict[Point, float]:
    """Times by layer and the rows that it made; layers that a run of the whole model does without took no time."""
    found: dict[Point, float] = {}
    for at, ms in spent.items():
        if at == HEAD:
            found[HEAD, 0] = ms
        else:
            mine = [kernel for kernel, owner in zip(run.kernels, named, strict=True) if owner == at]
            found[at, _rows(graph.layers[at], mine, account, path)] = ms
    if _is_whole(spent, graph):
        for at, layer in enumerate(graph.layers):
            if at not in spent:
                account.fused.add(layer.name)
                found[at, layer.height] = 0.0
    return found


def _rows(layer: Layer, kernels: Sequence[_Kernel], account: _Account, path: Path) -> int:
    """Rows that a layer's kernels made: what the last of them says whose result looks like the layer's."""
    shapes = [kernel.shape for kernel in kernels if kernel.shape is not None]
    if not shapes:
        account.shapeless = True
        return layer.height
    for shape in reversed(shapes):
        rows = _rows_of(shape, layer)
        if rows is not None and 1 <= rows <= layer.height:
            return rows
    made, wanted = ("x".join(map(str, sizes)) for sizes in (shapes[-1], layer.out_shape))
    raise InputError(
        f"{path}: layer '{layer.name}' made {made}, not {wanted}: "
        "the file is of another model, or of another size of image (--input-shape)"
    )


def _rows_of(shape: Shape, layer: Layer) -> int | None:
    """Rows of a layer's tensor of some shape; None if it is none. Channels are padded where they are in blocks."""
    channels, height, width = layer.out_shape
    if len(shape) == 4 and shape[3] == width and shape[1] >= channels:
        return shape[2]
    if len(shape) == 4 and shape[2] == width and shape[3] >= channels:
        return shape[1]
    return height if math.prod(shape) == math.prod(layer.out_shape) else None
