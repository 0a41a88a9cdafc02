"""Tables I to III: the groups as they are shipped, and what each device does alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from distredge.experiments.base import Claim, Effort, Experiment, Judgement, Results, Row, Shown, Value
from distredge.experiments.judging import grade
from distredge.experiments.methods import graph_of, scenario_of
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.simulator import Simulator

MODEL = "vgg16"

NANO, TX2, XAVIER, PI = "jetson-nano", "jetson-tx2", "jetson-agx-xavier", "raspberry-pi-3b"

_TYPES = {"da": (TX2, TX2, NANO, NANO), "db": (XAVIER, XAVIER, NANO, NANO), "dc": (XAVIER, TX2, NANO, PI)}
_RATES = {
    "na": (50, 50, 200, 200),
    "nb": (100, 100, 200, 200),
    "nc": (200, 200, 300, 300),
    "nd": (50, 100, 200, 300),
}
_LARGE = {
    "la": ((300, NANO), (200, NANO), (100, NANO), (50, NANO)),
    "lb": ((300, PI), (200, NANO), (100, TX2), (50, XAVIER)),
    "lc": ((200, PI), (200, NANO), (200, TX2), (200, XAVIER)),
    "ld": ((50, PI), (100, NANO), (200, TX2), (300, XAVIER)),
}

PRINTED: dict[str, dict[str, tuple[tuple[int, str], ...]]] = {
    "table1": {f"{g}-{rate}": tuple((rate, t) for t in types) for g, types in _TYPES.items() for rate in (50, 300)},
    "table2": {
        f"{g}-{name}": tuple((rate, board) for rate in rates)
        for name, board in (("nano", NANO), ("xavier", XAVIER))
        for g, rates in _RATES.items()
    },
    "table3": {g: tuple(sorted(entries * 4)) for g, entries in _LARGE.items()},
}
"""Rates and boards of each group, as the paper prints them."""


def _cases_of(groups: Mapping[str, object]) -> list[Row]:
    return [{"scenario": name} for name in groups]


def run(case: Row, effort: Effort) -> list[Row]:
    """The providers of a group, and what each would take alone."""
    scenario, graph = scenario_of(str(case["scenario"])), graph_of(MODEL)
    simulator = Simulator(graph, scenario, PartitionScheme(graph, (0,)))
    alone = simulator.evaluate(simulator.single_device_cuts())
    computing = [
        float(simulator.costs.table(simulator.scheme.parts[0])[kind, 0, -1] + simulator.costs.head_ms[kind])
        for kind in (simulator.costs.kind_of[id(profile)] for profile in scenario.profiles)
    ]
    return [
        {
            **case, "provider": p.name, "profile": profile.name, "mbps": p.bandwidth_mbps,
            "computing_ms": computing[i], "alone_ms": float(alone[i]),
        }
        for i, (p, profile) in enumerate(zip(scenario.providers, scenario.profiles, strict=True))
    ]  # fmt: skip


def judge_groups(results: Results, subject: str) -> Judgement:
    """Whether the shipped scenarios have the printed devices and rates."""
    right, groups = 0, 0
    for table, printed in PRINTED.items():
        for scenario, entries in printed.items():
            mine = [r for r in results[table] if r["scenario"] == scenario]
            groups += 1
            right += sorted((float(r["mbps"] or 0.0), str(r["profile"])) for r in mine) == sorted(
                (float(rate), board) for rate, board in entries
            )
    return Judgement(grade(right, groups), f"{right} of {groups} scenarios as printed")


def judge_order(results: Results, subject: str) -> Judgement:
    """Whether computing capability is Pi 3 << Nano < TX2 < Xavier."""
    ms = {str(r["profile"]): float(r["computing_ms"] or 0.0) for r in (*results["table1"], *results["table3"])}
    pi, nano, tx2, xavier = (ms[name] for name in (PI, NANO, TX2, XAVIER))
    right = (pi > 5 * nano) + (nano > tx2) + (tx2 > xavier)
    said = f"VGG-16 alone: Pi 3 {pi:.0f} ms, Nano {nano:.0f}, TX2 {tx2:.0f}, Xavier {xavier:.1f}"
    return Judgement(grade(right, 3), said)


def _draw(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_bars

    best: dict[str, tuple[float, float]] = {}
    for r in rows:
        pair = (float(r["alone_ms"] or 0.0), float(r["computing_ms"] or 0.0))
        best[str(r["scenario"])] = min(best.get(str(r["scenario"]), pair), pair)
    series = ({name: pair[k] for name, pair in best.items()} for k in (0, 1))
    draw_bars(dict(zip(("best device alone", "of which computing"), series, strict=True)), "ms", path)


def _table(rows: Sequence[Row]) -> Shown:
    lines: dict[tuple[Value, ...], int] = {}
    for r in rows:
        line = tuple(r[k] for k in ("scenario", "profile", "mbps", "computing_ms", "alone_ms"))
        lines[line] = lines.get(line, 0) + 1
    cells = tuple((scenario, count, *rest) for (scenario, *rest), count in lines.items())
    return Shown(("scenario", "devices", "board", "Mbit/s", "VGG-16 computing ms", "alone, links included ms"), cells)


TABLE1 = Experiment(
    name="table1",
    title="Table I: groups of unequal devices",
    paper="DA: 2 TX2, 2 Nano. DB: 2 Xavier, 2 Nano. DC: Xavier, TX2, Nano, Pi 3. Each at 50 and at 300 Mbit/s.",
    here="The scenarios as shipped in `envs/`; VGG-16 on each device alone, by its calibrated profile and the"
    " simulator.",
    key=("scenario",),
    columns={"scenario": str, "provider": str, "profile": str, "mbps": float, "computing_ms": float, "alone_ms": float},
    cases=lambda effort: _cases_of(PRINTED["table1"]),
    run=run,
    cost_s=lambda case, effort: 0.3,
    draw=_draw,
    table=_table,
)
TABLE2 = replace(
    TABLE1,
    name="table2",
    title="Table II: groups of unequal links",
    paper="NA: 50, 50, 200, 200 Mbit/s. NB: 100, 100, 200, 200. NC: 200, 200, 300, 300. ND: 50, 100, 200, 300.",
    cases=lambda effort: _cases_of(PRINTED["table2"]),
)
TABLE3 = replace(
    TABLE1,
    name="table3",
    title="Table III: groups of 16 devices",
    paper="Four times each: LA Nanos at 300, 200, 100 and 50 Mbit/s; LB Pi 3 at 300, Nano at 200, TX2 at 100, Xavier"
    " at 50; LC the same boards at 200; LD at 50, 100, 200 and 300.",
    cases=lambda effort: _cases_of(PRINTED["table3"]),
)

EXPERIMENTS = (TABLE1, TABLE2, TABLE3)

CLAIMS = (
    Claim(
        "groups", "the groups are those of Tables I to III", "Tables I to III", ("table1", "table2", "table3"),
        "the same boards and rates: in all scenarios, some, none", judge_groups,
    ),
    Claim(
        "capability", "computing capability: Pi 3 << Nano < TX2 < Xavier", "section V-D1", ("table1", "table3"),
        "Pi 3 five times as long as Nano, Nano longer than TX2, TX2 than Xavier: all, some, none", judge_order,
    ),
)  # fmt: skip
