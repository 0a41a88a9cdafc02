"""`distredge testbed`: plans on real, shaped links between network namespaces; measured beside predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distredge.cli.models import load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, progress_bar, table
from distredge.cli.planning import Budget, calibration_note, warn
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.planners import METHODS, planner
from distredge.resources import check_writable, write_atomically
from distredge.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from distredge.experiments.fidelity import Candidate, Measured


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("testbed")(testbed)


def testbed(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A shipped name or a YAML file.")],
    model: Annotated[str, typer.Option("--model", help="A zoo name or the path of an .onnx file.")],
    plans: Annotated[int, typer.Option("--plans", min=0, max=10_000, help="So many random plans.")] = 0,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "-m", help=f"The plan of a method, as often as you like; all, or {', '.join(METHODS)}."
        ),
    ] = None,
    plan: Annotated[
        list[Path] | None, typer.Option("--plan", metavar="FILE", help="A plan file, as often as you like.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Images for each plan.")] = 20,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Hold each split-part for its profiled time instead of computing it.")
    ] = False,
    cpu: Annotated[
        list[str] | None, typer.Option("--cpu", metavar="NAME=SHARE", help="Share of a core that a provider may use.")
    ] = None,
    scale: Annotated[
        float, typer.Option("--scale", min=1.0, max=1000.0, help="Divide rates, and multiply compute times, by this.")
    ] = 1.0,
    budget_s: Budget = 10.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write rows, a picture and the plans.")
    ] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Run plans on a star of network namespaces with shaped links; needs root and touches nothing of this machine.

    Every provider is a process in a namespace of its own, behind a link of the scenario's bandwidth. They compute,
    under the CPU quotas of --cpu, or with --emulate take the times of the scenario's boards.

    Example: distredge testbed db-50 --model vgg16 --plans 20 --method search --emulate
    """
    from distredge.runtime.testbed.namespaces import check_host

    if emulate and cpu:
        raise InputError("an emulated board computes nothing that --cpu could slow: leave out one of --emulate, --cpu")
    if not (plans or method or plan):
        raise InputError("nothing to run: give --plans K, --method NAME or --plan FILE")
    methods = _methods(method or [])
    check_host()
    from distredge.experiments.fidelity import given, measure
    from distredge.runtime.testbed.bed import Testbed

    chosen, candidates = load_scenario(scenario), [given(path) for path in plan or []]
    shares = {} if emulate else cpu_shares(cpu or [], chosen, scale)
    bed = Testbed(chosen, cpu=shares, scale=scale)
    graph = load(model, None)
    _warn(bed.scenario, graph, emulate)
    for candidate in candidates:
        candidate.plan.bind(graph)
    candidates += _candidates(graph, bed.scenario, plans, methods, seed, budget_s)
    for file in ("plans/x", "fidelity.csv") if out else ():
        check_writable(Path(str(out)) / file)
    rows = []
    with bed, progress_bar("running") as progress:
        for row in measure(bed, graph, candidates, images, model, emulate):
            rows.append(row)
            progress(len(rows) / len(candidates), row.measured_ms)
    data = _data(bed.scenario, graph, rows, {"images": images, "seed": seed, "scale": scale, "emulated": emulate})
    if out:
        _write(out, f"{graph.name} on {bed.scenario.name}", rows, candidates)
    emit(as_json, data, lambda: _show(data, bed.scenario, out))


def cpu_shares(items: Sequence[str], scenario: Scenario, scale: float) -> dict[str, float]:
    """What each provider may use of a core, if it is limited: --cpu, divided by the scale; raises `InputError`."""
    found = dict.fromkeys(scenario.provider_names, 1.0 / scale) if scale > 1.0 else {}
    for item in items:
        name, _, share = item.partition("=")
        try:
            found[name] = float(share) / scale
        except ValueError as exc:
            raise InputError(f"--cpu '{item}': give NAME=SHARE, as in {scenario.provider_names[0]}=0.5") from exc
    return found


def _methods(items: Sequence[str]) -> dict[str, bool]:
    """The methods meant, and whether each was named, not only one of all; raises `InputError` for an unknown name."""
    found = {name: item != "all" for item in items for name in (METHODS if item == "all" else [item])}
    for name in found:
        planner(name)
    return found


def _candidates(
    graph: LayerGraph, scenario: Scenario, count: int, methods: Mapping[str, bool], seed: int, budget_s: float | None
) -> Iterator[Candidate]:
    """Random plans and each method's; of all methods without those that cannot serve, which is said."""
    from distredge.experiments.fidelity import drawn, planned

    yield from drawn(graph, scenario, count, seed)
    for name, named in methods.items():
        try:
            yield planned(graph, scenario, name, seed, budget_s)
        except InputError as exc:
            if named:
                raise
            errors.print(f"warning: '{name}' is left out: {exc}")


def _warn(scenario: Scenario, graph: LayerGraph, emulate: bool) -> None:
    from distredge.runtime.testbed.shaping import HOST_MBPS

    warn(scenario, graph)
    total = sum(p.bandwidth_mbps for p in scenario.providers)
    if total > HOST_MBPS:
        errors.print(
            f"warning: the links have {total:.0f} Mbit/s together, two cores carry about {HOST_MBPS:.0f}: use --scale"
        )
    if not emulate:
        errors.print(
            "warning: providers compute as fast as this machine lets them, predictions are for the scenario's profiles:"
            " compare them only where the profiles were measured here, or use --emulate"
        )
    if any(p.trace for p in scenario.providers):
        errors.print("warning: links follow the scenario's traces, predictions are for its fixed bandwidths")


def _data(scenario: Scenario, graph: LayerGraph, rows: Sequence[Measured], how: dict[str, object]) -> dict[str, Any]:
    from distredge.experiments.fidelity import summary

    where = {"model": graph.name, "scenario": scenario.name, **how}
    return {**where, "plans": [asdict(row) for row in rows], "summary": summary(rows)}


def _write(out: Path, title: str, rows: Sequence[Measured], candidates: Sequence[Candidate]) -> None:
    from distredge.experiments.fidelity import as_csv, draw

    write_atomically(out / "fidelity.csv", as_csv(rows))
    for candidate in candidates:
        candidate.plan.save(out / "plans" / f"{candidate.name}.json")
    draw(rows, title, out / "fidelity.png")


def _show(data: dict[str, Any], scenario: Scenario, out: Path | None) -> None:
    how = "board times held" if data["emulated"] else "really computed"
    slow = f", rates and times scaled by {data['scale']:g}" if data["scale"] != 1.0 else ""
    rows = [
        [r["plan"], r["predicted_ms"], r["measured_ms"], r["p90_ms"], f"{100 * r['error']:+.1f} %"]
        for r in data["plans"]
    ]
    columns = ["plan", "predicted ms", "measured ms", "p90 ms", "error"]
    table(f"{data['model']} on {data['scenario']}: {data['images']} images a plan, {how}{slow}", columns, rows)
    found = data["summary"]
    console.print(
        f"error of the prediction: median {100 * found['median_error']:.1f} %, p90 {100 * found['p90_error']:.1f} %,"
        f" largest {100 * found['max_error']:.1f} %, mean {100 * found['mean_signed_error']:+.1f} %"
    )
    console.print(calibration_note(scenario))
    if out:
        console.print(f"wrote fidelity.csv, fidelity.png and the plans to {out}")
