"""The agent: it comes near a known optimum, repeats itself, and loses nothing when it is interrupted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from stable_baselines3 import DDPG

from distredge.agents.checkpoint import AGENT, BEST, CHECKPOINT
from distredge.agents.ddpg import SplitDdpg
from distredge.agents.noise import EpsilonExploration, Exploration, SpreadExploration, epsilon
from distredge.agents.osds import train
from distredge.agents.settings import EpsilonNoise, Settings, load_settings
from distredge.agents.training import Training
from distredge.agents.watch import Watch
from distredge.envs.encode import PaperFormulation
from distredge.envs.mdp import SplitMdp
from distredge.envs.vector_env import LockstepVecEnv
from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.scheme import PartitionScheme
from distredge.resources import data_dir
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import random_scenario
from distredge.testing.toy_models import chain, save_model


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def simulator(graph: LayerGraph) -> Simulator:
    return toy(graph, 102)


def toy(graph: LayerGraph, seed: int, locations: tuple[int, ...] = (0, 1, 3)) -> Simulator:
    return Simulator(graph, random_scenario(np.random.default_rng(seed), 3), PartitionScheme(graph, locations))


def short(preset: str = "default", **changes: Any) -> Settings:
    """A preset with few episodes."""
    few = {"default": {"episodes": 256}, "paper": {"episodes": 40}}[preset]
    return load_settings(preset).model_copy(update={**few, **changes})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def optimum(simulator: Simulator) -> float:
    """Least latency over all cuts."""
    inner = [itertools.combinations_with_replacement(range(int(h) + 1), 2) for h in simulator.heights]
    choices = [[(0, *cuts, int(h)) for cuts in each] for each, h in zip(inner, simulator.heights, strict=True)]
    return float(simulator.evaluate(np.array(list(itertools.product(*choices)))).min())


def interrupt_at(share: float) -> Callable[[float, float], None]:
    """Ctrl-C when this share of the training is done."""

    def progress(done: float, latency_ms: float) -> None:
        if share <= done < 1.0:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("seed", [102, 104, 105])  # where the first, proportional plans are 4 to 11 % off
def test_without_any_search_it_comes_within_3_percent_of_the_optimum(graph: LayerGraph, seed: int) -> None:
    simulator = toy(graph, seed)
    result = train(simulator, short(polish=None, episodes=2048), rng())
    assert result.best_latency_ms <= 1.03 * optimum(simulator)
    assert result.policy_latency_ms == result.best_latency_ms


def test_the_papers_agent_finds_the_optimum_of_a_small_problem(graph: LayerGraph) -> None:
    simulator = toy(graph, 102, (0, 3))
    result = train(simulator, short("paper", episodes=250), rng())
    assert result.best_latency_ms <= 1.01 * optimum(simulator)
    assert result.episodes == 250
    assert result.policy_latency_ms >= result.best_latency_ms


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_result_is_what_the_simulator_says(simulator: Simulator, preset: str) -> None:
    told: list[tuple[float, float]] = []
    result = train(simulator, short(preset), rng(), progress=lambda share, ms: told.append((share, ms)))
    assert simulator.evaluate(result.best_cuts[None])[0] == result.best_latency_ms
    assert told[-1] == (1.0, result.best_latency_ms)
    assert told == sorted(told, key=lambda x: (x[0], -x[1]))
    assert not result.interrupted


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_same_seed_same_result_and_nothing_global_is_touched(simulator: Simulator, preset: str) -> None:
    np.random.seed(7)
    torch.manual_seed(7)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads())
    first = train(simulator, short(preset), rng(3))
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads())
    np.random.seed(8)
    torch.manual_seed(8)
    again = train(simulator, short(preset), rng(3))
    assert first.best_cuts.tolist() == again.best_cuts.tolist()
    assert (first.best_latency_ms, first.policy_latency_ms) == (again.best_latency_ms, again.policy_latency_ms)


def test_other_seeds_explore_otherwise(simulator: Simulator) -> None:
    found = {train(simulator, short("paper"), rng(seed)).best_latency_ms for seed in range(3)}
    assert len(found) > 1


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_budget_ends_a_training_that_would_take_hours(simulator: Simulator, preset: str) -> None:
    result = train(simulator, short(preset, episodes=10**7), rng(), budget_s=1.0)
    assert 0 < result.episodes < 10**6
    assert result.best_latency_ms < np.inf


def test_seeds_count_as_seen(simulator: Simulator) -> None:
    known = train(simulator, short(episodes=1024), rng()).best_cuts
    result = train(simulator, short(episodes=32, polish=None), rng(1), seeds=known[None])
    assert result.best_latency_ms <= simulator.evaluate(known[None])[0]


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_interrupted_and_resumed_it_ends_where_it_would_have(simulator: Simulator, tmp_path: Path, preset: str) -> None:
    whole = train(simulator, short(preset), rng())
    stopped = train(simulator, short(preset), rng(), out=tmp_path, progress=interrupt_at(0.4))
    assert stopped.interrupted
    assert stopped.episodes < whole.episodes
    on_disk = json.loads((tmp_path / BEST).read_text())
    assert on_disk["latency_ms"] == stopped.best_latency_ms
    assert on_disk["cuts"] == stopped.best_cuts.tolist()
    resumed = train(simulator, short(preset), rng(99), out=tmp_path, resume=True)
    assert resumed.episodes == whole.episodes
    assert resumed.best_latency_ms <= stopped.best_latency_ms
    assert not resumed.interrupted


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_resumed_from_a_checkpoint_it_repeats_to_the_bit(
    simulator: Simulator, tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(simulator, short(preset), rng())
    monkeypatch.setattr("distredge.agents.training.CHECKPOINT_EVERY_S", 0.0)
    # A training that is killed writes nothing more: what is left is the last regular checkpoint.
    with monkeypatch.context() as killed:
        killed.setattr("distredge.agents.training.Training.run", run_until_killed)
        with pytest.raises(KeyboardInterrupt):
            train(simulator, short(preset), rng(), out=tmp_path, progress=interrupt_at(0.5))
    resumed = train(simulator, short(preset), rng(99), out=tmp_path, resume=True)
    assert resumed.best_cuts.tolist() == whole.best_cuts.tolist()
    assert resumed.policy_latency_ms == whole.policy_latency_ms


def run_until_killed(training: Any) -> None:
    training.learn()


def test_interrupted_without_a_folder_it_stops(simulator: Simulator) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(simulator, short(), rng(), progress=interrupt_at(0.2))


def test_what_it_leaves_behind(simulator: Simulator, tmp_path: Path) -> None:
    result = train(simulator, short(), rng(), out=tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    logs = {n for n in names if n.startswith("events.out")}
    assert names - logs == {AGENT, BEST, CHECKPOINT}
    assert logs
    agent = DDPG.load(tmp_path / AGENT)  # with stable-baselines3 alone
    mdp = LockstepVecEnv(SplitMdp(simulator, short_formulation(simulator)), 1)
    observed, latency = mdp.reset(), None
    while latency is None:
        observed, _, _, infos = mdp.step(agent.predict(observed, deterministic=True)[0])
        latency = infos[0].get("latency_ms")
    assert latency == result.policy_latency_ms


def short_formulation(simulator: Simulator) -> Any:
    from distredge.envs.encode import FORMULATIONS

    return FORMULATIONS[short().formulation](simulator)


def test_logs_hold_latency_losses_and_noise(simulator: Simulator, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(simulator, short("paper"), rng(), out=tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    wanted = {"latency_ms/best", "latency_ms/episode", "train/critic_loss", "train/actor_loss", "train/noise"}
    assert wanted <= set(events.Tags()["scalars"])
    assert events.Scalars("latency_ms/best")[-1].value == pytest.approx(result.best_latency_ms)
    assert len(events.Scalars("latency_ms/episode")) == result.episodes


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_better_plan_than_the_checkpoints_survives(simulator: Simulator, tmp_path: Path, preset: str) -> None:
    best = train(simulator, short(episodes=1024), rng(), out=tmp_path)
    better = (tmp_path / BEST).read_text()
    poor = {"polish": None, "episodes": 32}
    assert train(simulator, short(preset, **poor), rng(5), out=tmp_path).best_latency_ms > best.best_latency_ms
    (tmp_path / BEST).write_text(better)  # found after the checkpoint, before the training was killed
    resumed = train(simulator, short(preset, **poor), rng(), out=tmp_path, resume=True)
    assert resumed.best_latency_ms == best.best_latency_ms
    assert (tmp_path / BEST).read_text() == better


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"{}"])
def test_a_damaged_checkpoint_is_one_line(simulator: Simulator, tmp_path: Path, content: bytes) -> None:
    train(simulator, short(episodes=32), rng(), out=tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(content)
    assert "begin anew" in refused(simulator, short(), tmp_path)


def test_every_cut_off_checkpoint_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    train(simulator, short(episodes=32), rng(), out=tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for share in np.linspace(0.0, 0.999, 12):
        (tmp_path / CHECKPOINT).write_bytes(whole[: int(share * len(whole))])
        assert "begin anew" in refused(simulator, short(), tmp_path)


def test_what_does_not_fit_is_not_resumed(graph: LayerGraph, simulator: Simulator, tmp_path: Path) -> None:
    assert "nothing to resume" in refused(simulator, short(), tmp_path)
    train(simulator, short(episodes=32), rng(), out=tmp_path)
    assert "another" in refused(toy(graph, 103), short(), tmp_path)
    assert "another" in refused(toy(graph, 102, (0, 2)), short(), tmp_path)
    assert "another" in refused(simulator, short("paper"), tmp_path)
    with pytest.raises(InputError, match="--out"):
        train(simulator, short(), rng(), resume=True)


def test_a_folder_that_cannot_be_made_is_one_line(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another folder"):
        train(simulator, short(), rng(), out=tmp_path / "file" / "runs")


def refused(simulator: Simulator, settings: Settings, out: Path) -> str:
    with pytest.raises(InputError) as caught:
        train(simulator, settings, rng(), out=out, resume=True)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_epsilon_by_hand() -> None:
    assert epsilon(1, 1 / 250) == pytest.approx(0.999984)
    assert epsilon(125, 1 / 250) == pytest.approx(0.75)
    assert epsilon(249, 1 / 250) == pytest.approx(1.0 - 0.992016)
    assert [epsilon(n, 1 / 250) for n in (250, 251, 4000)] == [0.0, 0.0, 0.0]


def test_the_papers_noise_comes_with_probability_epsilon_and_variance_sigma_2() -> None:
    settings = load_settings("paper").noise
    assert isinstance(settings, EpsilonNoise)
    assert [settings.variance_for(n) for n in (2, 4, 16)] == [0.1, 0.1, 1.0]
    zeros = np.zeros((40_000, 3), dtype=np.float32)
    for providers, sigma in ((4, 0.1**0.5), (16, 1.0)):
        noisy = EpsilonExploration(settings, providers, rng()).vary(125, 0, zeros)
        moved = noisy.any(axis=1)
        assert moved.mean() == pytest.approx(0.75, abs=0.01)
        assert noisy[moved].std() == pytest.approx(sigma, rel=0.02)
        assert not EpsilonExploration(settings, providers, rng()).vary(250, 0, zeros).any()


def test_spread_noise_grows_from_one_environment_to_the_next_and_is_partly_shared() -> None:
    settings = load_settings("default").noise.model_copy(update={"sparse_episodes": 0.0})
    spread = SpreadExploration(settings, None, rng())
    zeros = np.zeros((8, 4000), dtype=np.float32)
    first, second = (spread.vary(1, volume, zeros) for volume in (0, 1))
    assert np.all(np.diff(np.abs(first).mean(axis=1)) > 0)
    assert np.corrcoef(first[0], second[0])[0, 1] == pytest.approx(0.5, abs=0.1)


class Far(Exploration):
    """Adds 1.5 to every action."""

    def vary(self, episode: int, volume: int, actions: np.ndarray) -> np.ndarray:
        return actions + np.float32(1.5)

    def level(self, episode: int) -> float:
        return 0.0


def test_the_buffer_holds_the_action_as_it_was_neither_sorted_nor_clipped(simulator: Simulator) -> None:
    env = LockstepVecEnv(SplitMdp(simulator, PaperFormulation(simulator)), 1)
    agent = SplitDdpg(env, load_settings("paper"), Far(), None, rng())
    agent.learn(3)
    assert agent.replay_buffer is not None
    stored = agent.replay_buffer.actions[:3, 0]
    expected = agent.greedy(agent.replay_buffer.observations[:3, 0]) + 1.5
    assert stored == pytest.approx(expected, abs=1e-6)
    assert stored.max() > 1.0


def test_the_papers_hyper_parameters() -> None:
    settings = load_settings("paper")
    assert (settings.episodes, settings.environments, settings.batch, settings.gradient_steps) == (4000, 1, 64, 1)
    assert (settings.gamma, settings.formulation) == (0.99, "paper")
    assert (settings.actor.layers, settings.actor.learning_rate) == ((400, 200, 100), 1e-4)
    assert (settings.critic.layers, settings.critic.learning_rate) == ((400, 200, 100, 100), 1e-3)
    assert isinstance(settings.noise, EpsilonNoise)
    assert settings.noise.delta_epsilon == 1 / 250
    assert (settings.elites, settings.polish, settings.distillation, settings.screen) == (None, None, None, None)


def test_the_papers_agent_learns_at_every_step_and_keeps_the_policy_of_the_end_of_an_episode(
    simulator: Simulator,
) -> None:
    kept = []

    class Watched(Training):
        def keep_policy(self) -> None:
            before = self.best_policy
            super().keep_policy()
            if self.best_policy is not before:
                kept.append((self.episodes, self.agent._n_updates))

    training = Watched(simulator, short("paper"), rng(), None, None, lambda share, ms: None, Watch())
    training.learn()
    updates = {n: max(0, n * len(simulator.heights) - 63) for n in range(41)}  # from 64 transitions on
    assert training.agent._n_updates == updates[40]
    assert kept
    assert all(done == updates[episode] for episode, done in kept)


def test_bad_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        load_settings("papr")
    data = yaml.safe_load((data_dir("agents") / "osds-default.yaml").read_text())
    for change, said in (({"gama": 1.0}, "did you mean 'gamma'"), ({"tau": 7}, "'tau'"), ({"actor": 3}, "'actor'")):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**data, **change}))
        with pytest.raises(InputError, match=said) as caught:
            load_settings(path)
        assert len(str(caught.value).splitlines()) == 1
