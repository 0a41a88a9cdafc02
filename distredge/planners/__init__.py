"""Planners: every method that turns a model and a scenario into a strategy, under the same costs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from distredge.errors import UnknownNameError

if TYPE_CHECKING:
    from distredge.planners.base import Planner

METHODS = {
    "osds": ("distredge.planners.distredge", "Osds"),
    "osds-paper": ("distredge.planners.distredge", "OsdsPaper"),
    "search": ("distredge.planners.search", "Search"),
    "equal": ("distredge.planners.equal", "Equal"),
    "offload": ("distredge.planners.offload", "Offload"),
    "exact": ("distredge.planners.exact", "Exact"),
    "modnn": ("distredge.planners.modnn", "Modnn"),
    "mednn": ("distredge.planners.mednn", "Mednn"),
    "coedge": ("distredge.planners.coedge", "CoEdge"),
    "deepthings": ("distredge.planners.deepthings", "DeepThings"),
    "deeperthings": ("distredge.planners.deeperthings", "DeeperThings"),
    "aofl": ("distredge.planners.aofl", "Aofl"),
    "neurosurgeon": ("distredge.planners.neurosurgeon", "Neurosurgeon"),
    "dads": ("distredge.planners.dads", "Dads"),
    "scission": ("distredge.planners.scission", "Scission"),
}
"""Where each method lives; a method's module is imported when it is used."""


def planner(name: str) -> Planner:
    """The planner of a method; raises `UnknownNameError` with the nearest name for another one."""
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    module, cls = METHODS[name]
    made: Planner = getattr(import_module(module), cls)()
    return made
