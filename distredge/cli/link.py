"""`distredge measure-link`: how fast the links to running providers are, and what I/O costs at their ends."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, progress_bar, table
from distredge.errors import InputError, RunError
from distredge.measure.link import REPEATS, SIZES, LinkReport, NodeFigures, measure_links
from distredge.scenario import NODE_NAME, REQUESTER, Scenario, load_scenario, revise


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("measure-link")(measure_link)


def measure_link(
    peers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PEER...]",
            help="Running providers: NAME=HOST:PORT, or NAME for the scenario's address; by default all that have one.",
        ),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", "-s", metavar="SCENARIO", help="Where addresses are, and figures go.")
    ] = None,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="BYTES,...", help="Sizes of the transfers, two or more.")
    ] = ",".join(map(str, SIZES)),
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=1000, help="Transfers of each size.")] = REPEATS,
    between: Annotated[bool, typer.Option("--between", help="Measure also between each two of the providers.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Put the figures into the scenario's file; all else in it stays.")
    ] = False,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Folder with the requester's key pair and the public keys."),
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where answers come to; by default found out.")
    ] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Measure the links to providers that are running and idle, in both directions, and the I/O at their ends.

    Example: distredge measure-link nano-0=192.168.1.21:5701 nano-1=192.168.1.22:5701 --scenario lab.yaml --keys keys
    """
    from distredge.runtime.keys import Keys
    from distredge.runtime.prober import Prober
    from distredge.runtime.run import WIRES

    chosen = load_scenario(scenario) if scenario else None
    addresses = _addresses(peers or [], chosen)
    bytes_sent = _sizes(sizes)
    file = _file(scenario, chosen, addresses) if write else None
    wire = next(wire for wire, size in WIRES.items() if size == (chosen.element_bytes if chosen else 2))
    with (
        Prober(addresses, wire=wire, keys=Keys.load(keys, REQUESTER) if keys else None, listen=listen) as prober,
        progress_bar("measuring") as progress,
    ):
        found = measure_links(
            list(addresses),
            prober.transfer,
            np.random.default_rng(seed),
            sizes=bytes_sent,
            repeats=repeats,
            between=between,
            progress=progress,
        )
    written = _write(file, found) if file else []
    data = {**_data(found), "scenario": str(file) if file else None, "written": written}
    emit(as_json, data, lambda: _show(found, file, written))
    if file and not written:
        raise RunError(f"'{file}' was left as it is: no link could be measured well enough to be written down")


def _addresses(peers: list[str], scenario: Scenario | None) -> dict[str, str]:
    """Where each peer listens."""
    known = {p.name: p.address for p in scenario.providers if p.address} if scenario else {}
    if not peers and not known:
        raise InputError("which providers? Give NAME=HOST:PORT for each, or a --scenario with their addresses")
    found: dict[str, str] = {}
    for peer in peers or known:
        name, _, address = peer.partition("=")
        if not re.fullmatch(NODE_NAME, name) or name == REQUESTER:
            raise InputError(f"'{peer}' is no provider: give NAME=HOST:PORT")
        if scenario and name not in scenario.provider_names:
            raise InputError(f"'{name}' is not in scenario '{scenario.name}', which has {_listed(scenario)}")
        if name in found:
            raise InputError(f"'{name}' is named twice")
        if not address and name not in known:
            raise InputError(f"where does provider '{name}' listen? Give {name}=HOST:PORT")
        found[name] = address or str(known[name])
    return found


def _listed(scenario: Scenario) -> str:
    return ", ".join(scenario.provider_names)


def _sizes(text: str) -> list[int]:
    from distredge.runtime.message import MAX_PROBE_BYTES

    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    # Rate and delay are told apart by sizes that differ.
    if len(sizes) < 2 or not 64 <= sizes[0] or sizes[-1] < 4 * sizes[0] or sizes[-1] > MAX_PROBE_BYTES:
        raise InputError(
            f"--sizes '{text}': give two or more numbers of bytes from 64 to {MAX_PROBE_BYTES}, separated by commas,"
            " the largest at least four times the smallest"
        )
    return sizes


def _file(name: str | None, scenario: Scenario | None, addresses: dict[str, str]) -> Path:
    """The scenario's file, which is the user's own."""
    if not name or not scenario:
        raise InputError("--write puts the figures into a scenario: name its file with --scenario")
    if not Path(name).is_file():
        raise InputError(f"'{name}' is shipped: copy it to a file of your own and name that with --scenario")
    return Path(name)


def _data(found: LinkReport) -> dict[str, object]:
    nodes = [{**asdict(node), "io": node.io.model_dump()} for node in found.nodes]
    return {
        "links": [asdict(link) for link in found.links],
        "nodes": nodes,
        "requester_limits": found.requester_limits,
    }


def _write(file: Path, found: LinkReport) -> list[str]:
    """Put what can be trusted into the scenario's file; the names of these nodes."""
    values = {node.name: _values(node, found) for node in found.nodes if not node.doubts}
    if values:
        revise(file, values)
    return list(values)


def _values(node: NodeFigures, found: LinkReport) -> dict[str, object]:
    """What a scenario is told of a node, to four digits; of the requester's link only that it limits, if it does."""
    io = {key: float(f"{value:.4g}") for key, value in node.io.model_dump().items()}
    if node.name == REQUESTER and not found.requester_limits:
        return {"io": io}
    return {"bandwidth_mbps": float(f"{node.bandwidth_mbps:.4g}"), "io": io}


def _show(found: LinkReport, file: Path | None, written: list[str]) -> None:
    rows = [
        [f"{k.sender} -> {k.receiver}", k.mbps, k.mbps_p10, k.mbps_p90, k.fixed_ms, f"{k.residual:.1%}", k.samples]
        for k in found.links
    ]
    table("Links", ["link", "Mbit/s", "p10", "p90", "fixed ms", "off the line", "transfers"], rows)
    io = [(node, node.io) for node in found.nodes]
    rows = [[n.name, n.bandwidth_mbps, i.read_ms, i.read_ms_per_mb, i.write_ms, i.write_ms_per_mb] for n, i in io]
    table("Nodes", ["node", "Mbit/s", "read ms", "a MB", "write ms", "a MB"], rows)
    if found.requester_limits:
        console.print("providers are faster with each other than with this machine: its own link limits")
    for link in found.links:
        if link.doubt:
            console.print(f"not to be trusted: {link.sender} -> {link.receiver}: {link.doubt}")
    speed = {(link.sender, link.receiver): link.mbps for link in found.links}
    for (sender, receiver), mbps in speed.items():
        if mbps < 0.9 * speed[receiver, sender]:
            console.print(f"{sender} -> {receiver} is slower than back: a scenario knows one rate, the slower one")
    if file:
        left = [node.name for node in found.nodes if node.name not in written]
        console.print(f"wrote {', '.join(written) or 'nothing'} to {file}")
        if left:
            console.print(f"left as it is: {', '.join(left)}")
