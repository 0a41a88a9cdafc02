"""`distredge query`: Scission's ranked layer-wise placements on device, edge and cloud."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, table
from distredge.cli.planning import calibration_note, warn
from distredge.errors import InputError
from distredge.scenario import load_scenario

if TYPE_CHECKING:
    from distredge.placement.benchmarks import Benchmarks, Network

Expression = "10, !10, NAME, !NAME, -1 (unused), !-1 (used), with commas between."

Several = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("query")(query)


def query(
    model: Model,
    scenario: Annotated[
        str | None, typer.Option("--scenario", "-s", help="Whose providers to place on, blocks by their profiles.")
    ] = None,
    benchmarks: Annotated[
        Path | None,
        typer.Option(help="CSV of measured blocks: tier,resource,block,first_layer,last_layer,time_s,output_bytes."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="source,destination,ping_ms,bandwidth_mbps; or 3g, 4g, wired (the paper's)."),
    ] = None,
    tier: Annotated[
        Several,
        typer.Option("--tier", metavar="TIER=NAME,..", help="Providers, or without a scenario profiles, of a tier."),
    ] = None,
    input_bytes: Annotated[
        float | None, typer.Option(min=0, help="Of the input; 150000, on a scenario what its elements take.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 5,
    device: Annotated[str | None, typer.Option(metavar="EXPR", help=Expression)] = None,
    edge: Annotated[str | None, typer.Option(metavar="EXPR", help=Expression)] = None,
    cloud: Annotated[str | None, typer.Option(metavar="EXPR", help=Expression)] = None,
    max_upload: Annotated[
        Several, typer.Option("--max-upload", metavar="TIER=MB", help="What may leave a tier (10^6 bytes).")
    ] = None,
    max_time: Annotated[
        Several,
        typer.Option("--max-time", metavar="TIER=S|P%", help="Seconds of a tier, or its share of all computing."),
    ] = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Rank every way to place a model's blocks on device, edge and cloud, one after the other (Scission).

    A demand on a tier: 10, this layer must run there; !10, must not; NAME, the tier runs on this resource; !NAME, not
    on it; -1, the tier stays unused; !-1, it is used. The input lies on the device.

    Example: distredge query resnet50 --benchmarks blocks.csv --network network.csv --edge '!-1' --max-upload edge=1
    """
    from distredge.placement.query import parse_caps, parse_tier
    from distredge.placement.query import query as ask
    from distredge.placement.tiers import missing_links

    if input_bytes is not None and not math.isfinite(input_bytes):
        raise InputError(f"--input-bytes {input_bytes}: give a number of bytes")
    caps = parse_caps("--max-upload", max_upload or (), "upload") + parse_caps("--max-time", max_time or (), "time")
    measured, links, size, tiers, note = _ground(model, input_shape, scenario, benchmarks, network, tier or [])
    size = size if input_bytes is None else input_bytes
    demands = [
        demand
        for name, text in (("device", device), ("edge", edge), ("cloud", cloud))
        if text is not None
        for demand in parse_tier(f"--{name}", name, text, measured)
    ]
    for gap in missing_links(measured, links):
        errors.print(f"warning: no link {gap}: what would need it is left out")
    started = time.perf_counter()
    answer = ask(measured, links, size, [*demands, *caps])
    seconds = time.perf_counter() - started
    rows = [answer.placements.row(int(place)) for place in answer.order[:top]]
    data = {
        "model": model,
        "tiers": tiers,
        "placements": len(answer.placements),
        "allowed": len(answer.order),
        "seconds": seconds,
        "rows": rows,
    }

    def show() -> None:
        columns = ["latency_s", "transfer_mb", *(key for t in tiers for key in (t, f"{t}_layers"))]
        cells = [[n + 1, *(_cell(row[c]) for c in columns)] for n, row in enumerate(rows)]
        table(f"{model}: layer-wise placements", ["", *(c.replace("_", " ") for c in columns)], cells)
        counted = f"{len(answer.placements):,} placements, {len(answer.order):,} meet the demands"
        console.print(f"{counted}; ranked in {seconds * 1000:.1f} ms")
        if note:
            console.print(note)

    emit(as_json, data, show)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _ground(
    model: str,
    input_shape: str | None,
    scenario: str | None,
    benchmarks: Path | None,
    network: str | None,
    tier: list[str],
) -> tuple[Benchmarks, Network, float, dict[str, list[str]], str]:
    """Blocks, links, bytes of the input, names by tier, what to know of them; from CSV, a scenario, or profiles."""
    from distredge.placement import from_profiles, layerwise
    from distredge.placement.benchmarks import INPUT_BYTES, TIERS, read_benchmarks, read_network

    if benchmarks is not None:
        if scenario is not None or tier:
            raise InputError("--benchmarks stands for itself: leave out --scenario and --tier")
        if network is None:
            raise InputError("--benchmarks needs --network: a CSV of links, or 3g, 4g, wired")
        measured = read_benchmarks(benchmarks)
        names = {t: [measured.resources[i].name for i in measured.of_tier(t)] for t in TIERS}
        return measured, read_network(network), INPUT_BYTES, names, ""
    tiers = from_profiles.parse_tiers(tier)
    if scenario is not None:
        graph, chosen = load(model, input_shape), load_scenario(scenario)
        tiers = tiers or from_profiles.default_tiers(graph, chosen)
        links = from_profiles.network_of(chosen) if network is None else read_network(network)
        size = layerwise.image_bytes(graph, chosen.element_bytes)
    elif tiers and network is not None:
        graph, chosen = load(model, input_shape), from_profiles.scenario_of_profiles(tiers)
        links, size = read_network(network), INPUT_BYTES
    else:
        raise InputError(
            "say where: --scenario S, or --benchmarks CSV --network CSV, or --tier TIER=PROFILE --network N"
        )
    warn(chosen, graph)
    names = {t: list(tiers.get(t, [])) for t in TIERS}
    numbers = "layers are numbered from 0 in the order of distredge inspect"
    note = f"{numbers}{', the head is the last' if graph.head.nodes else ''}; {calibration_note(chosen)}"
    return from_profiles.benchmarks_of(graph, chosen, names), links, size, names, note
