"""The greedy policy: run it in the MDP, or teach it one plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from distredge.agents.ddpg import SplitDdpg
from distredge.agents.elites import replay
from distredge.agents.settings import Distillation
from distredge.envs.mdp import SplitMdp
from distredge.simulate.kernel import IntArray

CHECK_EVERY = 50
"""Gradient steps of the distillation between looks at what the policy does."""


def greedy_rollout(agent: SplitDdpg, mdp: SplitMdp) -> tuple[IntArray, float]:
    """The cuts (volumes, providers + 1) that the policy makes without exploration, and their latency in ms."""
    observed = mdp.reset(1)
    latency = None
    while latency is None:
        observed, _, latency = mdp.step(agent.greedy(observed).astype(np.float64))
    return mdp.cuts[0].copy(), float(latency[0])


def distil(agent: SplitDdpg, mdp: SplitMdp, cuts: IntArray, settings: Distillation, enough: Callable[[], bool]) -> bool:
    """Teach the actor the decisions of one plan; True if the greedy policy then makes exactly that plan.

    Regression on the plan's own states, a handful: as the first observation never changes, a policy that makes each
    of these decisions to within half a row reaches each next state. `enough` ends it early.
    """
    steps = replay(mdp.simulator, mdp.formulation, cuts[None], gamma=1.0)
    states, wanted = torch.from_numpy(steps.observations[0]), torch.from_numpy(steps.actions[0])
    optimizer = torch.optim.Adam(agent.actor.parameters(), lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for n in range(settings.steps):
        if n % CHECK_EVERY == 0 and (enough() or np.array_equal(greedy_rollout(agent, mdp)[0], cuts)):
            break
        loss = (agent.actor(states) - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return np.array_equal(greedy_rollout(agent, mdp)[0], cuts)
