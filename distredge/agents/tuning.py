"""Hyper-parameters tuned with Optuna: trainings on one simulator, judged by how soon they find how fast a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState

from distredge.agents.osds import train
from distredge.agents.settings import Settings, changed
from distredge.resources import write_atomically
from distredge.simulate.simulator import Simulator

STUDY, TUNED = "tuning.db", "tuned.yaml"
"""What is left in the folder: all trials, which go on when it is given again, and the best settings, a preset."""


class Range(NamedTuple):
    """Values that are tried, evenly in their logarithm unless `linear`."""

    low: float
    high: float
    linear: bool = False


SPACE = {
    "gradient_steps": Range(1, 8),
    "batch": Range(16, 256),
    "tau": Range(1e-3, 1e-1),
    "actor.learning_rate": Range(1e-4, 1e-2),
    "actor.final_learning_rate": Range(1e-5, 1e-3),
    "critic.learning_rate": Range(1e-4, 1e-2),
    "critic.final_learning_rate": Range(1e-5, 1e-3),
    "noise.smallest": Range(1e-3, 5e-2),
    "noise.largest": Range(1e-1, 1.5),
    "noise.shared": Range(0.0, 1.0, linear=True),
    "noise.sparse_episodes": Range(0.0, 1.0, linear=True),
    "noise.elite_episodes": Range(0.0, 1.0, linear=True),
    "noise.delta_epsilon": Range(2.5e-4, 1e-2),
    "noise.variance": Range(1e-2, 1.0),
    "elites.keep": Range(4, 64),
    "elites.pull": Range(1e-2, 1e1),
    "elites.closeness": Range(1e-3, 1e-1),
}
"""Of the settings that can be tuned, those that a preset has are."""


class Tuned(NamedTuple):
    """The best settings, what was changed for them, and how good the first and the best trial were, in ms."""

    settings: Settings
    changes: dict[str, int | float]
    first_ms: float
    best_ms: float
    trials: int


def tune(
    simulator: Simulator,
    settings: Settings,
    trials: int,
    seed: int,
    out: Path,
    progress: Callable[[float, float], None] = lambda share, ms: None,
) -> Tuned:
    """Try settings until there are so many `trials`, those found in `out` included; the first are those given.

    A trial is a training from nothing with the same seed; it is worth the mean over its length of the best latency
    so far, so that what finds good plans sooner is better too. Optuna's TPE, seeded by the number of trials before, so
    that an interrupted search goes on as if it had not been. `progress` is called with (share done, best trial in ms).
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    space = {key: part for key, part in SPACE.items() if isinstance(_value(settings, key), int | float)}
    given = {key: _value(settings, key) for key in space if space[key].low <= _value(settings, key) <= space[key].high}
    study = optuna.create_study(
        storage=f"sqlite:///{out / STUDY}", study_name=_name(simulator, settings, seed), load_if_exists=True
    )
    while (done := len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))) < trials:
        progress(done / trials, study.best_value if done else np.inf)
        study.sampler = optuna.samplers.TPESampler(seed=seed + done)
        if done == 0:
            study.enqueue_trial(given)
        trial = study.ask()
        tried = changed(settings, _suggested(trial, space, settings))
        study.tell(trial, _worth(simulator, tried, seed))
    best = study.best_trial
    found = changed(settings, [f"{key}={value}" for key, value in best.params.items()])
    note = f"# Tuned on {simulator.graph.name}, {simulator.scenario.name}: {trials} trials, seed {seed}.\n"
    write_atomically(out / TUNED, note + yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False))
    first = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[0]
    assert first.value is not None and best.value is not None
    progress(1.0, best.value)
    differing = {key: value for key, value in best.params.items() if value != _value(settings, key)}
    return Tuned(found, differing, first.value, best.value, trials)


def _suggested(trial: optuna.Trial, space: dict[str, Range], settings: Settings) -> list[str]:
    changes = []
    for key, (low, high, linear) in space.items():
        if isinstance(_value(settings, key), int):
            changes.append(f"{key}={trial.suggest_int(key, int(low), int(high), log=not linear)}")
        else:
            changes.append(f"{key}={trial.suggest_float(key, low, high, log=not linear)}")
    return changes


def _worth(simulator: Simulator, settings: Settings, seed: int) -> float:
    """Mean of the best latency so far, over a training."""
    told: list[float] = []
    train(simulator, settings, np.random.default_rng(seed), progress=lambda share, ms: told.append(ms))
    return float(np.mean(told))


def _value(settings: Settings, key: str) -> Any:
    """A setting by its dotted name; None where there is none."""
    at: Any = settings
    for name in key.split("."):
        at = getattr(at, name, None)
    return at


def _name(simulator: Simulator, settings: Settings, seed: int) -> str:
    """Trials of the same study can be compared: same problem, same settings to begin with, same seed."""
    what = f"{simulator.graph.sha256} {simulator.scheme.locations} {simulator.scenario!r} {settings!r} {seed}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]
