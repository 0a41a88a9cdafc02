"""The page of the agent: how near to gold it comes, in what time, in a moving network, on any cluster.

The rows come from `agent_single`, `agent_moving` and `agent_general`; ratios are latency over gold, as these say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from distredge.agents.general.clusters import Grounds
from distredge.agents.general.judging import Case
from distredge.agents.general.policy import shipped_policy
from distredge.api import make_task
from distredge.experiments import agent_general, agent_moving, agent_single
from distredge.experiments.agent_goals import CLAIMS, ends, group_of, grouped, many
from distredge.experiments.base import Effort, Experiment, Page, Row, Shown, Value
from distredge.experiments.methods import graph_of, scenario_of

if TYPE_CHECKING:
    from distredge.agents.moving.policy import MovingAgent

MODEL = "vgg16"
"""Of the tables for moving networks."""

QUICK_SCENARIOS = ("da-300", "db-50", "na-nano", "nd-nano", "lb", "ld")
"""Of the eighteen, where a quick run looks."""

SIGMAS = (0.2, 0.5)
"""Standard deviations of the logarithm of a link's rate over its estimate."""


def quick(effort: Effort) -> bool:
    """Whether minutes are to be enough."""
    return effort.name == "quick"


def moving_effort(effort: Effort) -> agent_moving.MovingEffort:
    """What the tables for moving networks take."""
    few = agent_moving.MovingEffort(
        seed=effort.seed, conditions=10, gold_rounds=20, gold_screen=False, worlds=2, judged=4, draws=4
    )
    return few if quick(effort) else agent_moving.MovingEffort(seed=effort.seed)


def curve_effort(effort: Effort) -> agent_general.CurveEffort:
    """What the any-cluster curve takes."""
    few = agent_general.CurveEffort(clusters=16, gold_runs=6, search_ms=(1, 10, 100))
    return few if quick(effort) else agent_general.CurveEffort()


def _time_cases(effort: Effort) -> list[Row]:
    found = agent_single.time_cases(effort)
    if quick(effort):
        return [case for case in found if case["model"] == MODEL and case["scenario"] in QUICK_SCENARIOS]
    return found


def _ablation_cases(effort: Effort) -> list[Row]:
    found = agent_single.ablation_cases(effort)
    return [case for case in found if case["ground"] == "gold"] if quick(effort) else found


def _moving_cases(few: tuple[str, ...], more: tuple[str, ...] = ()) -> Callable[[Effort], list[Row]]:
    """One case a scenario; `more` of them in a full run."""

    def cases(effort: Effort) -> list[Row]:
        return [{"scenario": s, "seed": effort.seed} for s in (few if quick(effort) else few + more)]

    return cases


@lru_cache(maxsize=4)
def _agent(scenario: str, seed: int, sigma: float) -> MovingAgent:
    """An agent trained under wrong estimates (`sigma` 0: under right ones), with the preset's fixed work."""
    from distredge.agents.moving.settings import load_moving_settings
    from distredge.planners.moving import pretrain

    settings = load_moving_settings("robust" if sigma else "default")
    if sigma:
        noise = settings.noise.model_copy(update={"estimate_sigma": sigma, "compute_sigma": sigma / 2.0})
        settings = settings.model_copy(update={"noise": noise})
    return pretrain(make_task(graph_of(MODEL), scenario_of(scenario), seed, None, None), settings)


def _ground(case: Row, effort: Effort) -> agent_moving.Ground:
    scenario, seed = str(case["scenario"]), int(case["seed"] or 0)
    task = make_task(graph_of(MODEL), scenario_of(scenario), seed, None, None)
    return agent_moving.Ground(task, _agent(scenario, seed, 0.0), moving_effort(effort))


def _long(case: Row, rows: Iterable[Row], key: Sequence[str]) -> list[Row]:
    """A row for each method: `key` columns stay, every other one is a method's ratio."""
    return [
        {**case, **{name: row[name] for name in key}, "method": method, "ratio": ratio}
        for row in rows
        for method, ratio in row.items()
        if method not in key
    ]


UNSEEN_KEY = ("moves", "number", "gold_ms")
WORLD_KEY = ("world", "number", "images", "condition", "gold_ms")
ROBUST_KEY = ("sigma", "estimate", "draw", "gold_ms")
CURVE_KEY = ("case", "model", "providers", "volumes", "used", "gold_ms")


def _unseen(case: Row, effort: Effort) -> list[Row]:
    return _long(case, agent_moving.unseen(_ground(case, effort)), UNSEEN_KEY)


def _wrong_world(case: Row, effort: Effort) -> list[Row]:
    return _long(case, agent_moving.wrong_world(_ground(case, effort)), WORLD_KEY)


