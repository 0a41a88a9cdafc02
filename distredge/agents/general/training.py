"""Trains the general agent on the simulator: fresh random clusters of several models in every step.

Nothing is labelled beforehand. A short annealing plays the teacher: given some plan, the network learns who takes part
in the teacher's and with which shares. Then the agent moves on to its own plan and learns again, while the teacher
looks for a better one, from the agent's where that is the best known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from distredge.agents.general import features
from distredge.agents.general.checkpoint import load_checkpoint, save_checkpoint
from distredge.agents.general.clusters import Ground, Grounds
from distredge.agents.general.features import moved, observe, reach, setting_of, shares_of
from distredge.agents.general.judging import Judge
from distredge.agents.general.network import GeneralNetwork
from distredge.agents.general.policy import ODDS, About, GeneralPolicy, save_policy
from distredge.agents.general.settings import Settings, Teacher
from distredge.agents.osds import quiet_torch
from distredge.simulate.anneal import anneal
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Progress = Callable[[float, float], None]
"""Called with the share of the training that is done, and the median latency over gold when last judged."""

CHECKPOINT_EVERY_S = 20.0

MANY_FROM, MANY_TO = 9, 16
"""Numbers of providers that count as many in training; few are from 2 on."""


def train_general(
    settings: Settings,
    seed: int,
    out: Path,
    *,
    command: str = "",
    budget_s: float | None = None,
    logs: Path | None = None,
    resume: bool = False,
    progress: Progress = lambda share, over_gold: None,
) -> GeneralPolicy:
    """Train a policy and write it to `out`; a checkpoint stands beside it.

    Without `budget_s` (of this run) the same settings and seed give the same file, also if the training was killed and
    resumed. TensorBoard's logs go into `logs`. Raises `InputError` if there is nothing that fits to resume.
    """
    with quiet_torch(seed):
        training = Training(settings, seed, out)
        if resume:
            training.restore()
        return training.run(command, budget_s, logs, progress)


class Training:
    """A training under way: `step` steps are done. All that is random in one follows from the seed and its number."""

    def __init__(self, settings: Settings, seed: int, out: Path) -> None:
        self.settings, self.seed, self.out = settings, seed, out
        self.step = 0
        self.network = GeneralNetwork(settings.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._grounds = Grounds()
        self._known: dict[tuple[int, int], Ground] = {}
        self._judge = Judge(settings, self._grounds)

    def run(self, command: str, budget_s: float | None, logs: Path | None, progress: Progress) -> GeneralPolicy:
        """Train to the end, or until the budget is spent; writes and returns the policy with its figures."""
        began = saved = time.perf_counter()
        writer = _writer(logs)
        over_gold = 1.0
        while True:
            spent = 0.0 if budget_s is None else (time.perf_counter() - began) / budget_s
            share = min(1.0, max(self.step / self.settings.steps, spent))
            if share >= 1.0:
                break
            loss, behind = self._learn(share)
            self.step += 1
            if self.step % self.settings.judge_every == 0:
                over_gold = self._note(writer, loss, behind)
            if time.perf_counter() - saved > CHECKPOINT_EVERY_S:
                self._save()
                saved = time.perf_counter()
            progress(share, over_gold)
        if writer is not None:
            writer.close()
        self._save()
        policy = self.policy(command, self._judge.figures(self.policy()))
        save_policy(self.out, policy)
        return policy

    def policy(self, command: str = "", figures: dict[str, float] | None = None) -> GeneralPolicy:
        """The policy as it is now."""
        about = About(
            features=features.VERSION,
            network=self.settings.network,
            command=command,
            seed=self.seed,
            steps=self.step,
            models=self.settings.models,
            held_out=self.settings.held_out,
            figures=figures or {},
        )
        weights = {name: value.detach().numpy().copy() for name, value in self.network.state_dict().items()}
        return GeneralPolicy(weights, about)

    def restore(self) -> None:
        """Go on from the checkpoint; raises `InputError` if there is none, or it is damaged or of another training."""
        self.step = load_checkpoint(self.out, self.settings, self.seed, self.network, self.optimizer)

    def _save(self) -> None:
        save_checkpoint(self.out, self.settings, self.seed, self.step, self.network, self.optimizer)

    def _note(self, writer: SummaryWriter | None, loss: float, behind: float) -> float:
        """Judge the policy and log how it does; returns its median latency over gold."""
        figures = self._judge.figures(self.policy())
        if writer is not None:
            for name, value in {**figures, "loss": loss, "behind teacher": behind}.items():
                writer.add_scalar(f"general/{name}", value, self.step)
        return figures["median"]

    def _learn(self, share: float) -> tuple[float, float]:
        """One step: all rounds on fresh clusters. Returns the loss, and how far (log) the plans are behind the best."""
        settings, rng = self.settings, np.random.default_rng([self.seed, 1, self.step])
        self._set_learning_rate(share)
        groups = [self._group(rng) for _ in range(settings.groups)]
        losses = []
        for _ in range(settings.rounds):
            self.optimizer.zero_grad()
            for group in groups:
                answers = self.network(torch.from_numpy(group.tokens()))
                before = group.plans
                group.go_on(answers.detach().double().numpy(), settings.teacher, rng)
                loss = _distance(answers, before, group.best, settings.share_weight) / settings.groups
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.item() * settings.groups)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
        return float(np.mean(losses)), float(np.mean([group.behind() for group in groups]))

    def _set_learning_rate(self, share: float) -> None:
        settings = self.settings
        falling = 0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (self.step + 1) / settings.warm_up) * falling

    def _group(self, rng: np.random.Generator) -> _Group:
        settings = self.settings
        many = rng.random() < settings.many
        providers = int(rng.integers(MANY_FROM, MANY_TO + 1) if many else rng.integers(2, MANY_FROM))
        ground = self._ground(int(rng.integers(len(settings.models))), int(rng.integers(settings.schemes)))
        simulators = [ground.draw(providers, rng, settings.ordered) for _ in range(settings.clusters)]
        return _Group(simulators, settings, rng)

    def _ground(self, model: int, scheme: int) -> Ground:
        if (model, scheme) not in self._known:
            rng = np.random.default_rng([self.seed, 2, model, scheme])
            self._known[model, scheme] = self._grounds.of(self.settings.models[model], rng)
        return self._known[model, scheme]


class _Group:
    """Clusters of the same size under one scheme, the agent's plans for them, and the best plans known."""

    def __init__(self, simulators: list[Simulator], settings: Settings, rng: np.random.Generator) -> None:
        self.settings = [setting_of(simulator) for simulator in simulators]
        teacher, begun, taught = settings.teacher, [], []
        for simulator in simulators:
            plans = starts(simulator)
            ranked = plans[np.argsort(simulator.evaluate(plans), kind="stable")]
            other = int(len(plans) * rng.random() ** 2)
            begun.append(ranked[0 if rng.random() < settings.best_first else other])
            steps = teacher.first_steps * simulator.problem.compute_at.size
            taught.append(anneal(simulator, ranked[0], steps, rng, teacher.first_warmth))
        self.plans, self.plans_ms = np.stack(begun), np.ones(len(begun))
        self.best, self.best_ms = np.stack([cuts for cuts, _ in taught]), np.array([ms for _, ms in taught])

    def tokens(self) -> features.Float32Array:
        """What the agent sees of its plans."""
        return np.concatenate([observe(s, cuts[None])[0] for s, cuts in zip(self.settings, self.plans, strict=True)])

    def go_on(self, answers: FloatArray, teacher: Teacher, rng: np.random.Generator) -> None:
        """Move to the plans that the agent's answers mean; then the teacher improves on the best known."""
        made = np.stack([moved(self.plans, answers, odds) for odds in ODDS], axis=1)
        self.plans, self.best = self.plans.copy(), self.best.copy()
        for n, setting in enumerate(self.settings):
            simulator = setting.simulator
            latency_ms = simulator.evaluate(made[n])
            at = int(np.argmin(latency_ms))
            self.plans[n], self.plans_ms[n] = made[n, at], latency_ms[at]
            if latency_ms[at] < self.best_ms[n]:
                self.best[n], self.best_ms[n] = made[n, at], latency_ms[at]
            steps = teacher.more_steps * simulator.problem.compute_at.size
            found, found_ms = anneal(simulator, self.best[n], steps, rng, teacher.more_warmth)
            if found_ms < self.best_ms[n]:
                self.best[n], self.best_ms[n] = found, found_ms

    def behind(self) -> float:
        """Mean logarithm of the plans' latency over the best known."""
        return float(np.mean(np.log(self.plans_ms / self.best_ms)))


def _writer(logs: Path | None) -> SummaryWriter | None:
    if logs is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(logs))


def _distance(answers: torch.Tensor, plans: IntArray, wanted: IntArray, weight: float) -> torch.Tensor:
    """How far the answers on some plans are from those that lead to the plans wanted, a mean over the tokens."""
    shares = shares_of(wanted)
    part = torch.from_numpy((shares > 0).astype(np.float32))
    move = torch.from_numpy(((shares - shares_of(plans)) / reach(shares.shape[-1])).astype(np.float32))
    who = functional.binary_cross_entropy_with_logits(answers[..., 0], part)
    error = functional.smooth_l1_loss(answers[..., 1], move, beta=0.02, reduction="none")
    return who + weight * (part * error).mean()
