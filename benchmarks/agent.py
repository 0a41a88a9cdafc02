"""The agent's environment and training: steps a second, and episodes a second against a plain loop.

The plain loop is what a user of Gymnasium and stable-baselines3 would write: `gymnasium.make`, one environment, DDPG as
it comes; beside it the same with this agent's networks and batch. Processor time of the one thread that works.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import NormalActionNoise

import distredge
from distredge.agents.osds import train
from distredge.agents.settings import load_settings
from distredge.envs.encode import FORMULATIONS
from distredge.envs.mdp import SplitMdp
from distredge.envs.vector_env import LockstepVecEnv
from distredge.simulate.simulator import Simulator

BATCHES = (1, 32, 256, 4096)
STEPS = 1_000_000
REPEATS = 3
PLAIN_EPISODES = 150
EPISODES = 2048


def main() -> None:
    torch.set_num_threads(1)
    graph, scenario = distredge.load_model("vgg16"), distredge.load_scenario("db-50")
    simulator = Simulator(graph, scenario, distredge.partition(graph, scenario))
    print(f"vgg16 db-50: {simulator.providers} providers, {len(simulator.heights)} volumes")
    for formulation in FORMULATIONS:
        rates = [f"{batch}: {_steps_a_second(simulator, formulation, batch):,.0f}" for batch in BATCHES]
        print(f"steps/s of the vector environment ({formulation}) by episodes together: {', '.join(rates)}")
    ours = _ours(simulator)
    print(f"this training: {ours:,.0f} episodes/s")
    settings = load_settings("default")
    same = {
        "batch_size": settings.batch + (settings.elites.batch if settings.elites else 0),
        "policy_kwargs": {"net_arch": {"pi": list(settings.actor.layers), "qf": list(settings.critic.layers)}},
    }
    for words, more in (("as it comes", {}), ("same networks and batch", same)):
        plain = _plain(simulator, more)
        print(f"plain Gymnasium and stable-baselines3, {words}: {plain:,.1f} episodes/s; ratio {ours / plain:,.0f}")


def _steps_a_second(simulator: Simulator, formulation: str, batch: int) -> float:
    form = FORMULATIONS[formulation](simulator)
    env = LockstepVecEnv(SplitMdp(simulator, form), batch)
    actions = np.random.default_rng(0).normal(0.0, 0.3, (batch, form.action_size)).astype(np.float32)
    env.reset()
    env.step(actions)  # compile
    count = max(100, min(20_000, STEPS // batch))
    return max(count * batch / _steps(env, actions, count) for _ in range(REPEATS))


def _steps(env: LockstepVecEnv, actions: np.ndarray, count: int) -> float:
    began = time.thread_time()
    for _ in range(count):
        env.step(actions)
    return time.thread_time() - began


def _ours(simulator: Simulator) -> float:
    """Without the annealing inside the training, which is no episode."""
    settings = load_settings("default", ["polish=null", "distillation=null", f"episodes={EPISODES}"])
    began = time.thread_time()
    train(simulator, settings, np.random.default_rng(0))
    return EPISODES / (time.thread_time() - began)


def _plain(simulator: Simulator, more: dict[str, Any]) -> float:
    env = gymnasium.make("distredge/VerticalSplit-v0", simulator=simulator)
    size = env.action_space.shape[0]
    agent = DDPG("MlpPolicy", env, action_noise=NormalActionNoise(np.zeros(size), 0.1 * np.ones(size)), seed=0, **more)
    volumes = len(simulator.heights)
    agent.learn(50 * volumes)  # past the warm-up
    began = time.thread_time()
    agent.learn(PLAIN_EPISODES * volumes, reset_num_timesteps=False)
    return PLAIN_EPISODES / (time.thread_time() - began)
