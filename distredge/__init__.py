"""DistrEdge: shares one CNN inference among unequal devices by rows, without changing its result.

    import distredge

    graph = distredge.load_model("vgg16")
    scenario = distredge.load_scenario("db-50")
    plan = distredge.plan(graph, scenario, method="osds", seed=0)
    plan.save("plan.json")

Names are loaded when they are first used, so that a device that only computes never imports what plans.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from distredge.api import partition, plan
    from distredge.model.graph import LayerGraph
    from distredge.model.load import load_model
    from distredge.plans.plan import Plan
    from distredge.plans.scheme import PartitionScheme
    from distredge.scenario import Scenario, load_scenario
    from distredge.simulate.goals import Goals
    from distredge.simulate.simulator import Simulator

_HOMES = {
    "Goals": "distredge.simulate.goals",
    "LayerGraph": "distredge.model.graph",
    "PartitionScheme": "distredge.plans.scheme",
    "Plan": "distredge.plans.plan",
    "Scenario": "distredge.scenario",
    "Simulator": "distredge.simulate.simulator",
    "load_model": "distredge.model.load",
    "load_scenario": "distredge.scenario",
    "partition": "distredge.api",
    "plan": "distredge.api",
}

__all__ = [
    "Goals",
    "LayerGraph",
    "PartitionScheme",
    "Plan",
    "Scenario",
    "Simulator",
    "__version__",
    "load_model",
    "load_scenario",
    "partition",
    "plan",
]


def _register_environment(gymnasium: ModuleType) -> None:
    """Make `gymnasium.make("distredge/VerticalSplit-v0")` work, whichever of the two is imported first.

    Gymnasium has no entry points for environments any more, and importing it here would burden every device.
    """
    gymnasium.register(id="distredge/VerticalSplit-v0", entry_point="distredge.envs.split_env:SplitEnv")


if find_spec("gymnasium"):  # no device has it, and each would pay for loading what waits for it
    from wrapt import when_imported

    when_imported("gymnasium")(_register_environment)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'distredge' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