def _robust(case: Row, effort: Effort) -> list[Row]:
    ground, found = _ground(case, effort), list[Row]()
    for sigma in SIGMAS:
        under_noise = _agent(str(case["scenario"]), int(case["seed"] or 0), sigma)
        rows = agent_moving.robust(ground, sigma, {"agent trained under noise": under_noise})
        found += _long(case, rows, ROBUST_KEY)
    return found


@lru_cache(maxsize=1)
def _grounds() -> Grounds:
    return Grounds()


def _clusters(effort: Effort) -> list[Case]:
    """With models that the shipped policy was not trained on."""
    return list(agent_general.curve_cases(shipped_policy().about.held_out, curve_effort(effort)))


def _curve(case: Row, effort: Effort) -> list[Row]:
    found = next(c for c in _clusters(effort) if c.number == case["case"])
    return _long({}, [agent_general.run(found, shipped_policy(), _grounds(), curve_effort(effort))], CURVE_KEY)


def _quantiles(by: Sequence[str]) -> Callable[[Sequence[Row]], Shown]:
    """A table: median, mean and ninth decile of the ratio by some columns."""

    def table(rows: Sequence[Row]) -> Shown:
        lines = tuple(
            (*key, len(found), median(found), float(np.mean(found)), float(np.quantile(found, 0.9)))
            for key, found in grouped(rows, by).items()
        )
        return Shown((*by, "cases", "median", "mean", "p90"), lines)

    return table


def _bars(panel: str, label: str, last: Mapping[str, Value] | None = None) -> Callable[[Sequence[Row], Path], None]:
    """A picture: what the median ratio has over 1, in %, a panel for each value of a column."""

    def draw(rows: Sequence[Row], path: Path) -> None:
        from distredge.plots import draw_bar_panels

        mine = [row for row in rows if not last or all(row[k] == v for k, v in last.items())]
        panels: dict[str, dict[str, float]] = {}
        for (name, what), found in grouped(mine, (panel, label)).items():
            panels.setdefault(str(name), {})[str(what)] = 100.0 * (median(found) - 1.0)
        draw_bar_panels(panels, "median over gold, %", path)

    return draw


def _time_table(rows: Sequence[Row]) -> Shown:
    spent = {(r["model"], r["scenario"], r["method"]): r["cpu_s"] for r in rows}
    lines = tuple((*case, median(found), max(found), spent[case]) for case, found in ends(rows).items())
    return Shown(("model", "scenario", "method", "median over gold", "worst seed", "core seconds"), lines)


