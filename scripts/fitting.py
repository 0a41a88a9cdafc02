"""Fits an analytic model's parameters: priors, least squares in logarithms, layer timings.

Three figures of whole models cannot fix a board's parameters. So layer timings of the same board, or of the nearest
one, give each parameter a prior, and the whole-model figures move it from there: a maximum a posteriori estimate in
logarithms. The same figures give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from published_figures import LayerTiming
from scipy.optimize import least_squares

from distredge.profiles.speed import CpuSpeed, GpuSpeed, Speed

Array = npt.NDArray[np.float64]

LAYER_SIGMA = 0.2
"""Scale of a layer's residual, as a logarithm, beyond which it counts less (an algorithm that the model lacks)."""


@dataclass(frozen=True)
class Prior:
    """A fitted parameter's value before the whole-model figures, and the spread of its logarithm."""

    value: float
    sigma: float
    origin: str


@dataclass(frozen=True)
class Fixed:
    """A parameter that is read from a document or from evidence, not fitted."""

    value: float
    origin: str


Parameters = Mapping[str, Prior | Fixed]


@dataclass(frozen=True)
class LayerFit:
    """Parameters fitted to layer timings, the robust cost that is left, and the errors in words."""

    values: dict[str, float]
    cost: float
    quality: str


def fitted(
    start: Mapping[str, Prior], residuals: Callable[[dict[str, float]], Array], robust: bool
) -> dict[str, float]:
    """Values at which squared residuals and squared steps away from the priors are least."""
    names = sorted(start)
    centre = np.log([start[n].value for n in names])
    sigma = np.array([start[n].sigma for n in names])

    def values(x: Array) -> dict[str, float]:
        return dict(zip(names, np.exp(centre + sigma * x).tolist(), strict=True))

    loss = "soft_l1" if robust else "linear"
    solution = least_squares(
        lambda x: np.concatenate([residuals(values(x)), x]), np.zeros(len(names)), loss=loss, diff_step=1e-3
    )
    return values(solution.x)


def divided(parameters: Parameters) -> tuple[dict[str, float], dict[str, Prior]]:
    """Values of the fixed parameters, and the priors of the others."""
    constants = {name: known.value for name, known in parameters.items() if isinstance(known, Fixed)}
    return constants, {name: known for name, known in parameters.items() if isinstance(known, Prior)}


def fit_layers(
    model: type[GpuSpeed] | type[CpuSpeed], parameters: Parameters, timings: Sequence[LayerTiming], element_bytes: int
) -> LayerFit:
    """Fit the parameters that are not fixed to layer timings."""
    constants, priors = divided(parameters)

    def logs(values: dict[str, float]) -> Array:
        speed: Speed = model(**constants, **values)
        times = [speed.layer_ms(t.layer, np.array([t.rows]), element_bytes)[0] for t in timings]
        return np.log(np.array(times) / [t.published_ms for t in timings])

    values = fitted(priors, lambda v: logs(v) / LAYER_SIGMA, robust=True)
    left = logs(values)
    cost = float(np.sum(np.sqrt(1 + (left / LAYER_SIGMA) ** 2) - 1))
    median, p90 = np.quantile(np.abs(np.expm1(left)), [0.5, 0.9])
    return LayerFit(values, cost, f"{len(timings)} layers, error median {median:.0%}, 90th percentile {p90:.0%}")


def narrowed(parameters: Parameters, layer_fit: LayerFit, sigmas: Mapping[str, float], source: str) -> Parameters:
    """The parameters, with priors at the values that layer timings gave where `sigmas` names them."""
    origin = f"{source}: {layer_fit.quality}"
    return {**parameters, **{name: Prior(layer_fit.values[name], sigma, origin) for name, sigma in sigmas.items()}}
