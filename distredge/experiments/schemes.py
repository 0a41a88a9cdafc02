"""Fig. 4 and 5: what LC-PSS's alpha and its number of random split decisions are worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from distredge.experiments.base import Claim, Effort, Experiment, Judgement, Results, Row, Shown
from distredge.experiments.judging import grade
from distredge.experiments.methods import graph_of, scenario_of
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.anneal import anneal
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

MODEL = "vgg16"

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

PLACES = {
    "homogeneous-200": "(a) homogeneous, 200 Mbit/s",
    "db-50": "(b) DB, 50 Mbit/s",
    "db-300": "(b) DB, 300 Mbit/s",
    "na-nano": "(c) NA, Nano",
    "lb": "(d) LB",
    "lc": "(d) LC",
    "ld": "(d) LD",
}
"""The environments of Fig. 4. Which bandwidth (b) and which board (c) has is not said there."""

SAMPLE_COUNTS = (25, 50, 75, 100, 150, 200)

SAMPLE_PLACES = {"db-50": "(a) DB, 50 Mbit/s", "na-nano": "(b) NA, Nano"}

BEST = 0.01
"""Images a second within this share of the best count as the best."""

POOR = 0.05
"""By how much fewer images a second are poor, and how wide a spread is wide."""

STABLE = 0.02
"""How wide a spread is stable."""

COLUMNS: dict[str, type] = {"latency_ms": float, "ips": float, "volumes": int, "locations": str}


def run(case: Row, effort: Effort) -> list[Row]:
    """LC-PSS with the case's alpha or samples and its own random numbers, then split decisions for its scheme."""
    graph, scenario = graph_of(MODEL), scenario_of(str(case["scenario"]))
    rng = np.random.default_rng([effort.seed, int(case["repeat"] or 0)])
    alpha, samples = float(case.get("alpha", ALPHA) or 0.0), int(case.get("samples", SAMPLES) or 0)
    locations = lcpss(graph, len(scenario.providers), alpha, samples, rng).locations
    latency = split_ms(scenario.name, locations, effort)
    return [
        {
            **case,
            "latency_ms": latency,
            "ips": 1000.0 / latency,
            "volumes": len(locations),
            "locations": " ".join(map(str, locations)),
        }
    ]


@lru_cache(maxsize=4)
def _costs(scenario: str) -> VolumeCosts:
    return VolumeCosts(graph_of(MODEL), scenario_of(scenario).profiles)


@lru_cache(maxsize=4096)
def split_ms(scenario: str, locations: tuple[int, ...], effort: Effort) -> float:
    """Latency of the split decisions found for a scheme; the same scheme always gets the same ones."""
    graph = graph_of(MODEL)
    simulator = Simulator(graph, scenario_of(scenario), PartitionScheme(graph, locations), _costs(scenario))
    rng = np.random.default_rng(effort.seed)
    if effort.splitter == "annealing":
        choices = starts(simulator)
        good = choices[np.argsort(simulator.evaluate(choices), kind="stable")[:2]]
        return min(anneal(simulator, start, effort.anneal_steps, rng)[1] for start in good)
    from distredge.agents.osds import train
    from distredge.agents.settings import load_settings

    return train(simulator, load_settings("default"), rng).best_latency_ms


def cost_s(case: Row, effort: Effort) -> float:
    """About how long a case takes on one core; many schemes come again and cost nothing."""
    once = 1.0 if effort.splitter == "annealing" else 9.0
    return once * (0.4 if "samples" in case else 0.8)


def _alpha_cases(effort: Effort) -> list[Row]:
    return [
        {"scenario": place, "alpha": alpha, "repeat": repeat}
        for place in PLACES
        for alpha in ALPHAS
        for repeat in range(effort.alpha_repeats)
    ]


def _sample_cases(effort: Effort) -> list[Row]:
    return [
        {"scenario": place, "samples": samples, "repeat": repeat}
        for place in SAMPLE_PLACES
        for samples in SAMPLE_COUNTS
        for repeat in range(effort.sample_repeats)
    ]


