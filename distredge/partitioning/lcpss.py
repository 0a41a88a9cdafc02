"""LC-PSS: layer-configuration-based partition scheme search (DistrEdge, Algorithm 1)."""

from __future__ import annotations

import numpy as np

from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.partitioning.score import SplitScore
from distredge.plans.scheme import PartitionScheme

ALPHA = 0.75
"""Weight of transmission against operations that is best in every case of the paper (Fig. 4)."""

SAMPLES = 100
"""Random split decisions at which the result settles (Fig. 5)."""

MAX_SAMPLES = 100_000
"""More would only take memory."""


def lcpss(graph: LayerGraph, providers: int, alpha: float, samples: int, rng: np.random.Generator) -> PartitionScheme:
    """The partition scheme that Algorithm 1 finds: `greedy` on a fresh set of random split decisions."""
    return greedy(scorer(graph, providers, alpha, samples, rng))


def scorer(graph: LayerGraph, providers: int, alpha: float, samples: int, rng: np.random.Generator) -> SplitScore:
    """The score of Eq. 4; raises `InputError` if alpha or samples are out of range."""
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must be between 0 and 1, got {alpha}")
    if not 1 <= samples <= MAX_SAMPLES:
        raise InputError(f"samples must be between 1 and {MAX_SAMPLES}, got {samples}")
    return SplitScore(graph, providers, samples, alpha, rng)


def greedy(score: SplitScore) -> PartitionScheme:
    """Algorithm 1: starts with the locations {first layer, last location}; in each round, every volume is cut at the
    location that lowers the score most, if one does; ends when none does.
    """
    graph = score.graph
    points = graph.cut_points
    locations = tuple(sorted({points[0], points[-1]}))
    while True:
        stops = (*locations[1:], len(graph.layers))
        best = [_best_cut(score, points, a, b) for a, b in zip(locations, stops, strict=True)]
        found = [p for p in best if p is not None]
        if not found:
            return PartitionScheme(graph, locations)
        locations = tuple(sorted({*locations, *found}))


def _best_cut(score: SplitScore, points: tuple[int, ...], start: int, stop: int) -> int | None:
    """The location inside a volume that lowers the score most; None if none lowers it."""
    inside = [p for p in points if start < p < stop]
    if not inside:
        return None
    best = min(inside, key=lambda p: score.volume(start, p) + score.volume(p, stop))
    return best if score.volume(start, best) + score.volume(best, stop) < score.volume(start, stop) else None
