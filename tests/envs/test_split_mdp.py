"""The split MDP: what an episode costs is what the simulator says, in both formulations and however it is run."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check

from distredge.envs.encode import FORMULATIONS, AnyFormulation, PaperFormulation, ShareFormulation
from distredge.envs.mdp import SplitMdp
from distredge.envs.split_env import SplitEnv
from distredge.envs.vector_env import LockstepVecEnv
from distredge.errors import InputError, UnknownNameError
from distredge.model.load import load_model
from distredge.plans.scheme import PartitionScheme
from distredge.simulate import kernel
from distredge.simulate.simulator import Simulator
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import ToyProfile, random_cuts, random_scenario, toy_scenario
from distredge.testing.toy_models import chain, residual, save_model

BOTH = ("default", "paper")  # "even" differs from "default" by its prior alone
seeds = st.integers(0, 2**32 - 1)


@cache
def simulator(seed: int = 0, providers: int = 3) -> Simulator:
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        graph = load_model(save_model((chain, residual, random_model)[seed % 3](rng), Path(folder)))
    inner = [p for p in graph.cut_points[1:] if rng.random() < 0.6]
    return Simulator(graph, random_scenario(rng, providers), PartitionScheme(graph, (0, *inner)))


def any_simulator(seed: int) -> Simulator:
    return simulator(seed % 24, 2 + seed % 4)


def play(mdp: SplitMdp, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rewards (batch, volumes) and latencies (batch,) of `actions` (batch, volumes, action_size)."""
    mdp.reset(len(actions))
    steps = [mdp.step(actions[:, v]) for v in range(mdp.volumes)]
    assert all(latency is None for _, _, latency in steps[:-1])
    latency = steps[-1][2]
    assert latency is not None
    return np.stack([rewards for _, rewards, _ in steps], axis=1), latency


def random_actions(seed: int, form: AnyFormulation, batch: int = 8) -> np.ndarray:
    """Actions of every size, some of them at the borders."""
    rng = np.random.default_rng(seed)
    size = (batch, len(form.heights), form.action_size)
    return np.clip(rng.normal(0.0, rng.choice([0.05, 0.5, 3.0]), size), -1.0, 1.0)


@pytest.mark.parametrize("formulation", BOTH)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # advice: unbounded observations, no registered spec
def test_passes_the_checkers_of_gymnasium_and_stable_baselines3(formulation: str) -> None:
    gymnasium_check(SplitEnv(simulator=simulator(), formulation=formulation), skip_render_check=True)
    sb3_check(SplitEnv(simulator=simulator(), formulation=formulation))


@given(seeds, st.sampled_from(BOTH))
def test_an_episode_costs_what_the_simulator_says_of_its_cuts(seed: int, formulation: str) -> None:
    sim = any_simulator(seed)
    form = FORMULATIONS[formulation](sim)
    mdp = SplitMdp(sim, form)
    _, latency = play(mdp, random_actions(seed, form))
    assert latency.tolist() == sim.evaluate(mdp.cuts).tolist()


@given(seeds, st.sampled_from(BOTH))
def test_every_step_is_that_of_the_plain_formulas(seed: int, formulation: str) -> None:
    sim = any_simulator(seed)
    form = FORMULATIONS[formulation](sim)
    plain = {"default": PlainShares, "paper": PlainPositions}[formulation](sim)
    actions = random_actions(seed, form, batch=5)
    mdp = SplitMdp(sim, form)
    seen = mdp.reset(5)
    done_ms = np.zeros((5, sim.providers))
    for v in range(mdp.volumes):
        previous = mdp.cuts[:, v - 1] if v > 0 else np.zeros_like(mdp.cuts[:, 0])
        assert seen == pytest.approx(plain.seen(v, done_ms, previous), rel=1e-6, abs=1e-7)
        seen, rewards, latency = mdp.step(actions[:, v])
        assert np.abs(mdp.cuts[:, v] - plain.edges(v, actions[:, v])).max() <= 0.5 + 1e-9
        before, done_ms = done_ms, accumulated(sim, mdp.cuts, v)
        reached = done_ms.max(axis=1) if latency is None else latency
        assert rewards == pytest.approx(plain.rewards(before.max(axis=1), reached, latency is not None))
    assert seen == pytest.approx(plain.seen(mdp.volumes, done_ms, mdp.cuts[:, -1]), rel=1e-6, abs=1e-7)


