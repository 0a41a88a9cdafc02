"""The experiments by name, and all claims."""

from __future__ import annotations

from distredge.errors import UnknownNameError
from distredge.experiments import breakdown, dynamic, groups, nonlinear, schemes, tables
from distredge.experiments.base import Claim, Experiment

MODULES = (schemes, groups, dynamic, nonlinear, breakdown, tables)

EXPERIMENTS: dict[str, Experiment] = {e.name: e for module in MODULES for e in module.EXPERIMENTS}

CLAIMS: tuple[Claim, ...] = (
    *groups.CLAIMS,
    *schemes.CLAIMS,
    *dynamic.CLAIMS,
    *nonlinear.CLAIMS,
    *breakdown.CLAIMS,
    *tables.CLAIMS,
)

ALL = "all"


def experiments(names: list[str]) -> list[Experiment]:
    """The experiments of these names, or all; raises `UnknownNameError` for another name."""
    for name in names:
        if name != ALL and name not in EXPERIMENTS:
            raise UnknownNameError("experiment", name, (*EXPERIMENTS, ALL))
    return [e for e in EXPERIMENTS.values() if ALL in names or e.name in names]
