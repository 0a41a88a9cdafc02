"""Options that say what a plan is to be good at and what it must keep to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from distredge.errors import InputError

if TYPE_CHECKING:
    from distredge.simulate.goals import Goals

Minimise = Annotated[
    str | None,
    typer.Option(
        metavar="GOAL=WEIGHT,..",
        help="Weights of latency (ms), energy (J), cost, redundant (share), failures (share); else latency alone.",
    ),
]
Deadline = Annotated[float | None, typer.Option("--deadline-ms", "--max-latency-ms", help="Limit to the latency.")]
MaxEnergy = Annotated[float | None, typer.Option("--max-energy-j", help="Limit to the energy of a frame.")]
MaxCost = Annotated[float | None, typer.Option("--max-cost", help="Limit to what a frame costs.")]
MaxRedundant = Annotated[
    float | None, typer.Option("--max-redundant", help="Limit to the share of operations done twice.")
]
MinReliability = Annotated[float | None, typer.Option(help="Least probability that a frame succeeds.")]
Exclude = Annotated[str | None, typer.Option(metavar="PROVIDER,..", help="Providers that get nothing.")]
Pin = Annotated[
    str | None,
    typer.Option(
        metavar="PROVIDER,LAYER=PROVIDER,..", help="Providers that must get a part; layers that only one may compute."
    ),
]
RawTo = Annotated[str | None, typer.Option(metavar="PROVIDER,..", help="The only ones that may get rows of the image.")]


def goals_of(
    minimise: str | None,
    deadline_ms: float | None,
    max_energy_j: float | None,
    max_cost: float | None,
    max_redundant: float | None,
    min_reliability: float | None,
    exclude: str | None,
    pin: str | None,
    raw_to: str | None,
) -> Goals:
    """What the options ask; raises `InputError` for what cannot be read or cannot be."""
    from distredge.simulate.goals import Goals

    pins = _items(pin)
    return Goals(
        minimise={name: _weight(name, value) for name, value in _items(minimise or "latency")},
        max_latency_ms=deadline_ms,
        max_energy_j=max_energy_j,
        max_cost=max_cost,
        max_redundant_share=max_redundant,
        min_reliability=min_reliability,
        exclude=tuple(name for name, _ in _items(exclude)),
        pin=tuple(name for name, owner in pins if owner is None),
        layers_on={name: owner for name, owner in pins if owner is not None},
        raw_to=None if raw_to is None else tuple(name for name, _ in _items(raw_to)),
    )


def _items(text: str | None) -> list[tuple[str, str | None]]:
    """`a=b,c` as [("a", "b"), ("c", None)]."""
    parts = [part.strip().partition("=") for part in (text or "").split(",") if part.strip()]
    return [(name.strip(), value.strip() if equals else None) for name, equals, value in parts]


def _weight(name: str, text: str | None) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        raise InputError(f"the weight of '{name}' must be a number, got '{text}'") from None
