"""A training under way: episodes in, the best plan and a policy out, checkpoints beside it."""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from distredge.agents.checkpoint import AGENT, BestPlan, damaged, load_checkpoint, read_best, save_checkpoint
from distredge.agents.ddpg import SplitDdpg
from distredge.agents.elites import ElitePool
from distredge.agents.noise import make_exploration
from distredge.agents.policy import distil, greedy_rollout
from distredge.agents.settings import Polish, Settings
from distredge.envs.mdp import SplitMdp
from distredge.envs.split_env import FORMULATIONS
from distredge.envs.vector_env import LockstepVecEnv
from distredge.errors import InputError
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

_BUFFER = ("observations", "actions", "next_observations", "dones", "rewards")


@dataclass(frozen=True)
class TrainingResult:
    """What a training found.

    `best_cuts` (volumes, providers + 1) and `best_latency_ms`: the best plan seen (R_s*, T* of Algorithm 2).
    `policy_latency_ms`: of the plan that the greedy policy makes, run in the MDP; that policy is the one of the
    episode of the best plan (Actor* of Algorithm 2) or, with distillation, the distilled one. `episodes` counts
    those before a resumption too, `seconds` do not.
    """

    best_cuts: IntArray
    best_latency_ms: float
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
    ) -> None:
        self.simulator = simulator
        self.settings = settings
        self._rng = rng
        self._began = time.perf_counter()
        self._budget_s = budget_s
        self._out = out
        self._progress = progress
        self.episodes = 0
        self._batches = 0
        self._saved_at = -math.inf
        self.best_latency_ms = math.inf
        self.best_cuts: IntArray | None = None
        self._best_policy: dict[str, torch.Tensor] = {}
        self._mdp = SplitMdp(simulator, FORMULATIONS[settings.formulation](simulator))
        self._elites = self._make_elites()
        explore = make_exploration(settings, simulator.providers, self._elites, rng)
        self.agent = SplitDdpg(LockstepVecEnv(self._mdp, settings.environments), settings, explore, self._elites, rng)
        self.agent.set_logger(Logger(str(out) if out else None, [TensorBoardOutputFormat(str(out))] if out else []))

    def _make_elites(self) -> ElitePool | None:
        if self.settings.elites is None:
            return None
        return ElitePool(self.simulator, self._mdp.formulation, self.settings.elites.keep, self.settings.gamma)

    def begin(self, seeds: IntArray | None) -> None:
        """Take note of what is known beforehand: the `seeds` and, with elites, plans in proportion to capability."""
        known = [] if seeds is None else [seeds]
        if self._elites is not None:
            known.append(starts(self.simulator))
        for plans in known:
            self.seen(plans, self.simulator.evaluate(plans))

    def run(self) -> TrainingResult:
        """Train to the end, or until Ctrl-C if there is a folder to keep things in."""
        interrupted = False
        try:
            if self.share() < 1.0 or self.best_cuts is None:  # at least one batch, however small the budget
                self.agent.learn(10**12, callback=_Recorder(self), log_interval=10**12, reset_num_timesteps=False)
            self._save_checkpoint()
            self._set_policy()
        except KeyboardInterrupt:
            if self._out is None or self.best_cuts is None:
                raise
            interrupted = True
            self._save_checkpoint()
            if self.settings.distillation is None:
                self._set_policy()
        finally:
            self.agent.logger.close()
        if self._out is not None:
            write_atomically(self._out / AGENT, self._packed_agent())
        if not interrupted:
            self._progress(1.0, self.best_latency_ms)
        return self._result(interrupted)

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

    def seen(self, cuts: IntArray, latency_ms: FloatArray) -> None:
        """Take note of plans (n, volumes, providers + 1): keep the best, with critic and actor at this time."""
        at = int(np.argmin(latency_ms))
        if latency_ms[at] < self.best_latency_ms:
            self.best_latency_ms = float(latency_ms[at])
            self.best_cuts = cuts[at].copy()
            self._best_policy = {name: value.clone() for name, value in self.agent.policy.state_dict().items()}
            self._write_best()
        if self._elites is not None:
            self._elites.offer(cuts, latency_ms)

    def batch_ended(self, cuts: IntArray, latency_ms: FloatArray) -> bool:
        """Called when the episodes that ran together have ended; False when the training is to end."""
        self.episodes += len(latency_ms)
        self._batches += 1
        self.seen(cuts, latency_ms)
        polish = self.settings.polish
        if polish is not None and self._batches % polish.every == 0:
            self._polish(polish)
        share = self.share()
        self.agent.episode, self.agent.share = self.episodes + 1, share
        self._log(latency_ms)
        self._progress(share, self.best_latency_ms)
        return share < 1.0

    def _polish(self, polish: Polish) -> None:
        assert self.best_cuts is not None
        plans = self.best_cuts[None] if self._elites is None else self._elites.cuts
        for start in self._rng.integers(len(plans), size=polish.runs):
            found, latency = anneal(self.simulator, plans[start], polish.steps, self._rng, polish.warmth)
            self.seen(found[None], np.array([latency]))

    def _log(self, latency_ms: FloatArray) -> None:
        logger = self.agent.logger
        if not logger.output_formats:
            return
        logger.record("latency_ms/best", self.best_latency_ms)
        logger.record("latency_ms/episode", float(np.median(latency_ms)))
        logger.record("train/noise", self.agent.explore.level(self.agent.episode))
        logger.dump(self.episodes)

    def _set_policy(self) -> None:
        """Make the agent's policy the one that is reported."""
        assert self.best_cuts is not None
        if self.settings.distillation is None:
            self.agent.policy.load_state_dict(self._best_policy)
            return
        deadline = math.inf if self._budget_s is None else self._budget_s
        distil(self.agent, self._mdp, self.best_cuts, self.settings.distillation, lambda: self.seconds() > deadline)

    def _result(self, interrupted: bool) -> TrainingResult:
        assert self.best_cuts is not None
        policy_ms = greedy_rollout(self.agent, self._mdp)[1]
        return TrainingResult(
            self.best_cuts, self.best_latency_ms, policy_ms, self.episodes, self.seconds(), interrupted
        )

    def _write_best(self) -> None:
        if self._out is None or self.best_cuts is None:
            return
        simulator = self.simulator
        BestPlan(
            model=simulator.graph.name,
            model_sha256=simulator.graph.sha256,
            providers=simulator.scenario.provider_names,
            locations=simulator.scheme.locations,
            cuts=tuple(tuple(int(c) for c in cuts) for cuts in self.best_cuts),
            latency_ms=self.best_latency_ms,
        ).save(self._out)

    def checkpoint_when_due(self) -> None:
        """Called before every step: saves between two batches of episodes, when the last time is long enough ago."""
        if self._mdp.volume == 0 and self.seconds() - self._saved_at > CHECKPOINT_EVERY_S:
            self._save_checkpoint()

    def _packed_agent(self) -> bytes:
        packed = io.BytesIO()
        self.agent.save(packed)
        return packed.getvalue()

    def _save_checkpoint(self) -> None:
        if self._out is None or self.best_cuts is None:
            return
        buffer = self.agent.replay_buffer
        assert buffer is not None
        meta: dict[str, Any] = {
            "settings": self.settings.model_dump(mode="json"),
            "model_sha256": self.simulator.graph.sha256,
            "best_latency_ms": self.best_latency_ms,
            "episodes": self.episodes,
            "batches": self._batches,
            "timesteps": self.agent.num_timesteps,
            "buffer": [buffer.pos, buffer.full],
            "rng": self._rng.bit_generator.state,
        }
        rows = buffer.size()
        arrays: dict[str, npt.NDArray[Any]] = {f"buffer_{name}": getattr(buffer, name)[:rows] for name in _BUFFER}
        arrays["best_cuts"] = self.best_cuts
        if self._elites is not None:
            arrays |= {"elite_cuts": self._elites.cuts, "elite_latency_ms": self._elites.latency_ms}
        if self.settings.distillation is None:
            arrays |= {f"best_policy_{name}": value.numpy() for name, value in self._best_policy.items()}
        save_checkpoint(self._out, meta, arrays, self._packed_agent())
        self._saved_at = self.seconds()

    def restore(self) -> None:
        """Go on from the checkpoint in the folder; raises `InputError` if it is damaged or of another training."""
        assert self._out is not None
        meta, arrays, agent = load_checkpoint(self._out)
        try:
            self._check_fits(meta, arrays["best_cuts"])
            self._restore_agent(meta, arrays, agent)
            if self._elites is not None:
                self._elites.offer(arrays["elite_cuts"], arrays["elite_latency_ms"])
            self.best_cuts, self.best_latency_ms = arrays["best_cuts"], float(meta["best_latency_ms"])
            if self.settings.distillation is None:
                names = self.agent.policy.state_dict()
                self._best_policy = {name: torch.from_numpy(arrays[f"best_policy_{name}"]) for name in names}
            self.episodes, self._batches = int(meta["episodes"]), int(meta["batches"])
            self._rng.bit_generator.state = meta["rng"]
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as exc:
            raise damaged(self._out, exc) from exc
        self.agent.episode, self.agent.share = self.episodes + 1, self.share()
        newer = np.array(read_best(self._out).cuts)[None]  # written whenever a better plan is found, so maybe later
        self.seen(newer, self.simulator.evaluate(newer))

    def _check_fits(self, meta: dict[str, Any], best_cuts: IntArray) -> None:
        """Whether the checkpoint is of this model, scenario, scheme and these settings (their length aside)."""
        length = {"episodes": 1, "until_budget": False}
        same = (
            Settings.model_validate(meta["settings"]).model_copy(update=length)
            == self.settings.model_copy(update=length)
            and meta["model_sha256"] == self.simulator.graph.sha256
            and best_cuts.shape == (len(self.simulator.heights), self.simulator.providers + 1)
            and math.isclose(self.simulator.evaluate(best_cuts[None])[0], meta["best_latency_ms"], rel_tol=1e-9)
        )
        if not same:
            raise InputError(
                f"the training in '{self._out}' is of another model, scenario or preset: give those, or another folder"
            )

    def _restore_agent(self, meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], agent: bytes) -> None:
        self.agent.set_parameters(io.BytesIO(agent), device="cpu")  # type: ignore[arg-type]
        self.agent.num_timesteps = int(meta["timesteps"])
        buffer = self.agent.replay_buffer
        assert buffer is not None
        for name in _BUFFER:
            stored = arrays[f"buffer_{name}"]
            getattr(buffer, name)[: len(stored)] = stored
        buffer.pos, buffer.full = int(meta["buffer"][0]), bool(meta["buffer"][1])


class _Recorder(BaseCallback):
    """Tells the training what happens in stable-baselines3's loop."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training

    def _on_rollout_start(self) -> None:
        self._training.checkpoint_when_due()

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        if "latency_ms" not in infos[0]:
            return True
        cuts = np.stack([info["cuts"] for info in infos])
        return self._training.batch_ended(cuts, np.array([info["latency_ms"] for info in infos]))
