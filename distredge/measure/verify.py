"""How far a profile is off for a plan: its split-parts predicted, and measured now on the device itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distredge.engine.subgraph import OnnxSource
from distredge.errors import ProfileError
from distredge.measure.bench import Bench, summary
from distredge.measure.device import Progress
from distredge.measure.points import PartPoint, piece_of, plan_parts
from distredge.model.graph import LayerGraph
from distredge.plans.plan import Plan
from distredge.profiles.table import TableProfile
from distredge.simulate.costs import VolumeCosts

TURNS = 3
"""Times that each part is measured, a while apart."""


@dataclass(frozen=True)
class PartCheck:
    """A split-part: what the profile predicts, and what it took now, in ms."""

    part: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted_ms / self.measured_ms - 1.0


def check_plan(
    profile: TableProfile,
    graph: LayerGraph,
    plan: Plan,
    bench: Bench,
    rng: np.random.Generator,
    *,
    seconds_per_part: float = 0.6,
    progress: Progress = lambda done, total, what: None,
) -> list[PartCheck]:
    """Measure a plan's split-parts on the device that the profile is of, and say what the profile had predicted.

    Raises `ProfileError` if the bench's device, runtime, precision or threads are not the profile's.
    """
    was, now = profile.file.provenance.subject, bench.subject
    for key, value in now.model_dump().items():
        if getattr(was, key) != value:
            raise ProfileError(
                f"profile '{profile.name}' is of {key} '{getattr(was, key)}', this is '{value}': "
                "check it where it was made"
            )
    parts = list({p.key: p for p in plan_parts(graph, plan)}.values())
    source, costs = OnnxSource.of(graph), VolumeCosts(graph, (profile,))
    looks: dict[int, list[list[float]]] = {i: [] for i in range(len(parts))}
    for turn in range(TURNS):
        for done, i in enumerate(rng.permutation(len(parts))):
            progress(turn * len(parts) + done, TURNS * len(parts), parts[i].title)
            looks[i] += bench.look(piece_of(source, graph, parts[i]), seconds_per_part / TURNS)
    return [_check(costs, part, summary(looks[i]).median_ms) for i, part in enumerate(parts)]


def _check(costs: VolumeCosts, part: PartPoint, measured_ms: float) -> PartCheck:
    predicted = float(costs.table(part.volume)[0, part.out.start, part.out.stop])
    return PartCheck(part.title, predicted, measured_ms)
