"""The split MDP as a stable-baselines3 vector environment: many episodes in lock-step, one kernel call a step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from distredge.envs.encode import Float32Array
from distredge.envs.mdp import SplitMdp


class LockstepVecEnv(VecEnv):
    """`count` copies of a `SplitMdp` that begin and end together.

    The info of an episode's last step holds `latency_ms`, `cuts` and, as stable-baselines3 expects, the last
    observation under `terminal_observation`.
    """

    def __init__(self, mdp: SplitMdp, count: int) -> None:
        self.mdp = mdp
        form = mdp.formulation
        observation = gymnasium.spaces.Box(-np.inf, np.inf, (form.observation_size,), np.float32)
        action = gymnasium.spaces.Box(-1.0, 1.0, (form.action_size,), np.float32)
        super().__init__(count, observation, action)
        self._actions = np.zeros((count, form.action_size))

    def reset(self) -> Float32Array:
        """Begin all episodes."""
        return self.mdp.reset(self.num_envs)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = np.asarray(actions, dtype=np.float64)

    def step_wait(self) -> Any:
        """Split the next volume in all episodes; those that end begin anew."""
        observed, rewards, latency = self.mdp.step(self._actions)
        done = np.full(self.num_envs, latency is not None)
        if latency is None:
            return observed, rewards.astype(np.float32), done, [{}] * self.num_envs  # one for all: nothing to say
        infos = [
            {"latency_ms": ms, "cuts": cuts, "terminal_observation": seen}
            for ms, cuts, seen in zip(latency.tolist(), self.mdp.cuts, observed, strict=True)
        ]
        return self.reset(), rewards.astype(np.float32), done, infos

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the one MDP that all share, once a copy."""
        return [getattr(self.mdp, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """The copies share one MDP: there is nothing to set on one of them."""
        raise AttributeError(f"'{attr_name}' cannot be set: the episodes share one simulator")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """The copies have no methods of their own."""
        raise AttributeError(f"the episodes have no method '{method_name}'")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """No copy is wrapped."""
        return [False for _ in self._get_indices(indices)]
