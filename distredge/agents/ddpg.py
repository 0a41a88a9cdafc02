"""stable-baselines3's DDPG with this project's exploration and, where the settings ask for it, elite plans."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.nn import functional

from distredge.agents.elites import ElitePool
from distredge.agents.noise import Exploration
from distredge.agents.settings import Elites, Network, Settings
from distredge.envs.vector_env import LockstepVecEnv

_OWN = ["settings", "explore", "elites", "episode", "share", "_rng", "_elite_batch", "_followed", "_targets"]


class SeededBuffer(ReplayBuffer):
    """A replay buffer that samples with a generator of its own, not with numpy's global one."""

    def __init__(self, *args: Any, rng: np.random.Generator, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rng = rng

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        """`batch_size` transitions, drawn with replacement."""
        filled = self.buffer_size if self.full else self.pos
        at = self._rng.integers(filled, size=batch_size), self._rng.integers(self.n_envs, size=batch_size)
        data = (self.observations[at], self.actions[at], self.next_observations[at])
        columns = (self.dones[at][:, None], self.rewards[at][:, None])
        return ReplayBufferSamples(*(torch.from_numpy(x) for x in (*data, *columns)))


class Batch(NamedTuple):
    """Transitions of one gradient step: those of the buffer, then `pull.shape[0]` of elites.

    `floor` (n, 1) is a return that is known to be possible from there, -inf where none is. `pull` (elites, 1) is
    how much each elite draws the actor.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    next_observations: torch.Tensor
    dones: torch.Tensor
    rewards: torch.Tensor
    floor: torch.Tensor
    pull: torch.Tensor


class SplitDdpg(DDPG):
    """DDPG over a `LockstepVecEnv`.

    `_sample_action` asks `explore` instead of adding SB3's action noise, and stores the action unclipped as the
    paper does; `train` has separate learning rates for actor and critic, and may mix in elites. `episode` (from 1)
    and `share` (of the training that is done, in [0, 1]) are kept up to date by whoever runs the training.
    """

    def __init__(
        self,
        env: LockstepVecEnv,
        settings: Settings,
        explore: Exploration,
        elites: ElitePool | None,
        rng: np.random.Generator,
    ) -> None:
        self.settings = settings
        self.explore = explore
        self.elites = elites
        self.episode = 1
        self.share = 0.0
        self._rng = rng
        self._elite_batch: tuple[int, tuple[torch.Tensor, ...]] = (-1, ())
        super().__init__(
            "MlpPolicy",
            env,
            buffer_size=settings.buffer,
            learning_starts=settings.batch - 1,
            batch_size=settings.batch,
            tau=settings.tau,
            gamma=settings.gamma,
            gradient_steps=settings.gradient_steps,
            replay_buffer_class=SeededBuffer,
            replay_buffer_kwargs={"rng": rng},
            policy_kwargs={
                "net_arch": {"pi": list(settings.actor.layers), "qf": list(settings.critic.layers)},
                "optimizer_kwargs": {"fused": True},
            },
            device="cpu",
        )
        self._shrink_last_layer(settings.first_actions)
        self._followed: list[torch.Tensor] = [*self.critic.parameters(), *self.actor.parameters()]
        self._targets: list[torch.Tensor] = [*self.critic_target.parameters(), *self.actor_target.parameters()]

    def _shrink_last_layer(self, factor: float) -> None:
        with torch.no_grad():
            for actor in (self.actor, self.actor_target):
                last = actor.mu[-2]  # before the tanh
                assert isinstance(last, torch.nn.Linear)
                last.weight.mul_(factor)
                last.bias.mul_(factor)

    def greedy(self, observations: np.ndarray) -> np.ndarray:
        """The policy's actions (n, action_size) for observations (n, observation_size)."""
        with torch.no_grad():
            actions: np.ndarray = self.actor(torch.from_numpy(observations)).numpy()
        return actions

    def _sample_action(
        self, learning_starts: int, action_noise: object = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(self.env, LockstepVecEnv) and isinstance(self._last_obs, np.ndarray)
        actions = self.explore.vary(self.episode, self.env.mdp.volume, self.greedy(self._last_obs))
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update critic, actor and targets `gradient_steps` times."""
        self.policy.set_training_mode(True)
        self._set_learning_rate(self.actor.optimizer, self.settings.actor)
        self._set_learning_rate(self.critic.optimizer, self.settings.critic)
        losses = []
        for _ in range(gradient_steps):
            batch = self._batch(batch_size)
            losses.append((self._update_critic(batch), self._update_actor(batch)))
            self._follow()
        self._n_updates += gradient_steps
        critic_loss, actor_loss = np.mean(losses, axis=0)
        self.logger.record_mean("train/critic_loss", float(critic_loss))
        self.logger.record_mean("train/actor_loss", float(actor_loss))

    def _follow(self) -> None:
        """Let the target networks follow, all tensors in one call."""
        with torch.no_grad():
            torch._foreach_mul_(self._targets, 1.0 - self.tau)
            torch._foreach_add_(self._targets, self._followed, alpha=self.tau)

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, network: Network) -> None:
        rate = network.learning_rate * (network.final_learning_rate / network.learning_rate) ** self.share
        for group in optimizer.param_groups:
            group["lr"] = rate

    def _update_critic(self, batch: Batch) -> float:
        with torch.no_grad():
            ahead = self.critic_target(batch.next_observations, self.actor_target(batch.next_observations))[0]
            target = torch.maximum(batch.rewards + (1.0 - batch.dones) * self.gamma * ahead, batch.floor)
        loss = functional.mse_loss(self.critic(batch.observations, batch.actions)[0], target)
        self.critic.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic.optimizer.step()
        return loss.item()

    def _update_actor(self, batch: Batch) -> float:
        actions = self.actor(batch.observations)
        loss = -self.critic.q1_forward(batch.observations, actions).mean()
        count = len(batch.pull)
        if count > 0:
            distance = (actions[-count:] - batch.actions[-count:]).square().mean(dim=1, keepdim=True)
            loss = loss + (batch.pull * distance).mean()
        self.actor.optimizer.zero_grad()
        loss.backward(inputs=list(self.actor.parameters()))  # type: ignore[no-untyped-call] # not the critic's gradients
        self.actor.optimizer.step()
        return loss.item()

    def _batch(self, size: int) -> Batch:
        assert self.replay_buffer is not None
        recent = self.replay_buffer.sample(size)
        none = torch.full((size, 1), -torch.inf)
        observations, actions, following, dones, rewards = recent[:5]
        plain = (observations, actions, following, dones, rewards, none)
        if self.elites is None or self.settings.elites is None or len(self.elites) == 0:
            return Batch._make([*plain, torch.zeros((0, 1))])
        table = self._elite_table(self.elites, self.settings.elites)
        rows = torch.from_numpy(self._rng.integers(len(table[0]), size=self.settings.elites.batch))
        *extra, pull = (column[rows] for column in table)
        return Batch._make([*map(torch.cat, zip(plain, extra, strict=True)), pull])

    def _elite_table(self, elites: ElitePool, settings: Elites) -> tuple[torch.Tensor, ...]:
        """The elites' transitions, one a row, in the order of `Batch`; made anew when the pool has changed."""
        if self._elite_batch[0] != elites.version:
            steps = elites.transitions
            dones = np.zeros_like(steps.rewards)
            dones[:, -1] = 1.0
            behind = elites.latency_ms / elites.latency_ms[0] - 1.0
            pull = settings.pull * np.exp(-behind / settings.closeness)
            pulls = np.repeat(pull[:, None], dones.shape[1], axis=1)
            columns = [x.reshape(-1, 1) for x in (dones, steps.rewards, steps.returns, pulls)]
            wide = [x.reshape(dones.size, -1) for x in (steps.observations, steps.actions, steps.next_observations)]
            table = tuple(torch.from_numpy(x.astype(np.float32)) for x in (*wide, *columns))
            self._elite_batch = (elites.version, table)
        return self._elite_batch[1]

    def _excluded_save_params(self) -> list[str]:
        # What is left can be read by stable-baselines3 alone: `DDPG.load("agent.zip")`.
        return [*super()._excluded_save_params(), *_OWN, "replay_buffer_class", "replay_buffer_kwargs", "_last_obs"]
