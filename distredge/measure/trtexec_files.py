"""Reads the files that `trtexec` exports, of TensorRT 8.0 to 11, and finds the layers that its kernels belong to.

Sources: `samples/common/sampleReporting.cpp` of NVIDIA/TensorRT at 8.2 and 8.5, which writes times and profiles; what
others read of 10; and the engine inspector's JSON, with `Bindings` up to 10 and `I/O Tensors` since, of which only
`Layers` is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from distredge.errors import InputError
from distredge.model.graph import LayerGraph

MOST_NAMES = 6
"""Notes name so many kernels."""

HEAD = "head"
"""Stands for the head among the owners of kernels."""


@dataclass(frozen=True)
class KernelTime:
    """A kernel, which TensorRT calls a layer: its name and its milliseconds in one run."""

    name: str
    ms: float


class _Run(BaseModel):
    start: float = Field(alias="startComputeMs")
    compute: float = Field(alias="computeMs", ge=0)


class _Count(BaseModel):
    count: int


class _Kernel(BaseModel):
    name: str
    average: float = Field(alias="averageMs", ge=0)
    median: float | None = Field(default=None, alias="medianMs", ge=0)  # since 8.5


class _Detail(BaseModel):
    name: str = Field(alias="Name")
    metadata: str = Field(default="", alias="Metadata")  # since 8.6, in engines of detailed profiling verbosity


class _Layers(BaseModel):
    layers: list[_Detail | str] = Field(alias="Layers")


def read_times(text: str, warm_up_ms: float = 0.0) -> list[float]:
    """Milliseconds on the GPU of each run, from `--exportTimes`.

    Before 8.5 the file holds the runs that warm up as well: those that began before `warm_up_ms` are left out, as later
    versions do it. Raises `InputError` for another file.
    """
    runs = _checked(list[_Run], text, "--exportTimes")
    return [run.compute for run in runs if run.start >= warm_up_ms]


def read_profile(text: str) -> list[KernelTime]:
    """Time of each kernel, in order, from `--exportProfile`: median over the runs, the mean before 8.5, which has none.

    Raises `InputError` for another file.
    """
    entries = _checked(list[_Count | _Kernel], text, "--exportProfile")
    return [
        KernelTime(entry.name, entry.average if entry.median is None else entry.median)
        for entry in entries
        if isinstance(entry, _Kernel)
    ]


def read_layer_info(text: str) -> dict[str, tuple[str, ...]]:
    """Names of the ONNX nodes that kernels come from, by the kernels' names, from `--exportLayerInfo`.

    Kernels of which the file does not tell are left out: all of them before 8.6, and without
    `--profilingVerbosity=detailed`. Raises `InputError` for another file.
    """
    layers = _checked(_Layers, text, "--exportLayerInfo").layers
    told = ((layer.name, _NODE.findall(layer.metadata)) for layer in layers if isinstance(layer, _Detail))
    return {name: tuple(nodes) for name, nodes in told if nodes}


_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def by_name(kernels: Sequence[KernelTime], nodes: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Milliseconds by kernel; kernels of one name count with the sum.

    A name that does not tell all its ONNX nodes is followed by what `nodes` tells, as TensorRT writes it:
    `x [ONNX Layer: a] [ONNX Layer: b]`.
    """
    found: dict[str, float] = {}
    for kernel in kernels:
        told = nodes.get(kernel.name, ())
        untold = told if any(node not in kernel.name for node in told) else ()
        name = " ".join([kernel.name, *(f"[ONNX Layer: {node}]" for node in untold)])
        found[name] = found.get(name, 0.0) + kernel.ms
    return found


_T = TypeVar("_T")


def _checked(kind: type[_T], text: str, flag: str) -> _T:
    # C++ streams write what is not a number in words that JSON does not have.
    text = re.sub(r"(?<= : )-?(nan|inf)\b", "0", text)
    try:
        return TypeAdapter(kind).validate_python(json.loads(text, strict=False))
    except (ValueError, ValidationError) as error:
        raise InputError(f"this is no file of trtexec's {flag}, or only part of one") from error


