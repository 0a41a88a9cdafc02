"""The greedy policy: taken out of an agent, or taught one plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from distredge.agents.actor_file import Actor
from distredge.agents.ddpg import SplitDdpg
from distredge.agents.elites import replay
from distredge.agents.settings import Distillation
from distredge.envs.encode import AnyFormulation
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator

CHECK_EVERY = 50
"""Gradient steps of the distillation between looks at what the policy does."""


def actor_of(agent: SplitDdpg, formulation: AnyFormulation) -> Actor:
    """A copy of the agent's policy without exploration, in numpy."""
    linear = [part for part in agent.actor.mu if isinstance(part, torch.nn.Linear)]
    layers = tuple((x.weight.detach().numpy().copy(), x.bias.detach().numpy().copy()) for x in linear)
    return Actor(layers, formulation.constants)


def distil(
    agent: SplitDdpg,
    simulator: Simulator,
    formulation: AnyFormulation,
    cuts: IntArray,
    settings: Distillation,
    enough: Callable[[], bool],
) -> bool:
    """Teach the actor the decisions of one plan; True if the greedy policy then makes exactly that plan.

    Regression on the plan's own states, a handful: as the first observation never changes, a policy that makes each
    of these decisions to within half a row reaches each next state. `enough` ends it early.
    """
    steps = replay(simulator, formulation, cuts[None], gamma=1.0)
    states, wanted = torch.from_numpy(steps.observations[0]), torch.from_numpy(steps.actions[0])
    optimizer = torch.optim.Adam(agent.actor.parameters(), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)

    def done() -> bool:
        return np.array_equal(actor_of(agent, formulation).rollout(simulator)[0], cuts)

    for n in range(settings.steps):
        if n % CHECK_EVERY == 0 and (enough() or done()):
            break
        loss = (agent.actor(states) - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return done()
