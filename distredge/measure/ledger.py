"""What was measured so far, and the file that keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from distredge.config import read_json
from distredge.errors import ProfileError
from distredge.measure.bench import summary
from distredge.measure.points import LayerPoint, PartPoint, Point, volume_title
from distredge.measure.trtexec_files import KernelTime, attribute
from distredge.model.graph import LayerGraph
from distredge.profiles.fusion import fit_fusion, inner_work, volume_signature
from distredge.profiles.measured import (
    Conditions,
    FusedTiming,
    Fusion,
    Method,
    Provenance,
    RowTiming,
    Sentinel,
    Subject,
    TableFile,
    Timing,
)
from distredge.profiles.regression import best, cross_validate
from distredge.profiles.table import TableProfile
from distredge.simulate.costs import VolumeCosts


@dataclass
class Ledger:
    """Timings of one subject: layers by signature, then rows; heads by signature; split-parts by their key."""

    name: str
    subject: Subject
    layers: dict[str, dict[int, Timing]] = field(default_factory=dict)
    heads: dict[str, Timing] = field(default_factory=dict)
    parts: dict[tuple[str, ...], FusedTiming] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    conditions: tuple[Conditions, ...] = ()
    sentinel: Sentinel | None = None
    notes: tuple[str, ...] = ()
    kernels: dict[str, dict[str, float]] = field(default_factory=dict)
    _looks: dict[tuple[str, ...], list[list[float]]] = field(default_factory=dict)

    @classmethod
    def open(cls, name: str, path: Path, subject: Subject) -> Ledger:
        """The ledger that a file keeps, a new one if there is no file.

        Raises `ProfileError` if the file is malformed or of another subject.
        """
        if not path.exists():
            return cls(name, subject)
        file = read_json(path, TableFile, ProfileError)
        was = file.provenance.subject.model_dump()
        for key, value in subject.model_dump().items():
            if was[key] != value:
                raise ProfileError(
                    f"'{path}' was measured with {key} '{was[key]}', not '{value}': choose another name or remove it"
                )
        return cls(
            name,
            subject,
            layers={
                signature: {t.rows: Timing(**t.model_dump(exclude={"rows"})) for t in timings}
                for signature, timings in file.layers.items()
            },
            heads=dict(file.heads),
            parts={("part", p.volume, str(p.start), str(p.stop)): p for p in file.parts},
            models=dict(file.provenance.models),
            conditions=file.provenance.conditions,
            sentinel=file.provenance.sentinel,
            notes=file.provenance.notes,
            kernels=dict(file.kernels),
        )

    def note(self, point: Point, looks: list[list[float]], graph: LayerGraph) -> None:
        """Add looks at a point of a model to those of this sitting."""
        seen = self._looks.setdefault(point.key, [])
        seen += looks
        timing = summary(seen)
        if isinstance(point, LayerPoint):
            self.layers.setdefault(point.layer.signature, {})[point.rows] = timing
        elif isinstance(point, PartPoint):
            self.parts[point.key] = self._fused(point, timing, graph)
        else:
            self.heads[point.key[1]] = timing

    def watch(self, point: LayerPoint, looks: list[list[float]]) -> None:
        """Note that the sentinel was measured once more; another layer begins anew."""
        signature, known = point.layer.signature, self.sentinel
        before = known.medians_ms if known and known.signature == signature else ()
        medians = (*before, summary(looks).median_ms)
        self.sentinel = Sentinel(signature=signature, rows=point.rows, medians_ms=medians)

    def note_kernels(self, graph: LayerGraph, kernels: dict[str, float], whole_ms: float) -> None:
        """Keep a profiler's table of a model whose layers together take `whole_ms`, and what it tells."""
        self.kernels[graph.name] = kernels
        told = attribute([KernelTime(name, ms) for name, ms in kernels.items()], graph).notes(whole_ms)
        self.remark(graph, "kernels", list(told))

    def remark(self, graph: LayerGraph, subject: str, said: list[str]) -> None:
        """Put notes on a subject of a model in the place of earlier ones."""
        begin = f"{graph.name}, {subject}: "
        kept = [note for note in self.notes if not note.startswith(begin)]
        self.notes = (*kept, *(f"{begin}{words}" for words in said))

    def file(self, method: Method, complete: bool) -> TableFile:
        """What is stored; a complete one says what fused execution saves and which representation is best."""
        file = TableFile(
            name=self.name,
            provenance=Provenance(
                subject=self.subject,
                method=method,
                date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                models=self.models,
                conditions=self.conditions,
                sentinel=self.sentinel,
                notes=self.notes,
                complete=complete,
            ),
            layers={
                signature: tuple(RowTiming(rows=rows, **timings[rows].model_dump()) for rows in sorted(timings))
                for signature, timings in sorted(self.layers.items())
            },
            heads=self.heads,
            parts=tuple(self.parts[key] for key in sorted(self.parts)),
            kernels=self.kernels,
        )
        if not complete:
            return file
        errors = cross_validate(TableProfile(file).points.values())
        return file.model_copy(update={"representation": best(errors), "fusion": self._fusion()})

    def _fused(self, point: PartPoint, timing: Timing, graph: LayerGraph) -> FusedTiming:
        """A split-part's timing, with what its layers take apart."""
        at = point.out.start, point.out.stop
        alone = TableProfile(
            self.file(Method(), complete=False).model_copy(update={"parts": (), "representation": "table"})
        )
        work = inner_work(point.volume)[:, at[0], at[1]]
        return FusedTiming(
            volume=volume_signature(point.volume),
            title=volume_title(point.volume),
            start=at[0],
            stop=at[1],
            apart_ms=round(float(VolumeCosts(graph, (alone,)).table(point.volume)[0, at[0], at[1]]), 6),
            inner_work=(float(work[0]), float(work[1]), float(work[2])),
            **timing.model_dump(),
        )

    def _fusion(self) -> Fusion | None:
        parts = list(self.parts.values())
        if not parts:
            return None
        return fit_fusion(
            np.array([p.inner_work for p in parts]),
            np.array([p.apart_ms for p in parts]),
            np.array([p.median_ms for p in parts]),
        )
