"""The file of a measured profile: timings, and all that is needed to judge and to use them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from distredge.config import Frozen
from distredge.model.layer import Head
from distredge.resources import write_atomically

UNSTEADY_CV = 0.05
"""A coefficient of variation above this marks a measurement as unsteady."""

Precision = Literal["FP32", "FP16", "INT8"]
"""In which a device computes."""

Representation = Literal["table", "linear", "piecewise", "knn"]
"""How latency is read off between the numbers of rows that were measured: see `profiles.regression`."""


class Timing(Frozen):
    """Repeated measurements of one thing, summed up; `count` 1 and equal quantiles where only one figure is known."""

    median_ms: float = Field(ge=0)
    p10_ms: float = Field(ge=0)
    p90_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)
    cv: float = Field(ge=0, description="standard deviation / mean")
    count: int = Field(ge=1, description="of runs that were timed")
    looks: int = Field(default=1, ge=1, description="times that it was loaded and run anew: what differs between them")

    @property
    def standard_error_ms(self) -> float:
        """Of the median. Runs of one look are alike, so only looks count as independent (and normal) samples."""
        return 1.2533 * (self.p90_ms - self.p10_ms) / 2.5631 / math.sqrt(self.looks)


class RowTiming(Timing):
    """The timing of a layer at a number of output rows."""

    rows: int = Field(ge=1)


class FusedTiming(Timing):
    """The timing of a whole split-part: the rows `[start, stop)` of a volume's last layer, in one session."""

    volume: str = Field(description="`profiles.fusion.volume_signature`")
    title: str = Field(description="for people: the model and the volume's first and last layer")
    start: int = Field(ge=0)
    stop: int = Field(ge=1)
    apart_ms: float = Field(ge=0, description="sum of its layers' latencies, as this profile had them then")
    inner_work: tuple[float, float, float] = Field(description="`profiles.fusion.inner_work` of it")


class Fusion(Frozen):
    """How much less a fused split-part takes than the sum of its layers, fitted to parts that were measured.

    `saved = share * sum of layers + ms_per_layer * inner layers + ms_per_million_elements * elements that stay inside
    + ms_per_million_params * parameters of layers behind the first`, of which only those terms are used that help to
    predict parts that were left out. A figure below zero is a cost. The errors are |predicted / measured - 1|, of each
    part by a fit to the others.
    """

    share: float
    ms_per_layer: float
    ms_per_million_elements: float
    ms_per_million_params: float
    parts: int = Field(ge=1)
    error_median: float = Field(ge=0)
    error_p90: float = Field(ge=0)
    error_median_unfused: float = Field(ge=0, description="of the plain sum of layers, for comparison")


class Sentinel(Frozen):
    """One layer that was measured again and again: its spread is the drift of the device."""

    signature: str
    rows: int
    medians_ms: tuple[float, ...] = ()

    @property
    def drift(self) -> float:
        """Largest over smallest median, minus 1; 0 for fewer than two."""
        return max(self.medians_ms) / min(self.medians_ms) - 1 if self.medians_ms else 0.0


class Subject(Frozen):
    """What was measured. Timings of different subjects are never mixed in one file."""

    backend: Literal["ort", "torch", "tensorrt", "trtexec", "import"]
    host: str
    device: str = Field(description="the processor or GPU, as the system calls it")
    runtime: str = Field(description="onnxruntime, torch, TensorRT ...")
    runtime_version: str
    precision: Precision = "FP32"
    threads: int = Field(ge=0, description="of the runtime; 0 on a GPU, or not known")


class Conditions(Frozen):
    """What state the device was in at one moment; what it does not tell is None or empty."""

    at: str = Field(description="ISO 8601, UTC")
    clocks_mhz: dict[str, float] = {}
    governors: tuple[str, ...] = ()
    temperatures_c: dict[str, float] = {}
    throttled: str | None = Field(default=None, description="why the device slowed itself down, in its own words")
    power_mode: str | None = None
    free_memory_mb: float | None = None
    load: float | None = Field(default=None, description="processes that ran or waited, mean of a minute")


class Method(Frozen):
    """How the timings were obtained."""

    warm_up_s: float = Field(default=0.0, ge=0, description="before each point")
    seconds_per_point: float = Field(default=0.0, ge=0)
    order: Literal["random", "sequential", "unknown"] = "unknown"
    caches: str = Field(default="", description="what was done to the caches before each run")
    row_counts: str = Field(default="", description="how the numbers of rows were chosen")
    commands: tuple[str, ...] = Field(default=(), description="that another program was run with")


class Provenance(Frozen):
    """Where the figures of a `TableFile` come from."""

    subject: Subject
    method: Method
    date: str = Field(description="of the last measurement, ISO 8601, UTC")
    models: dict[str, str] = Field(description="whose layers were measured: names by the sha256 of their files")
    conditions: tuple[Conditions, ...] = Field(default=(), description="before and after each sitting")
    sentinel: Sentinel | None = None
    notes: tuple[str, ...] = ()
    complete: bool = Field(description="false: interrupted; measuring the same model again goes on from here")


def _not_the_first(version: object) -> object:
    if version == 1:
        raise ValueError("1 is of an earlier release, which kept too little: measure the device again")
    return version


class TableFile(Frozen):
    """A measured profile's JSON file (`schema_version` 2): timings by `Layer.signature` and by `head_signature`.

    `representation` None: the one that cross-validation finds best.
    """

    schema_version: Annotated[Literal[2], BeforeValidator(_not_the_first)] = 2
    name: str = Field(min_length=1)
    kind: Literal["measured"] = "measured"
    provenance: Provenance
    representation: Representation | None = None
    layers: dict[str, tuple[RowTiming, ...]]
    heads: dict[str, Timing] = {}
    parts: tuple[FusedTiming, ...] = ()
    fusion: Fusion | None = None
    kernels: dict[str, dict[str, float]] = Field(
        default={}, description="by model: ms of each kernel in a run of all its layers under the runtime's profiler"
    )

    @model_validator(mode="after")
    def _rows_increase(self) -> TableFile:
        for signature, timings in self.layers.items():
            rows = [t.rows for t in timings]
            if not rows or rows != sorted(set(rows)):
                raise ValueError(f"the rows of layer '{signature}' must be increasing and not empty")
        return self

    def save(self, path: Path) -> None:
        """Write the file; an interruption leaves the old one."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def head_signature(head: Head) -> str:
    """What decides a head's speed, whatever the model: the key under which its timing is stored."""
    return f"{'+'.join(head.ops)}-m{head.macs}-p{head.params}"
