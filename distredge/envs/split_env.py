"""`distredge/VerticalSplit-v0`: the split MDP as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np

from distredge.envs.encode import FORMULATIONS, Float32Array
from distredge.envs.mdp import SplitMdp
from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.scenario import Scenario, load_scenario
from distredge.simulate.simulator import Simulator


class SplitEnv(gymnasium.Env[Float32Array, Float32Array]):
    """One frame through one model's layer-volumes; each step splits the next volume.

    Observation and action are those of the formulation (`encode.py`); an episode has as many steps as there are
    volumes and ends with `info["latency_ms"]` and `info["cuts"]` (volumes, providers + 1). Deterministic: the network
    of a scenario without a trace does not change.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        model: str | Path | LayerGraph = "vgg16",
        scenario: str | Path | Scenario = "db-50",
        alpha: float = ALPHA,
        formulation: str = "default",
        scheme_seed: int = 0,
        simulator: Simulator | None = None,
        render_mode: Literal["ansi"] | None = None,
    ) -> None:
        """A `simulator` takes the place of model, scenario and the LC-PSS scheme found with `alpha`."""
        if formulation not in FORMULATIONS:
            raise UnknownNameError("formulation", formulation, FORMULATIONS)
        if simulator is None:
            graph = model if isinstance(model, LayerGraph) else load_model(model)
            chosen = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
            rng = np.random.default_rng(scheme_seed)
            simulator = Simulator(graph, chosen, lcpss(graph, len(chosen.providers), alpha, SAMPLES, rng))
        self.simulator = simulator
        self.render_mode = render_mode
        form = FORMULATIONS[formulation](simulator)
        self.mdp = SplitMdp(simulator, form)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (form.observation_size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (form.action_size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin a frame."""
        super().reset(seed=seed)
        return self.mdp.reset(1)[0], {}

    def step(self, action: Float32Array) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Split the next volume."""
        if self.mdp.volume == self.mdp.volumes:
            raise InputError("the frame is over: call reset() first")
        observed, rewards, latency = self.mdp.step(np.asarray(action, dtype=np.float64)[None])
        info: dict[str, Any] = {}
        if latency is not None:
            info = {"latency_ms": float(latency[0]), "cuts": self.mdp.cuts[0].copy()}
        return observed[0], float(rewards[0]), latency is not None, False, info

    def render(self) -> str | None:
        """The rows of each provider, one line a volume that is split already."""
        if self.render_mode is None:
            return None
        names = self.simulator.scenario.provider_names
        lines = []
        for v, cuts in enumerate(self.mdp.cuts[0][: self.mdp.volume]):
            rows = (f"{n} [{a}, {b})" for n, a, b in zip(names, cuts[:-1], cuts[1:], strict=True) if b > a)
            lines.append(f"volume {v}: {', '.join(rows)}")
        return "\n".join(lines)