@dataclass(frozen=True)
class Attribution:
    """A profile of a whole model, by the model's layers.

    `layers_ms` holds the layers by name that have kernels of their own, `head_ms` is the head's. `reformat_ms` is what
    of these goes into laying data out anew, charged to the layer that wanted it. `unattributed` are the kernels that
    compute parts of several layers at once: their time is nobody's, since nothing says how to divide it.
    """

    layers_ms: Mapping[str, float]
    head_ms: float
    reformat_ms: float
    unattributed: tuple[KernelTime, ...]

    @property
    def unattributed_ms(self) -> float:
        """Time that is nobody's."""
        return sum(kernel.ms for kernel in self.unattributed)

    @property
    def total_ms(self) -> float:
        """Sum of all kernels."""
        return sum(self.layers_ms.values()) + self.head_ms + self.unattributed_ms

    def notes(self, whole_ms: float | None = None) -> Iterator[str]:
        """What a reader must know; `whole_ms` is what a run takes that is not profiled, if known."""
        total = self.total_ms or 1.0
        if self.reformat_ms:
            yield f"{self.reformat_ms / total:.1%} of the time lays data out anew, charged to the layer behind it"
        if self.unattributed:
            names = sorted(self.unattributed, key=lambda kernel: -kernel.ms)
            some = ", ".join(kernel.name for kernel in names[:MOST_NAMES])
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            share = self.unattributed_ms / total
            yield f"{share:.1%} of the time is in kernels across layers, nobody's: {some}{more}"
        if whole_ms:
            yield f"the kernels add up to {self.total_ms:.4g} ms, {self.total_ms / whole_ms:.1%} of a whole run"


def attribute(
    kernels: Sequence[KernelTime], graph: LayerGraph, nodes: Mapping[str, Sequence[str]] | None = None
) -> Attribution:
    """Charge each kernel to the layer, or the head, all of whose work it is part of.

    `nodes` are the ONNX nodes of kernels as `read_layer_info` gives them; of other kernels their names tell.
    """
    owners = {layer.tensor: layer.name for layer in graph.layers}
    owners |= {node: layer.name for layer in graph.layers for node in layer.nodes}
    owners |= dict.fromkeys(graph.head.nodes, HEAD)
    copies = _copied_tensors(graph)
    charged: dict[str, float] = {}
    reformat_ms, unattributed = 0.0, []
    for kernel in kernels:
        inner, moves = _without_reformat(kernel.name)
        told = [*(nodes or {}).get(kernel.name, ()), *_NODE.findall(kernel.name)]
        found = {owners[node] for node in told if node in owners}
        found = found or {owners[node] for node in named_nodes(inner, owners)} or copies.get(inner, set())
        if len(found) == 1:
            owner = found.pop()
            charged[owner] = charged.get(owner, 0.0) + kernel.ms
            reformat_ms += kernel.ms if moves else 0.0
        elif kernel.ms > 0:
            unattributed.append(kernel)
    head_ms = charged.pop(HEAD, 0.0)
    return Attribution(charged, head_ms, reformat_ms, tuple(unattributed))


_REFORMAT = re.compile(
    r"Reformatting CopyNode for (?:Input|Output) Tensor \d+ to "
    r"|(?:copied_)?(?:reshape|squeeze|unsqueeze)_(?:before|after)_"
)
_FOREIGN = re.compile(r"ForeignNode\[(.+)\.\.\.(.+)\]")
_ADDED = re.compile(r"_myl\d+_\d+$|§.*")  # by TensorRT; by `engine.subgraph`, to the name of a tensor


def _without_reformat(name: str) -> tuple[str, bool]:
    """A kernel's name without what says that it only lays data out anew for the kernel named behind; whether it did."""
    inner, count = _REFORMAT.subn("", name)
    return inner, count > 0 or name.endswith(" copy")


def named_nodes(name: str, known: Collection[str]) -> list[str]:
    """The ONNX nodes, or tensors, in a kernel's name: `a + b`, `a || b` (abreast), `PWN(a, b)`, `ForeignNode[a...b]`.

    A `ForeignNode` names the first and the last of its nodes: they tell whose it is only if both are of one layer, so
    where one of them is not known (it may be a constant) there are none.
    """
    foreign = _FOREIGN.search(name)
    tokens = foreign.groups() if foreign else re.split(r" \+ | \|\| |PWN\(|, |\)+(?= |,|$)", name)
    named = [token if token in known else _ADDED.sub("", token) for token in map(str.strip, tokens)]
    if foreign and not all(node in known for node in named):
        return []
    return [node for node in named if node in known]


def _copied_tensors(graph: LayerGraph) -> dict[str, set[str]]:
    """Owners of the kernels called `TENSOR copy`, which write a tensor into the concatenation that reads it."""
    tensors = {layer.name: layer.tensor for layer in graph.layers}
    copies: dict[str, set[str]] = {}
    for layer in graph.layers:
        for source in layer.inputs:
            if layer.op == "concat":
                copies.setdefault(f"{tensors.get(source.source, graph.input_tensor)} copy", set()).add(layer.name)
    return copies
