"""What the runtime itself costs a frame: four providers, eight volumes, nothing to compute, links that do not limit.

Beside it raw sockets: plain processes that pass the same bytes over TCP in the same order of events, without headers,
encryption, heartbeats, order, or anything to recover from. And one link of a given rate: how near to bytes / rate a
transfer comes, headers counted.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

import distredge
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.plans.plan import BoundPlan, VolumePlan
from distredge.profiles.network import PACE, WIRE_OVERHEAD
from distredge.runtime.assignment import assignments, image_rows
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.launch import Launcher
from distredge.runtime.message import Emulation, Stage
from distredge.runtime.requester import Requester, Terms
from distredge.runtime.testbed.bed import Testbed
from distredge.runtime.trace_file import read
from distredge.scenario import REQUESTER, Io, Scenario, load_scenario
from distredge.simulate.timeline import trace
from distredge.testing.providers import bound_plan

NAMES = ("a", "b", "c", "d")
VOLUMES = 8
FRAMES = 200
WIRE = 2
MBPS = 50.0
LONG_BYTES = 200_000


def main() -> None:
    graph = distredge.load_model("vgg16")
    bound = equal_volumes(graph, NAMES, VOLUMES)
    ours, theirs = runtime_ms(bound), raw_ms(bound)
    print(
        f"vgg16, {len(NAMES)} providers, {VOLUMES} volumes, nothing computed: {statistics.median(ours):.2f} ms a frame"
        f" (p90 {np.percentile(ours, 90):.2f}), raw sockets {statistics.median(theirs):.2f} ms"
        f" (p90 {np.percentile(theirs, 90):.2f})"
    )
    try:
        shaped(bound)
    except InputError as exc:
        print(f"over shaped links: not measured, {exc}")


def equal_volumes(graph: LayerGraph, names: Sequence[str], count: int) -> BoundPlan:
    """Volumes of about as many layers each, cut into equal parts."""
    points = graph.partition_points
    starts = [0, *(points[round(k * (len(points) - 1) / count)] for k in range(1, count))]
    volumes = []
    for a, b in pairwise([*starts, len(graph.layers)]):
        height = graph.layers[b - 1].height
        cuts = tuple(i * height // len(names) for i in range(len(names) + 1))
        volumes.append(VolumePlan(layers=graph.names(a, b), cuts=cuts))
    return bound_plan(graph, names, volumes, names[0])


def runtime_ms(bound: BoundPlan) -> list[float]:
    """Latency of frames through provider processes whose stages take no time."""

    def at_once(plan: BoundPlan | None) -> dict[str, Emulation]:
        return {name: Emulation((0.0,) * len(stages), None) for name, stages in assignments(plan or bound).items()}

    with tempfile.TemporaryDirectory() as folder:
        create_keys(Path(folder), [REQUESTER, *NAMES])
        image = np.zeros(bound.graph.input_shape, np.float32)
        with (
            Launcher(NAMES, Path(folder)) as launcher,
            Requester(
                bound,
                launcher.addresses,
                keys=Keys.load(Path(folder), REQUESTER),
                terms=Terms(wire="float16", emulate=at_once),
            ) as requester,
        ):
            return [result.latency_ms for result in requester.stream([image] * FRAMES)][20:]


def raw_ms(bound: BoundPlan) -> list[float]:
    """The same with raw sockets: each provider waits for its bytes and sends what it owes, volume by volume."""
    nodes = [REQUESTER, *NAMES]
    stages, images = assignments(bound), image_rows(bound)
    unit = {layer: bound.graph.row_elements(layer) * WIRE for layer in range(-1, len(bound.graph.layers))}
    owed: dict[tuple[str, str, int], int] = defaultdict(int)
    for send in images:
        owed[REQUESTER, send.peer, send.boundary] += (send.rows[1] - send.rows[0]) * unit[send.layer]
    for name, own in stages.items():
        for stage in own:
            for send in stage.sends:
                if send.peer:
                    owed[name, send.peer, send.boundary] += (send.rows[1] - send.rows[0]) * unit[send.layer]
    result = (bound.plan.head_provider, REQUESTER, VOLUMES + 1)
    owed[result] += sum(int(np.prod(o.shape)) for o in bound.graph.head.outputs) * WIRE
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in nodes}
    context = multiprocessing.get_context("fork")
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    workers = [
        context.Process(target=_raw_provider, args=(name, listeners, ports, owed, stages[name]), daemon=True)
        for name in NAMES
    ]
    for worker in workers:
        worker.start()
    ins, outs = _mesh(REQUESTER, listeners, ports, owed)
    times = []
    for _ in range(FRAMES):
        started = time.perf_counter()
        _send(outs, owed, REQUESTER, {send.boundary for send in images})
        _receive(ins, owed, REQUESTER, VOLUMES + 1)
        times.append((time.perf_counter() - started) * 1e3)
    for connection in outs.values():
        connection.close()
    for worker in workers:
        worker.join(5.0)
        worker.kill()
    return times[20:]


Owed = dict[tuple[str, str, int], int]


def _raw_provider(
    name: str, listeners: dict[str, socket.socket], ports: dict[str, int], owed: Owed, stages: tuple[Stage, ...]
) -> None:
    ins, outs = _mesh(name, listeners, ports, owed)
    try:
        while True:
            for stage in stages:
                _receive(ins, owed, name, stage.boundary)
                to = {send.boundary for send in stage.sends if send.peer} if stage.layers else {VOLUMES + 1}
                _send(outs, owed, name, to)
    except OSError:
        return


def _mesh(
    name: str, listeners: dict[str, socket.socket], ports: dict[str, int], owed: Owed
) -> tuple[dict[str, socket.socket], dict[str, socket.socket]]:
    """One connection each way for each pair that has something to say."""
    outs = {}
    for receiver in sorted({b for a, b, _ in owed if a == name}):
        outs[receiver] = socket.create_connection(("127.0.0.1", ports[receiver]))
        outs[receiver].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        outs[receiver].sendall(name.encode().ljust(16))
    ins = {}
    for _ in {a for a, b, _ in owed if b == name}:
        connection, _ = listeners[name].accept()
        ins[connection.recv(16, socket.MSG_WAITALL).decode().strip()] = connection
    return ins, outs


def _send(outs: dict[str, socket.socket], owed: Owed, name: str, boundaries: set[int]) -> None:
    for (sender, receiver, boundary), size in owed.items():
        if sender == name and boundary in boundaries:
            outs[receiver].sendall(bytes(size))


def _receive(ins: dict[str, socket.socket], owed: Owed, name: str, boundary: int) -> None:
    for (sender, receiver, at), size in owed.items():
        if receiver == name and at == boundary:
            got = ins[sender].recv(size, socket.MSG_WAITALL)
            if len(got) < size:
                raise OSError("closed")


def shaped(bound: BoundPlan) -> None:
    """The same plan in a test-bed, over links of 50 Mbit/s with boards that take their time; and its long transfers.

    What a frame takes beyond computing and bytes / rate (first come, first served; nothing for a message) is overhead.
    """
    scenario = named(load_scenario("db-50"))
    free = replace_io(scenario)
    ideal_ms = trace(bound, free).latency_ms
    with Testbed(scenario) as bed:
        plan_file, recorded = bed.folder / "plan.json", bed.folder / "trace.json"
        bound.plan.save(plan_file)
        options = ["--hold", "--images", "60", "--model", "vgg16", "--trace", str(recorded)]
        report = bed.run(plan_file, options)
        alone = bed.folder / "alone.json"
        offload(bound, NAMES[1]).plan.save(alone)
        bed.run(alone, options)
        found = read(recorded)
    p50 = report["latency_ms"]["p50"]
    print(
        f"over links of {MBPS:.0f} Mbit/s: {p50:.2f} ms, computing and bytes {ideal_ms:.2f}:"
        f" {p50 - ideal_ms:.2f} ms overhead"
    )
    spans = [s for s in found.spans[NAMES[1]] if s.kind == "receive" and s.payload_bytes >= LONG_BYTES]
    begun = {s.frame: s.start_s for s in found.spans[REQUESTER] if s.kind == "send"}
    ratios = [
        (s.stop_s - begun[s.frame]) / (s.payload_bytes * 8 * WIRE_OVERHEAD / (MBPS * 1e6))
        for s in spans
        if s.frame in begun
    ]
    print(
        f"{len(ratios)} transfers of {spans[0].payload_bytes / 1000:.0f} kB: median {statistics.median(ratios):.3f} of"
        f" bytes / rate, headers counted (p90 {np.percentile(ratios, 90):.3f}); the pace alone is {1 / PACE:.3f}"
    )


def offload(bound: BoundPlan, name: str) -> BoundPlan:
    """Everything on one provider."""
    at = NAMES.index(name)
    volumes = [
        item.model_copy(update={"cuts": (*(0,) * (at + 1), *(item.cuts[-1],) * (len(NAMES) - at))})
        for item in bound.plan.volumes
    ]
    return bound_plan(bound.graph, NAMES, volumes, name)


def named(scenario: Scenario) -> Scenario:
    """The scenario's devices under the names of the plan."""
    providers = tuple(p.model_copy(update={"name": name}) for p, name in zip(scenario.providers, NAMES, strict=True))
    return scenario.model_copy(update={"providers": providers})


def replace_io(scenario: Scenario) -> Scenario:
    """The scenario with messages that cost nothing but their bytes."""
    nothing = Io(write_ms=0.0)
    providers = tuple(p.model_copy(update={"io": nothing}) for p in scenario.providers)
    requester = scenario.requester.model_copy(update={"io": nothing})
    return scenario.model_copy(update={"providers": providers, "requester": requester})
