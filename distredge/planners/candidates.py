"""Where a joint search begins: partition schemes to try, and split decisions under each."""

from __future__ import annotations

import numpy as np

from distredge.partitioning.lcpss import SAMPLES, lcpss
from distredge.planners.base import Task
from distredge.planners.moves import Locations
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability, proportional_cuts, starts

ALPHAS = (0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
"""Weights of transmission at which LC-PSS proposes schemes."""


def candidate_schemes(task: Task) -> list[Locations]:
    """LC-PSS at several alpha, and the whole model as one volume; distinct, in a fixed order.

    All are cut around the layers that not everybody may compute, lest that extend to their neighbours.
    """
    fences, providers = _fences(task), len(task.scenario.providers)
    found = [tuple(sorted({0, *fences}))]
    for alpha in ALPHAS:
        locations = lcpss(task.graph, providers, alpha, SAMPLES, task.rng).locations
        locations = tuple(sorted({*locations, *fences}))
        if locations not in found:
            found.append(locations)
    return found


def _fences(task: Task) -> set[int]:
    """Cut points next to where providers are barred."""
    points = (*task.graph.cut_points, len(task.graph.layers))
    barred = {i for name in task.scenario.provider_names for i in task.goals.barred_layers(task.graph, name)}
    before = {max(p for p in points if p <= max(i, 0)) for i in barred}
    after = {min(p for p in points if p > max(i, 0)) for i in barred}
    return (before | after) - {len(task.graph.layers)}


def starting_plans(simulator: Simulator) -> IntArray:
    """(n, volumes, providers + 1): plans to begin with under a scheme and an order; the best of them are annealed.

    Whatever else can propose plans for a simulator adds them here.
    """
    return starts(simulator) if simulator.aim is None and simulator.barred is None else _starts_for_goals(simulator)


def _starts_for_goals(simulator: Simulator) -> IntArray:
    """`starts`, and the best k providers by what each is worth alone, and by reliability.

    Who is barred from a volume leaves its rows to the others.
    """
    free, heights = simulator.unbarred(), simulator.heights
    rates = capability(free)
    worths = [free.score(free.single_device_cuts())]
    if simulator.aim is not None:
        worths.append(-simulator.aim.works)
    found = [starts(free)]
    for ranking in (np.argsort(worth, kind="stable") for worth in worths):
        for k in range(1, simulator.providers + 1):
            shares = np.zeros_like(rates)
            shares[ranking[:k]] = rates[ranking[:k]]
            found.append(proportional_cuts(heights, shares)[None])
    return simulator.permitted(np.concatenate(found))
