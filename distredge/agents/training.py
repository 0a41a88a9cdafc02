"""A training under way: episodes in, the best plan and a policy out, checkpoints beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from distredge.agents.actor_file import Actor
from distredge.agents.callbacks import GREEDY_TAG, callbacks_of
from distredge.agents.checkpoint import AGENT, BestPlan, read_best
from distredge.agents.ddpg import SplitDdpg
from distredge.agents.elites import ElitePool
from distredge.agents.noise import make_exploration
from distredge.agents.policy import actor_of, distil
from distredge.agents.settings import Polish, Settings
from distredge.agents.snapshot import packed_agent, restore_state, save_state
from distredge.agents.watch import Watch
from distredge.envs.encode import FORMULATIONS
from distredge.envs.mdp import SplitMdp
from distredge.envs.vector_env import LockstepVecEnv
from distredge.resources import write_atomically
from distredge.simulate.anneal import anneal
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

Progress = Callable[[float, float], None]
"""Called with (share of the training done in [0, 1], best latency in ms)."""

CHECKPOINT_EVERY_S = 10.0
"""Seconds between checkpoints."""

DISTILLATION_SHARE = 0.1
"""Part of a time budget that is kept for the distillation."""

_NO_END = 10**12
"""Steps that no training reaches."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training found.

    `best_cuts` (volumes, providers + 1) and `best_latency_ms`: the best plan seen (R_s*, T* of Algorithm 2).
    `actor` is the greedy policy: that of the episode of the best plan (Actor* of Algorithm 2) or, with distillation,
    the distilled one; `policy_latency_ms` of the plan that it makes, run in the MDP. `episodes` counts those before a
    resumption too, `seconds` do not.
    """

    best_cuts: IntArray
    best_latency_ms: float
    actor: Actor
    policy_latency_ms: float
    episodes: int
    seconds: float
    interrupted: bool = False


class Training:
    """A training under way. What it has found is always consistent, wherever it is interrupted."""

    def __init__(
        self,
        simulator: Simulator,
        settings: Settings,
        rng: np.random.Generator,
        budget_s: float | None,
        out: Path | None,
        progress: Progress,
        watch: Watch,
    ) -> None:
        self.simulator = simulator
        self.settings = settings
        self.rng = rng
        self._began = time.perf_counter()
        self._budget_s = budget_s
        self.out = out
        self._progress = progress
        self._watch = watch
        self.episodes = 0
        self.batches = 0
        self._saved_at = -math.inf
        self.best_latency_ms = math.inf
        self.best_cuts: IntArray | None = None
        self.best_policy: dict[str, torch.Tensor] = {}
        self.keeps_policy = settings.distillation is None
        self._policy_is_due = False
        self.greedy_ms = math.nan
        self._formulation = FORMULATIONS[settings.formulation](simulator)
        self._mdp = SplitMdp(simulator, self._formulation)
        self.elites = self._make_elites()
        explore = make_exploration(settings, simulator.providers, self.elites, rng)
        self.agent = SplitDdpg(LockstepVecEnv(self._mdp, settings.environments), settings, explore, self.elites, rng)
        self.agent.set_logger(Logger(str(out) if out else None, [TensorBoardOutputFormat(str(out))] if out else []))

    def _make_elites(self) -> ElitePool | None:
        if self.settings.elites is None:
            return None
        return ElitePool(self.simulator, self._formulation, self.settings.elites.keep, self.settings.gamma)

    def begin(self, seeds: IntArray | None) -> None:
        """Take note of what is known beforehand: the `seeds` and, with elites, plans in proportion to capability."""
        known = [] if seeds is None else [seeds]
        if self.elites is not None:
            known.append(starts(self.simulator))
        for plans in known:
            self.seen(plans, self.simulator.evaluate(plans))

    def resume(self) -> None:
        """Go on from the checkpoint in the folder; raises `InputError` if it is damaged or of another training."""
        assert self.out is not None
        restore_state(self, self.out)
        self.agent.episode, self.agent.share = self.episodes + 1, self.share()
        newer = np.array(read_best(self.out).cuts)[None]  # written whenever a better plan is found, so maybe later
        self.seen(newer, self.simulator.evaluate(newer))

    def run(self) -> TrainingResult:
        """Train to the end, or until Ctrl-C if there is a folder to keep things in."""
        interrupted = False
        try:
            self.learn()
            self._checkpoint()
            self._set_policy()
        except KeyboardInterrupt:
            if self.out is None or self.best_cuts is None:
                raise
            interrupted = True
            self.keep_policy()
            self._checkpoint()
            if self.keeps_policy:
                self._set_policy()
        result = self._result(interrupted)
        if self.out is not None:
            self.agent.logger.record(GREEDY_TAG, result.policy_latency_ms)
            self.agent.logger.dump(self.episodes)
            write_atomically(self.out / AGENT, packed_agent(self.agent))
        self.agent.logger.close()
        if not interrupted:
            self._progress(1.0, self.best_latency_ms)
        return result

    def learn(self) -> None:
        """Do the episodes that are left; at least one batch, however small the budget."""
        if self.share() >= 1.0 and self.best_cuts is not None:
            return
        left = (self.settings.episodes - self.episodes) * self._mdp.volumes
        self.agent.learn(
            left if self._budget_s is None else _NO_END,
            callback=callbacks_of(self, self._watch),
            log_interval=_NO_END,
            reset_num_timesteps=False,
        )

    def share(self) -> float:
        """Share of the training that is done, in [0, 1]: of the episodes, or of the time if there is a budget."""
        done = self.episodes / self.settings.episodes
        if self._budget_s is None:
            return min(1.0, done)
        spent = self.seconds() / (self._budget_s * (1.0 - (DISTILLATION_SHARE if self.settings.distillation else 0.0)))
        return min(1.0, spent if self.settings.until_budget else max(spent, done))

    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._began

    def actor(self) -> Actor:
        """The greedy policy at this time."""
        return actor_of(self.agent, self._formulation)

    def seen(self, cuts: IntArray, latency_ms: FloatArray) -> None:
        """Take note of plans (n, volumes, providers + 1), and keep the best."""
        at = int(np.argmin(latency_ms))
        if latency_ms[at] < self.best_latency_ms:
            self.best_latency_ms = float(latency_ms[at])
            self.best_cuts = cuts[at].copy()
            self._policy_is_due = self.keeps_policy
            self._write_best()
        if self.elites is not None:
            self.elites.offer(cuts, latency_ms)

    def keep_policy(self) -> None:
        """Keep critic and actor if the episode just ended was the best (Algorithm 2, lines 24 to 26).

        Called when they have learnt from its last step.
        """
        if self._policy_is_due:
            self.best_policy = {name: value.clone() for name, value in self.agent.policy.state_dict().items()}
            self._policy_is_due = False

    def batch_ended(self, cuts: IntArray, latency_ms: FloatArray) -> bool:
        """Called when the episodes that ran together have ended; False when the budget is spent."""
        self.episodes += len(latency_ms)
        self.batches += 1
        self.seen(cuts, latency_ms)
        polish = self.settings.polish
        if polish is not None and self.batches % polish.every == 0:
            self._polish(polish)
        share = self.share()
        self.agent.episode, self.agent.share = self.episodes + 1, share
        self._progress(share, self.best_latency_ms)
        return self._budget_s is None or share < 1.0

    def _polish(self, polish: Polish) -> None:
        assert self.best_cuts is not None
        plans = self.best_cuts[None] if self.elites is None else self.elites.cuts
        for start in self.rng.integers(len(plans), size=polish.runs):
            found, latency = anneal(self.simulator, plans[start], polish.steps, self.rng, polish.warmth)
            self.seen(found[None], np.array([latency]))

    def _set_policy(self) -> None:
        """Make the agent's policy the one that is reported."""
        assert self.best_cuts is not None
        if self.settings.distillation is None:
            self.agent.policy.load_state_dict(self.best_policy)
            return
        deadline = math.inf if self._budget_s is None else self._budget_s
        distil(
            self.agent, self.simulator, self._formulation, self.best_cuts, self.settings.distillation,
            lambda: self.seconds() > deadline,
        )  # fmt: skip

    def _result(self, interrupted: bool) -> TrainingResult:
        assert self.best_cuts is not None
        actor = self.actor()
        policy_ms = actor.rollout(self.simulator)[1]
        return TrainingResult(
            self.best_cuts, self.best_latency_ms, actor, policy_ms, self.episodes, self.seconds(), interrupted
        )

    def _write_best(self) -> None:
        if self.out is None or self.best_cuts is None:
            return
        simulator = self.simulator
        BestPlan(
            model=simulator.graph.name,
            model_sha256=simulator.graph.sha256,
            providers=simulator.scenario.provider_names,
            locations=simulator.scheme.locations,
            cuts=tuple(tuple(int(c) for c in cuts) for cuts in self.best_cuts),
            latency_ms=self.best_latency_ms,
        ).save(self.out)

    def checkpoint_when_due(self) -> None:
        """Called before every step: saves between two batches of episodes, when the last time is long enough ago."""
        if self._mdp.volume == 0 and self.seconds() - self._saved_at > CHECKPOINT_EVERY_S:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self.out is not None and self.best_cuts is not None:
            save_state(self, self.out)
            self._saved_at = self.seconds()
