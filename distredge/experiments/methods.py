"""One method on one model and scenario: the work that Fig. 6 to 10 and 14 share, each case run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from distredge.experiments.aofl_all import AoflAll
from distredge.experiments.base import Effort, Experiment, Row, Shown, Value
from distredge.experiments.compare import Row as Planned
from distredge.experiments.compare import compare, workers
from distredge.experiments.judging import BASELINES, EVERYONE, gains, latencies
from distredge.model.graph import LayerGraph
from distredge.planners import METHODS, planner
from distredge.planners.base import Planner, Strategy, Task
from distredge.scenario import Scenario, load_scenario

COMPARED = (*BASELINES, EVERYONE, "osds", "osds-paper", "search")
"""In the order of the pictures. `aofl-all` is a yardstick of the experiments alone."""

RANDOM = frozenset({"osds", "osds-paper", "search"})
"""Methods that draw random numbers: each seed may give another plan."""

KEY = ("model", "scenario", "method", "seed")

COLUMNS: dict[str, type] = {
    "model": str,
    "scenario": str,
    "method": str,
    "seed": int,
    "latency_ms": float,
    "ips": float,
    "volumes": int,
    "workers": str,
    "max_transmission_ms": float,
    "max_compute_ms": float,
    "refusal": str,
}

SECONDS_OF = {"osds": 20.0, "osds-paper": 130.0, "search": 12.0, "exact": 60.0}
"""About what a plan takes on one core; the others take less than a second."""

PAPER_EPISODES = 4000


@lru_cache(maxsize=4)
def graph_of(model: str) -> LayerGraph:
    """A model, loaded once in a process."""
    import distredge

    return distredge.load_model(model)


@lru_cache(maxsize=32)
def scenario_of(name: str) -> Scenario:
    """A scenario, loaded once in a process."""
    return load_scenario(name)


def methods_for(scenario: Scenario, effort: Effort) -> list[str]:
    """The methods compared on a scenario; with two providers also `exact`."""
    chosen = [*COMPARED, *(["exact"] if len(scenario.providers) == 2 else [])]
    known = (*METHODS, EVERYONE)
    return [m for m in chosen if m in known and (effort.methods is None or m in effort.methods)]


def cases_of(models: Sequence[str], scenarios: Sequence[str]) -> Callable[[Effort], list[Row]]:
    """A case for each model, scenario, method and seed."""

    def cases(effort: Effort) -> list[Row]:
        return [
            {"model": model, "scenario": scenario, "method": method, "seed": effort.seed + repeat}
            for model in models
            for scenario in scenarios
            for method in methods_for(scenario_of(scenario), effort)
            for repeat in range(effort.seeds if method in RANDOM else 1)
        ]

    return cases


def run(case: Row, effort: Effort) -> list[Row]:
    """Plan a case without a time budget: the same seed gives the same row."""
    scenario = scenario_of(str(case["scenario"]))
    seed = int(case["seed"] or 0)
    planned = next(
        compare(
            [graph_of(str(case["model"]))], [scenario], [str(case["method"])], seed=seed,
            planner_of=lambda name: planner_of(name, effort),
        )
    )  # fmt: skip
    return [{**case, **_figures(planned), "plan_seconds": planned.seconds}]


def _figures(planned: Planned) -> Row:
    plan = planned.plan
    said = plan.predicted if plan else None
    return {
        "latency_ms": planned.latency_ms,
        "ips": planned.ips,
        "volumes": len(plan.volumes) if plan else None,
        "workers": " ".join(workers(plan)) if plan else "",
        "max_transmission_ms": max(said.transfer_ms.values(), default=0.0) if said else None,
        "max_compute_ms": max(said.compute_ms.values(), default=0.0) if said else None,
        "refusal": planned.refusal,
    }


class ShortOsdsPaper(Planner):
    """`osds-paper` with fewer episodes than the paper's 4000, for quick runs."""

    name = "osds-paper"

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def plan(self, task: Task) -> Strategy:
        """The best plan of so many episodes."""
        from distredge.agents.settings import load_settings
        from distredge.planners.distredge import train_planner

        return train_planner(task, load_settings("paper").model_copy(update={"episodes": self.episodes}))[0]


def planner_of(name: str, effort: Effort) -> Planner:
    """The planner of a method, as much work as the effort allows."""
    if name == EVERYONE:
        return AoflAll()
    if name == "osds-paper" and effort.paper_episodes is not None:
        return ShortOsdsPaper(effort.paper_episodes)
    return planner(name)


def cost_s(case: Row, effort: Effort) -> float:
    """About how long a case takes on one core."""
    method = str(case["method"])
    share = (effort.paper_episodes or PAPER_EPISODES) / PAPER_EPISODES if method == "osds-paper" else 1.0
    return max(0.3, SECONDS_OF.get(method, 0.3) * share)


def shown(rows: Sequence[Row]) -> Shown:
    """A line a case: images a second of each method (median of seeds), and the gains of `osds`."""
    by_case = latencies(rows)
    methods = list(dict.fromkeys(str(r["method"]) for r in rows))
    best, aofl, everyone = (gains(rows, "osds", over) for over in (BASELINES, ("aofl",), (EVERYONE,)))
    lines: list[tuple[Value, ...]] = []
    for (model, scenario), ms in by_case.items():
        ips = (1000.0 / ms[m] if m in ms else None for m in methods)
        case = (model, scenario)
        lines.append((model, scenario, best.get(case), aofl.get(case), everyone.get(case), *ips))
    return Shown(
        ("model", "scenario", "osds / best baseline", "osds / aofl", "osds / aofl-all", *methods), tuple(lines)
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars: images a second by method, grouped by scenario; of several models, a panel a model."""
    from distredge.plots import draw_bar_panels, draw_comparison

    ips = {case: {m: 1000.0 / t for m, t in ms.items()} for case, ms in latencies(rows).items()}
    if len({model for model, _ in ips}) > 1:
        draw_bar_panels({model: values for (model, _), values in ips.items()}, "images/s", path)
    else:
        data = [
            {"model": model, "scenario": scenario, "method": method, "ips": value}
            for (model, scenario), values in ips.items()
            for method, value in values.items()
        ]
        draw_comparison(data, path)


HERE = (
    "Every method plans on the same graph, profiles and links; what is drawn is what the simulator says of its plan,"
    " images a second with one image on the way at a time. Methods that draw random numbers: the median over the seeds."
    " `aofl-all` is AOFL without its choice of devices, a yardstick that counts as no baseline."
)


def comparison(name: str, title: str, paper: str, models: Sequence[str], scenarios: Sequence[str]) -> Experiment:
    """An experiment that compares methods."""
    return Experiment(
        name=name, title=title, paper=paper, here=HERE, key=KEY, columns=COLUMNS, cases=cases_of(models, scenarios),
        run=run, cost_s=cost_s, draw=draw, table=shown, timed=("plan_seconds",), family="methods",
    )  # fmt: skip