def accumulated(sim: Simulator, cuts: np.ndarray, v: int) -> np.ndarray:
    """(batch, providers) when each provider's last part up to volume `v` was done."""
    states = np.zeros((len(cuts), 4, sim.providers + 1))
    for w in range(v + 1):
        kernel.step(sim.problem, w, cuts, states)
    return states[:, 0, :-1]


class Plain:
    """A formulation in numpy, as the documentation has it; `edges` are cuts before they are rounded."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.alone = sim.evaluate(sim.single_device_cuts())


class PlainShares(Plain):
    def seen(self, v: int, done_ms: np.ndarray, previous: np.ndarray) -> np.ndarray:
        slowest = done_ms.max(axis=1, keepdims=True)
        one_hot = np.tile(np.arange(len(self.sim.heights)) == v, (len(done_ms), 1))
        fractions = previous[:, 1:-1] / np.maximum(previous[:, -1:], 1)
        times = np.hstack([slowest - done_ms, slowest]) / self.alone.min()
        return np.hstack([times, fractions, one_hot])

    def edges(self, v: int, actions: np.ndarray) -> np.ndarray:
        prior = ShareFormulation.measure(self.sim).prior
        shares = np.maximum(0.0, prior + 1.2 * actions)
        shares[shares.sum(axis=1) == 0.0] = np.maximum(0.0, prior)
        edges = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True) * self.sim.heights[v]
        return np.hstack([np.zeros((len(actions), 1)), edges])

    def rewards(self, before: np.ndarray, reached: np.ndarray, last: bool) -> np.ndarray:
        alone = self.alone.min()
        return -5.0 * (np.log(reached / alone + 0.1) - np.log(before / alone + 0.1))


class PlainPositions(Plain):
    def seen(self, v: int, done_ms: np.ndarray, previous: np.ndarray) -> np.ndarray:
        layers = [self.sim.graph.layers[part.stop - 1] for part in self.sim.scheme.parts]
        config = np.array([[x.height, x.out_shape[0], x.kernel[0], x.stride[0]] for x in layers])
        row = (config / config.max(axis=0))[min(v, len(layers) - 1)]
        return np.hstack([done_ms / self.alone.min(), np.tile(row, (len(done_ms), 1))])

    def edges(self, v: int, actions: np.ndarray) -> np.ndarray:
        height, ends = self.sim.heights[v], np.zeros((len(actions), 1))
        return np.hstack([ends, (np.sort(actions, axis=1) + 1.0) / 2.0 * height, ends + height])

    def rewards(self, before: np.ndarray, reached: np.ndarray, last: bool) -> np.ndarray:
        return 1000.0 / reached if last else np.zeros_like(reached)


@given(seeds)
def test_default_rewards_add_up_to_the_logarithm_of_the_latency(seed: int) -> None:
    sim = any_simulator(seed)
    form = ShareFormulation(sim)
    rewards, latency = play(SplitMdp(sim, form), random_actions(seed, form))
    alone = sim.evaluate(sim.single_device_cuts()).min()
    assert rewards.sum(axis=1) == pytest.approx(-5.0 * (np.log(latency / alone + 0.1) - np.log(0.1)))


@given(seeds)
def test_paper_rewards_are_images_a_second_at_the_end(seed: int) -> None:
    sim = any_simulator(seed)
    form = PaperFormulation(sim)
    rewards, latency = play(SplitMdp(sim, form), random_actions(seed, form))
    assert not rewards[:, :-1].any()
    assert rewards[:, -1] == pytest.approx(1000.0 / latency)


def test_equation_9_by_hand() -> None:
    form = PaperFormulation(simulator())  # three providers
    form.constants = form.constants._replace(heights=np.array([224]))
    actions = np.array([[0.5, -0.5], [1.0, -1.0], [0.0, 0.0], [-3.0, 2.0], [0.1, 0.103]])
    assert form.cuts(0, actions).tolist() == [
        [0, 56, 168, 224],  # sorted first
        [0, 0, 224, 224],
        [0, 112, 112, 224],
        [0, 0, 224, 224],  # noise beyond [-1, 1] ends at the border
        [0, 123, 124, 224],  # 123.2 and 123.536
    ]


def test_the_papers_state_by_hand() -> None:
    sim = simulator()
    mdp = SplitMdp(sim, PaperFormulation(sim))
    first = mdp.reset(1)[0]
    layers = [sim.graph.layers[part.stop - 1] for part in sim.scheme.parts]
    assert first[:3].tolist() == [0.0, 0.0, 0.0]
    assert first[3] == pytest.approx(layers[0].height / max(x.height for x in layers))
    assert first[4] == pytest.approx(layers[0].out_shape[0] / max(x.out_shape[0] for x in layers))
    assert first[5] == pytest.approx(layers[0].kernel[0] / max(x.kernel[0] for x in layers))
    assert first[6] == pytest.approx(layers[0].stride[0] / max(x.stride[0] for x in layers))


@given(seeds, st.sampled_from(BOTH))
def test_every_plan_has_actions_that_make_it(seed: int, formulation: str) -> None:
    sim = any_simulator(seed)
    form = FORMULATIONS[formulation](sim)
    for cuts in random_cuts(np.random.default_rng(seed), sim.heights, sim.providers, 4):
        actions = form.actions(cuts)
        assert np.abs(actions).max() <= 1.0
        made = [form.cuts(v, actions[v : v + 1].astype(np.float32))[0].tolist() for v in range(len(cuts))]
        assert made == cuts.tolist()


def test_the_default_formulation_can_leave_a_provider_out_and_does_so_at_first_if_it_is_useless() -> None:
    quick, useless = ToyProfile("quick", 0.1, 0.01), ToyProfile("useless", 50.0, 50.0)
    graph = simulator().graph
    scenario = toy_scenario([quick, useless, quick], [300.0, 300.0, 300.0])
    form = ShareFormulation(Simulator(graph, scenario, PartitionScheme(graph, (0,))))
    cuts = form.cuts(0, np.zeros((1, 3)))[0]
    assert cuts[1] == cuts[2]
    assert cuts[1] > 0
    opened = form.cuts(0, np.array([[0.0, 0.5, 0.0]]))[0]
    assert opened[2] > opened[1]


@given(seeds, st.sampled_from(BOTH))
def test_episodes_in_lock_step_equal_single_ones(seed: int, formulation: str) -> None:
    sim = any_simulator(seed)
    form = FORMULATIONS[formulation](sim)
    actions = random_actions(seed, form, batch=3).astype(np.float32)
    many = LockstepVecEnv(SplitMdp(sim, form), 3)
    one = SplitEnv(simulator=sim, formulation=formulation)
    seen = [many.reset()]
    steps = []
    for v in range(len(sim.heights)):
        observed, *rest = many.step(actions[:, v])
        seen.append(observed)
        steps.append(rest)
    for n in range(3):
        observed, _ = one.reset()
        for v, (rewards, dones, _) in enumerate(steps):
            assert observed.tolist() == seen[v][n].tolist()
            observed, reward, done, truncated, info = one.step(actions[n, v])
            assert (rewards[n], dones[n], truncated) == (np.float32(reward), done, False)
        assert done
        infos = steps[-1][2]
        assert infos[n]["latency_ms"] == info["latency_ms"]
        assert infos[n]["cuts"].tolist() == info["cuts"].tolist()
        assert infos[n]["terminal_observation"].tolist() == observed.tolist()
    assert seen[-1].tolist() == seen[0].tolist()  # begun anew


def test_made_by_gymnasium_it_renders_what_is_split() -> None:
    env = gymnasium.make("distredge/VerticalSplit-v0", simulator=simulator(), render_mode="ansi")
    env.reset(seed=0)
    env.step(np.zeros(3, dtype=np.float32))
    text = env.render()
    assert isinstance(text, str)
    assert text.startswith("volume 0: d")


def test_what_cannot_be_is_refused() -> None:
    env = SplitEnv(simulator=simulator())
    env.reset()
    for _ in simulator().heights:
        env.step(np.zeros(3, dtype=np.float32))
    with pytest.raises(InputError, match="call reset"):
        env.step(np.zeros(3, dtype=np.float32))
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        SplitEnv(simulator=simulator(), formulation="papr")
    with pytest.raises(InputError, match="offload"):
        SplitEnv(simulator=simulator(0, 1))


@pytest.mark.parametrize("order", ["import distredge, gymnasium", "import gymnasium, distredge"])
def test_gymnasium_knows_the_environment_whichever_is_imported_first(order: str) -> None:
    code = f"{order}; gymnasium.make('distredge/VerticalSplit-v0', model='vgg16', scenario='db-50').reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