def _time_draw(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_lines

    panels: dict[str, dict[str, Any]] = {}
    for (model, scenario, method, seed), ratios in grouped(rows, ("model", "scenario", "method", "seed")).items():
        lines = panels.setdefault(f"{model} {scenario}", {})
        if method not in lines:  # the first seed
            mine = [r for r in rows if (r["model"], r["scenario"], r["method"]) == (model, scenario, method)]
            lines[str(method)] = [r["cpu_s"] for r in mine if r["seed"] == seed], ratios
    draw_lines(panels, "core seconds", "latency over gold", path, logarithmic=True)


def _experiment(name: str, title: str, paper: str, here: str, **more: Any) -> Experiment:
    return Experiment(name=f"agent-{name}", title=title, paper=paper, here=here, **more)


CASE: dict[str, type] = {"scenario": str, "seed": int}
RATIO: dict[str, type] = {"gold_ms": float, "method": str, "ratio": float}

EXPERIMENTS = (
    _experiment(
        "time", "One fixed case: how near to gold, in what time",
        "How near do the agent, the paper's agent, plain annealing and iterated search come, and how soon?",
        "Gold is the best plan known of a case (`distredge/experiments/gold.json`). `search` and `osds` choose scheme,"
        " order and cuts; `osds` begins with the same search, then trains; `osds-paper` and `annealing` have LC-PSS's"
        " scheme at alpha 0.75 and the scenario's order. Core seconds are this machine's and differ between runs;"
        " loading the libraries counts. Lines are the first seed's.",
        key=("model", "scenario", "method", "seed"),
        columns={"model": str, "scenario": str, "method": str, "seed": int, "cpu_s": float, "share": float,
                 "latency_ms": float, "ratio": float},
        cases=_time_cases, run=agent_single.over_time, cost_s=lambda case, effort: 20.0, draw=_time_draw,
        table=_time_table,
    ),
    _experiment(
        "ablation", "One fixed case: what each ingredient is worth",
        "What is lost when one ingredient of `osds` is left out?",
        "`screen`: the agent as it is. `gold`: only the learning, on the best plan's scheme and order, without search"
        " and without that plan. Figures are of the best plan and of the greedy policy at the end.",
        key=("model", "scenario", "ground", "without", "seed"),
        columns={"model": str, "scenario": str, "ground": str, "without": str, "seed": int, "latency_ms": float,
                 "ratio": float, "policy_ms": float, "policy_ratio": float, "episodes": int, "cpu_s": float},
        cases=_ablation_cases, run=agent_single.ablated, cost_s=lambda case, effort: 20.0,
        draw=_bars("scenario", "without", {"ground": "gold"}),
        table=lambda rows: Shown(
            ("model", "scenario", "ground", "without", "median over gold", "worst seed", "greedy policy, median"),
            tuple(
                (*key, median(found), max(found), median(policy))
                for (key, found), policy in zip(
                    grouped(rows, ("model", "scenario", "ground", "without")).items(),
                    grouped(rows, ("model", "scenario", "ground", "without"), "policy_ratio").values(), strict=True,
                )
            ),
        ),
    ),
    _experiment(
        "unseen", "A moving network: conditions never seen",
        "How good is a decision without a simulator, and with a millisecond of search, when links (or links, devices"
        " and I/O) are other than ever trained on?",
        "VGG-16; rates log-uniform in 20 to 300 Mbit/s. Gold is the joint search under these very conditions.",
        key=("scenario", "seed"),
        columns={**CASE, "moves": str, "number": int, **RATIO},
        cases=_moving_cases(("db-50", "na-nano", "ld"), ("la",)), run=_unseen,
        cost_s=lambda case, effort: (1.0 if quick(effort) else 6.0) * (200.0 if many(str(case["scenario"])) else 60.0),
        draw=_bars("scenario", "method"), table=_quantiles(("scenario", "moves", "method")),
    ),
    _experiment(
        "wrong-world", "A moving network: a world other than told",
        "A device is twice as slow, I/O takes 1 ms more, a link is reported 30 % high: how soon is that learnt from"
        " images' latencies alone, and from the times of devices and links?",
        "VGG-16; links move from image to image. `end to end` shifts the critic's inputs, `refitted` refits the"
        " simulator; both are judged on conditions of their own.",
        key=("scenario", "seed"),
        columns={**CASE, "world": str, "number": int, "images": int, "condition": int, **RATIO},
        cases=_moving_cases(("db-50",), ("na-nano", "ld")), run=_wrong_world,
        cost_s=lambda case, effort: 120.0 if quick(effort) else 500.0, draw=_bars("images", "method"),
        table=_quantiles(("scenario", "world", "images", "method")),
    ),
    _experiment(
        "robust", "A moving network: wrong estimates",
        "How much is lost when link rates are other than estimated (log-normal), and does training under that help?",
        "VGG-16; slow-downs are off by half as much. The agent trained under noise has the preset `robust`: its critic"
        " learns the ninth decile. Each estimate meets several true worlds; each has its own gold.",
        key=("scenario", "seed"),
        columns={**CASE, "sigma": float, "estimate": int, "draw": int, **RATIO},
        cases=_moving_cases(("na-nano",), ("db-50",)), run=_robust,
        cost_s=lambda case, effort: 300.0 if quick(effort) else 1500.0,
        draw=_bars("sigma", "method"), table=_quantiles(("scenario", "sigma", "method")),
    ),
    _experiment(
        "any-cluster", "Any cluster, any model: devices and models never seen",
        "How good is one policy, trained on random clusters, on clusters and models that it never saw?",
        "Random clusters of the shipped boards, models held out from training; gold is restarted annealing for the same"
        " scheme and order. `cold` searches begin with the best proportional plan, `warm` ones with the agent's.",
        key=("case",),
        columns={"case": int, "model": str, "providers": int, "volumes": int, "used": int, **RATIO},
        cases=lambda effort: [{"case": case.number} for case in _clusters(effort)],
        run=_curve, cost_s=lambda case, effort: 6.0 if quick(effort) else 30.0,
        draw=lambda rows, path: _bars("group", "method")(_with_groups(rows), path),
        table=lambda rows: _quantiles(("group", "method"))(_with_groups(rows)),
    ),
)  # fmt: skip


def _with_groups(rows: Sequence[Row]) -> list[Row]:
    """Rows with how many providers there are, from to."""
    return [{**row, "group": group_of(row)} for row in rows]


def _work(effort: Effort) -> str:
    moving, curve = moving_effort(effort), curve_effort(effort)
    return (
        f"osds-paper trains for {effort.paper_episodes or 4000} episodes (the paper: 4000); {moving.conditions} unseen"
        f" conditions of a kind, {moving.worlds} wrong worlds of a kind, {curve.clusters} clusters of a size"
    )


AGENT = Page(
    name="agent",
    file="agent.html",
    title="DistrEdge: what the agent is worth",
    asked="Question",
    legend=(
        "For one fixed case learning adds nothing to search: <code>osds</code> is as good as the search that it begins"
        " with. Learning earns its place where there is no time or no true simulator: a plan in a fraction of a"
        " millisecond while links and devices change, worlds that differ from what is told, clusters and models never"
        " seen. The goals below were set before the agent was built; a verdict says whether they are reached here."
    ),
    work=_work,
    experiments=EXPERIMENTS,
    claims=CLAIMS,
)
