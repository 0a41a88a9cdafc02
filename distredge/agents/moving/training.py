"""Pre-training of the networks on a library: the critic on simulated latencies, the actor on the critic (torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from distredge.agents.moving.library import Simulators, cast_conditions, sample_conditions
from distredge.agents.moving.policy import Float32Array, Networks, Roles, WholePlan, actor_inputs, features
from distredge.agents.moving.sampling import Sample, draw_sample, first_pieces, slopes
from distredge.agents.moving.settings import ActorSettings, CriticSettings, MovingSettings
from distredge.agents.osds import quiet_torch
from distredge.simulate.kernel import FloatArray

Pace = Callable[[float], float]
"""Called with the share of the work that is done; returns the share that counts, which is 1 when time is up."""

Log = Callable[[str, float, int], None]
"""Called with a figure's name, its value and the gradient step."""

LAST_RATE = 0.02
"""Part of a learning rate that is left at the end; in between it falls linearly."""

HELD_OUT = 500
"""Conditions, the last of the sample (a fifth of it at most), that choose the critic's first pieces, then judge it."""

LEAST_MS = 1e-3
"""Latencies below are not told apart."""

CHUNK = 250
"""Conditions at a time for which the critic judges all plans."""

LOG_EVERY = 50
"""Gradient steps between two figures in the log."""


def fit_networks(
    simulators: Simulators,
    roles: Roles,
    plans: list[WholePlan],
    settings: MovingSettings,
    rng: np.random.Generator,
    paces: tuple[Pace, Pace],
    log: Log,
) -> Networks:
    """Train critic and actor, at their `paces`, on a library."""
    sample = draw_sample(simulators, roles, plans, settings, rng)
    told = cast_conditions(roles, sample_conditions(settings.ranges, len(roles.kinds), settings.critic.conditions, rng))
    with quiet_torch(int(rng.integers(2**63))):
        critic = train_critic(simulators, plans, sample, settings.critic, paces[0], log)
        embedding = embed(sample.log_told, settings.actor.dimensions, settings.actor.cap)
        z = np.concatenate([sample.features, features(told.mbps, told.slowdown, told.io_ms)])
        wanted = embedding[np.argmin(judge(critic, z), axis=1)]
        actor = train_actor(actor_inputs(z), wanted, settings.actor, paces[1], log)
    return Networks(critic, actor.weights(), embedding)


def train_critic(
    simulators: Simulators,
    plans: list[WholePlan],
    sample: Sample,
    settings: CriticSettings,
    pace: Pace,
    log: Log,
) -> Float32Array:
    """(plans, pieces, 3 P + 1), exact in float16: linear forms whose maximum is a plan's latency.

    They begin as the simulator's own slopes; gradient descent then lowers the error of the expected logarithm of the
    latency.
    """
    at = slice(settings.slopes_at)
    z, relevance = sample.features, sample.relevance(settings.relevant)
    found = slopes(simulators, plans, sample.told[at], np.exp(sample.log_told[at]))
    known = len(z) - min(HELD_OUT, len(z) // 5)
    last = slice(known, None)
    first = first_pieces(found, z[last], sample.log_told[last], relevance[last], settings.pieces)
    weights = torch.tensor(first.reshape(-1, first.shape[2]).T.copy(), requires_grad=True)
    features_, wanted, matters = (torch.from_numpy(a) for a in (z, sample.log_expected.astype(np.float32), relevance))
    optimizer = torch.optim.Adam([weights], lr=settings.learning_rate, fused=True)
    for step in _steps(settings.steps, optimizer, settings.learning_rate, pace):
        batch = torch.randint(known, (settings.batch,))
        answers = (features_[batch] @ weights).view(-1, *first.shape[:2]).amax(dim=2).clamp_min(LEAST_MS)
        loss = ((wanted[batch] - answers.log()).square() * matters[batch]).sum() / matters[batch].sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=0.0)
        if step % LOG_EVERY == 0:
            log("critic/loss", loss.item(), step)
            forms = weights.detach().numpy().T.reshape(first.shape)
            log("critic/regret", regret(forms, z[last], sample.log_told[last]), step)
    critic: Float32Array = np.ascontiguousarray(weights.detach().numpy().T, dtype=np.float16).astype(np.float32)
    return critic.reshape(first.shape)


