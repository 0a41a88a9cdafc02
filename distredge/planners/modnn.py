"""MoDNN (Mao et al., DATE 2017): layer by layer, in strips proportional to the devices' computing capability.

Its biased one-dimensional partition (BODP) gives a device the share `c_i / sum c` of a layer's rows, where `c = 1 / a`
comes from a linear fit `t = a * F + b`; there is no model of the network.

Simplified: on a DAG a layer is what lies between two partition points (a residual block is one layer). MoDNN gathers
every layer's output at one node and sends it out again; here rows go directly to whoever needs them, which favours it.
Its partition of fully connected layers is left out: they run on one provider, as in DistrEdge's comparison.
"""

from __future__ import annotations

import numpy as np

from distredge.planners.base import Planner, Strategy, Task
from distredge.planners.linear import layer_by_layer, linear_models, strategy_of
from distredge.simulate.starts import proportional_cuts


class Modnn(Planner):
    """Capability-proportional rows of every layer, rounded cumulatively."""

    name = "modnn"

    def plan(self, task: Task) -> Strategy:
        """One strategy, no search."""
        scheme = layer_by_layer(task.graph)
        heights = np.array([part.height for part in scheme.parts])
        return strategy_of(task, scheme, proportional_cuts(heights, linear_models(task).capability))
