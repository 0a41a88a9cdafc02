"""What happens beside a training, as stable-baselines3's callbacks: checkpoints, evaluations, pictures, logs."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PngImage
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import HParam, Image

from distredge.agents.watch import Watch
from distredge.simulate.kernel import FloatArray

if TYPE_CHECKING:
    from distredge.agents.training import Training

EVALUATIONS = 50
"""How often in a training the greedy policy is run."""

PICTURE_EVERY_S = 10.0
"""Seconds between pictures of the best plan."""

PICTURE = "plan.png"

BEST_TAG, GREEDY_TAG = "latency_ms/best", "latency_ms/greedy"


def callbacks_of(training: Training, watch: Watch) -> CallbackList:
    """All that a training wants, in the order in which they must be called."""
    if training.out is None:
        return CallbackList([Episodes(training)])
    watchers = [Evaluation(training), Pictures(training, watch), Logs(training, watch)]
    return CallbackList([Episodes(training), Checkpoints(training), *watchers])


class BatchCallback(BaseCallback):
    """Is called when the episodes that ran together have ended."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self.training = training

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        return "latency_ms" not in infos[0] or self.batch_ended(infos)

    @abstractmethod
    def batch_ended(self, infos: list[dict[str, Any]]) -> bool:
        """False if the training is to end."""


class Episodes(BatchCallback):
    """Tells the training of its episodes, and when actor and critic have learnt from their last step."""

    def batch_ended(self, infos: list[dict[str, Any]]) -> bool:
        """See `BatchCallback`."""
        cuts = np.stack([info["cuts"] for info in infos])
        return self.training.batch_ended(cuts, np.array([info["latency_ms"] for info in infos]))

    def _on_rollout_start(self) -> None:
        self.training.keep_policy()

    def _on_training_end(self) -> None:
        self.training.keep_policy()


class Checkpoints(BaseCallback):
    """Saves between two batches of episodes, when the last time is long enough ago."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training

    def _on_rollout_start(self) -> None:
        self._training.checkpoint_when_due()

    def _on_step(self) -> bool:
        return True


class Evaluation(BatchCallback):
    """Runs the greedy policy, evenly spread over the training."""

    _at = 0.0

    def batch_ended(self, infos: list[dict[str, Any]]) -> bool:
        """See `BatchCallback`."""
        if self.training.agent.share >= self._at:
            self._at = self.training.agent.share + 1.0 / EVALUATIONS
            self.training.greedy_ms = self.training.actor().rollout(self.training.simulator)[1]
        return True


class Pictures(BatchCallback):
    """Draws the best plan when it is better than the one drawn last."""

    def __init__(self, training: Training, watch: Watch) -> None:
        super().__init__(training)
        self._draw = watch.draw
        self._drawn: tuple[float, float] = (-PICTURE_EVERY_S, np.inf)

    def batch_ended(self, infos: list[dict[str, Any]]) -> bool:
        """See `BatchCallback`."""
        if time.perf_counter() - self._drawn[0] >= PICTURE_EVERY_S:
            self._picture()
        return True

    def _on_training_end(self) -> None:
        self._picture()

    def _picture(self) -> None:
        training, latency_ms = self.training, self.training.best_latency_ms
        if self._draw is None or training.out is None or training.best_cuts is None or latency_ms == self._drawn[1]:
            return
        path = training.out / PICTURE
        self._draw(training.simulator, training.best_cuts, path)
        with PngImage.open(path) as picture:
            self.logger.record("plan/best", Image(np.asarray(picture.convert("RGB")), "HWC"))
        self._drawn = time.perf_counter(), latency_ms


class Logs(BatchCallback):
    """Writes figures to the logger: returns, latencies, the last two over gold, losses and noise; and the settings."""

    def __init__(self, training: Training, watch: Watch) -> None:
        super().__init__(training)
        self._reference_ms = watch.reference_ms
        self._return: FloatArray = np.zeros(1)

    def _on_training_start(self) -> None:
        settings = dict(_flat(self.training.settings.model_dump(mode="json")))
        settings["model"] = self.training.simulator.graph.name
        settings["scenario"] = self.training.simulator.scenario.name
        self.logger.record("hyper-parameters", HParam(settings, {BEST_TAG: 0.0, GREEDY_TAG: 0.0}))
        self.logger.dump(self.training.episodes)

    def _on_step(self) -> bool:
        self._return = self._return + self.locals["rewards"]
        return super()._on_step()

    def batch_ended(self, infos: list[dict[str, Any]]) -> bool:
        """See `BatchCallback`."""
        self.logger.record("train/return", float(self._return.mean()))
        self.logger.record("latency_ms/episode", float(np.median([info["latency_ms"] for info in infos])))
        self.logger.record("train/noise", self.training.agent.explore.level(self.training.agent.episode))
        self._latencies()
        self._return = np.zeros(1)
        return True

    def _on_training_end(self) -> None:
        self._latencies()

    def _latencies(self) -> None:
        found = {BEST_TAG: self.training.best_latency_ms, GREEDY_TAG: self.training.greedy_ms}
        for tag, latency_ms in found.items():
            self.logger.record(tag, latency_ms)
            if self._reference_ms is not None:
                self.logger.record(tag.replace("latency_ms", "over_gold"), latency_ms / self._reference_ms)
        self.logger.dump(self.training.episodes)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, bool | str | float | None]]:
    """Nested settings with dotted names; lists as text, null as `null`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value if isinstance(value, bool | int | float | str) else str(value or "null")