def regret(critic: Float32Array, z: Float32Array, log_latency: FloatArray) -> float:
    """By how much, in the mean, the logarithm of the latency (n, plans) of what the critic picks exceeds the least."""
    picked = np.argmin(judge(critic, z), axis=1)
    return float(np.mean(log_latency[np.arange(len(z)), picked] - log_latency.min(axis=1)))


def judge(critic: Float32Array, z: Float32Array) -> Float32Array:
    """(n, plans): what the critic says of all plans, `z` (n, 3 P + 1)."""
    flat = critic.reshape(-1, critic.shape[2])
    parts = np.array_split(z, max(1, len(z) // CHUNK))
    return np.concatenate([(part @ flat.T).reshape(-1, *critic.shape[:2]).max(axis=2) for part in parts])


def embed(log_latency: FloatArray, dimensions: int, cap: float) -> Float32Array:
    """(plans, D): plans that are good under the same conditions stand close: main components of their regrets.

    `log_latency` (conditions, plans); what a plan takes over the best counts up to `cap`. D is `dimensions`, or less
    where there are fewer plans.
    """
    regret = np.minimum(log_latency - log_latency.min(axis=1, keepdims=True), cap).T
    left, sizes, _ = np.linalg.svd(regret - regret.mean(axis=0), full_matrices=False)
    points = (left * sizes)[:, :dimensions]
    scaled: Float32Array = (points / max(float(points[:, 0].std()), 1e-9)).astype(np.float32)
    return scaled


class Actor(torch.nn.Module):
    """A fully connected network with ReLU between its layers; inputs are standardised as `seen` (n, 4 P) are."""

    def __init__(self, seen: torch.Tensor, layers: tuple[int, ...], dimensions: int) -> None:
        super().__init__()
        sizes = (seen.shape[1], *layers, dimensions)
        self.mean, self.scale = seen.mean(dim=0), seen.std(dim=0).clamp_min(1e-3)
        self.layers = torch.nn.Sequential()
        for n in range(len(sizes) - 1):
            self.layers.append(torch.nn.Linear(sizes[n], sizes[n + 1]))
            if n < len(sizes) - 2:
                self.layers.append(torch.nn.ReLU())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(n, D) proposals for inputs (n, 4 P)."""
        proposals: torch.Tensor = self.layers((inputs - self.mean) / self.scale)
        return proposals

    def weights(self) -> tuple[tuple[Float32Array, Float32Array], ...]:
        """Of each layer (in, out) and (out,), the standardisation in the first."""
        linear = [layer for layer in self.layers if isinstance(layer, torch.nn.Linear)]
        found = [(layer.weight.detach().T.double(), layer.bias.detach().double()) for layer in linear]
        scaled = found[0][0] / self.scale.double()[:, None]
        found[0] = (scaled, found[0][1] - self.mean.double() @ scaled)
        return tuple((w.float().contiguous().numpy(), b.float().numpy()) for w, b in found)


def train_actor(inputs: Float32Array, wanted: Float32Array, settings: ActorSettings, pace: Pace, log: Log) -> Actor:
    """An actor that proposes `wanted` (n, D) for `inputs` (n, 4 P): where the plans stand that the critic likes best.

    The policy gradient alone leads it to where no plans are and the critic errs.
    """
    seen, there = torch.from_numpy(inputs), torch.from_numpy(wanted)
    actor = Actor(seen, settings.layers, wanted.shape[1])
    optimizer = torch.optim.Adam(actor.parameters(), lr=settings.learning_rate, fused=True)
    for step in _steps(settings.steps, optimizer, settings.learning_rate, pace):
        batch = torch.randint(len(seen), (settings.batch,))
        loss = (actor(seen[batch]) - there[batch]).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % LOG_EVERY == 0:
            log("actor/distance", loss.item(), step)
    return actor


def _steps(count: int, optimizer: torch.optim.Optimizer, rate: float, pace: Pace) -> Iterator[int]:
    """Numbers of gradient steps until the pace says that it is enough, the learning rate falling."""
    for step in range(count):
        share = pace(step / count)
        if share >= 1.0:
            return
        for group in optimizer.param_groups:
            group["lr"] = rate * (1.0 - (1.0 - LAST_RATE) * share)
        yield step