def by_value(rows: Sequence[Row], value: str, column: str = "ips") -> dict[str, dict[float, list[float]]]:
    """A column's figures by scenario and alpha (or samples)."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        of_place = found.setdefault(str(row["scenario"]), {})
        of_place.setdefault(float(row[value] or 0.0), []).append(float(row[column] or 0.0))
    return found


def judge_best_alpha(results: Results, subject: str) -> Judgement:
    """Whether alpha 0.75 is best in every environment."""
    right, said = 0, []
    for place, by_alpha in by_value(results["fig4"], "alpha").items():
        means = {alpha: mean(ips) for alpha, ips in by_alpha.items()}
        best = max(means, key=lambda alpha: means[alpha])
        right += means[ALPHA] >= (1.0 - BEST) * means[best]
        said.append(f"{place} {best:g} (0.75: {means[ALPHA] / means[best] - 1.0:+.1%})")
    return Judgement(grade(right, len(said)), f"best alpha: {', '.join(said)}")


def judge_poor_extremes(results: Results, subject: str) -> Judgement:
    """Whether alpha 0 and alpha 1 are poor in every environment."""
    right, said = 0, []
    for place, by_alpha in by_value(results["fig4"], "alpha").items():
        means = {alpha: mean(ips) for alpha, ips in by_alpha.items()}
        best = max(means.values())
        right += means[0.0] < (1.0 - POOR) * best and means[1.0] < (1.0 - POOR) * best
        said.append(f"{place} {means[0.0] / best - 1.0:+.0%} and {means[1.0] / best - 1.0:+.0%}")
    return Judgement(grade(right, len(said)), f"images a second at 0 and 1 against the best alpha: {', '.join(said)}")


def judge_volumes(results: Results, subject: str) -> Judgement:
    """Whether VGG-16 has 16 volumes at alpha 0, two at alpha 1, and fewer the larger alpha is."""
    by_place = by_value(results["fig4"], "alpha", "volumes").values()
    at = {alpha: [n for of_place in by_place for n in of_place[alpha]] for alpha in ALPHAS}
    means = [mean(at[alpha]) for alpha in ALPHAS]
    falling = all(b <= a for a, b in zip(means, means[1:], strict=False))
    right = falling + (set(at[0.0]) == {16.0}) + (set(at[1.0]) == {2.0})
    said = ", ".join(f"{alpha:g}: {min(at[alpha]):.0f}-{max(at[alpha]):.0f}" for alpha in ALPHAS)
    return Judgement(grade(right, 3), f"volumes by alpha {said}")


def judge_samples(results: Results, subject: str) -> Judgement:
    """Whether images a second vary widely at 25 or 50 random decisions and are stable from 100 on."""
    right, said, narrower = 0, [], False
    for place, by_samples in by_value(results["fig5"], "samples").items():
        spreads = {n: (max(ips) - min(ips)) / mean(ips) for n, ips in by_samples.items()}
        few, many = max(spreads[25], spreads[50]), max(s for n, s in spreads.items() if n >= SAMPLES)
        right += few > POOR and many <= STABLE
        narrower = narrower or many < few
        said.append(f"{place} {few:.1%} up to 50, {many:.1%} from 100 on")
    places = len(said)
    verdict = grade(right, places)
    if verdict == "does not hold" and narrower:
        verdict = "holds partly"
    return Judgement(verdict, f"largest minus least by mean: {', '.join(said)}")


def _curves(rows: Sequence[Row], value: str, names: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Panels for `draw_lines`: mean, least and most by scenario."""
    panels: dict[str, dict[str, Any]] = {}
    for place, figures in by_value(rows, value).items():
        x = sorted(figures)
        panels[names.get(place, place)] = {
            "": (x, [mean(figures[v]) for v in x], [min(figures[v]) for v in x], [max(figures[v]) for v in x])
        }
    return panels


def _draw_alpha(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_lines

    draw_lines(_curves(rows, "alpha", PLACES), "alpha", "images/s", path)


def _draw_samples(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_lines

    draw_lines(_curves(rows, "samples", SAMPLE_PLACES), "random split decisions", "images/s", path)


def _table(value: str, rows: Sequence[Row]) -> Shown:
    volumes = by_value(rows, value, "volumes")
    lines = [
        (
            place,
            v,
            mean(ips),
            min(ips),
            max(ips),
            f"{min(volumes[place][v]):.0f}-{max(volumes[place][v]):.0f}",
            len(ips),
        )
        for place, figures in by_value(rows, value).items()
        for v, ips in figures.items()
    ]
    return Shown(("scenario", value, "images/s mean", "least", "most", "volumes", "repeats"), tuple(lines))


SPLIT = (
    "Volumes are then split by the agent with this project's settings (full run) or by annealing (quick run), the"
    " providers in the scenario's order; the same scheme always gets the same split decisions, so what varies is"
    " LC-PSS."
)

FIG4 = Experiment(
    name="fig4",
    title="Fig. 4: alpha in LC-PSS (VGG-16)",
    paper="Images a second at alpha 0 to 1; 0.75 is best in every environment, 0 and 1 are poor.",
    here=f"LC-PSS with {SAMPLES} random decisions at each alpha, repeated with other random numbers. {SPLIT}",
    key=("scenario", "alpha", "repeat"),
    columns={"scenario": str, "alpha": float, "repeat": int} | COLUMNS,
    cases=_alpha_cases,
    run=run,
    cost_s=cost_s,
    draw=_draw_alpha,
    table=lambda rows: _table("alpha", rows),
)

FIG5 = Experiment(
    name="fig5",
    title="Fig. 5: random split decisions in LC-PSS (VGG-16)",
    paper="Images a second over 50 repeats of LC-PSS: a wide range at 25 and 50 random decisions, stable from 100 on.",
    here=f"LC-PSS at alpha {ALPHA} repeated with other random numbers. {SPLIT}",
    key=("scenario", "samples", "repeat"),
    columns={"scenario": str, "samples": int, "repeat": int} | COLUMNS,
    cases=_sample_cases,
    run=run,
    cost_s=cost_s,
    draw=_draw_samples,
    table=lambda rows: _table("samples", rows),
)

EXPERIMENTS = (FIG4, FIG5)

CLAIMS = (
    Claim(
        "alpha-best", "alpha = 0.75 gives the highest performance in all cases", "section V-C, Fig. 4", ("fig4",),
        f"mean images a second at 0.75 within {BEST:.0%} of the best alpha: everywhere, somewhere, nowhere",
        judge_best_alpha,
    ),
    Claim(
        "alpha-extremes", "performance is poor with alpha = 0 and with alpha = 1", "section V-C, Fig. 4", ("fig4",),
        f"both at least {POOR:.0%} below the best alpha: everywhere, somewhere, nowhere", judge_poor_extremes,
    ),
    Claim(
        "alpha-volumes", "the smaller alpha, the more layer-volumes: VGG-16 has 16 at alpha = 0 and two at alpha = 1",
        "section V-C", ("fig4",), "volumes fall with alpha; 16 at 0; 2 at 1: all three, some, none", judge_volumes,
    ),
    Claim(
        "samples", "with 25 or 50 random decisions results vary in a wide range, from 100 on they are stable",
        "section V-C, Fig. 5", ("fig5",),
        f"range by mean over {POOR:.0%} at 25 or 50 and at most {STABLE:.0%} from 100 on, in both scenarios; partly: in"
        " one,"
        " or narrower from 100 on", judge_samples,
    ),
)  # fmt: skip
