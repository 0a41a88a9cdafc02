"""Scission as a planner and its ranking: by hand, against brute force, and as the paper's figures move."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distredge
from distredge.api import make_task
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.placement.benchmarks import NETWORKS, TIERS, Benchmarks, Link, Network, Resource
from distredge.placement.from_profiles import benchmarks_of, default_tiers, network_of, scenario_of_profiles
from distredge.placement.query import Demand, parse_caps, parse_tier, query
from distredge.placement.rank import Prices, best_chain, splits
from distredge.placement.tiers import missing_links, placements
from distredge.planners import planner
from distredge.planners.base import make_plan
from distredge.planners.scission import prices
from distredge.scenario import Scenario
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import ToyProfile, random_scenario, toy_scenario
from distredge.testing.toy_models import chain, residual, save_model

LAYER_WISE = ["neurosurgeon", "dads", "scission"]


def three_blocks() -> Benchmarks:
    """Layers 0-1, 2, 3 on a device, an edge and a cloud."""
    left = np.array([1_000_000.0, 100_000.0, 4_000.0])
    return Benchmarks(
        ((0, 1), (2, 2), (3, 3)),
        (
            Resource("device", "pi", np.array([0.1, 0.4, 0.3]), left),
            Resource("edge", "box", np.array([0.05, 0.1, 0.1]), left),
            Resource("cloud", "gpu", np.array([0.01, 0.01, 0.01]), left),
        ),
    )


# A byte takes 8 / 20e6 s = 0.4 us on the device's link, 8 / 50e6 = 0.16 us on that from edge to cloud.
WIRES = Network(
    {
        ("device", "edge"): Link(20.0, 20.0),
        ("device", "cloud"): Link(45.0, 20.0),
        ("edge", "cloud"): Link(25.0, 50.0),
    }
)


def latency_of(
    benchmarks: Benchmarks, network: Network, demands: list[Demand], top: int = 1
) -> list[tuple[object, ...]]:
    found = query(benchmarks, network, 150_000.0, demands)
    rows = [found.placements.row(int(place)) for place in found.order[:top]]
    return [
        (round(float(r["latency_s"]), 9), r["transfer_mb"], *(r[f"{t}_layers"] for t in TIERS))  # type: ignore[arg-type]
        for r in rows
    ]


def test_three_blocks_by_hand() -> None:
    asked = [
        # all on the cloud: the input, 45 ms + 0.15 MB * 0.4 us = 0.105, and 3 * 0.01
        ({}, (0.135, 0.15, None, None, "0-3")),
        # all on the device: 0.1 + 0.4 + 0.3
        ({"edge": "-1", "cloud": "-1"}, (0.8, 0.0, "0-3", None, None)),
        # all on the edge: 20 ms + 0.06 + 0.05 + 0.1 + 0.1
        ({"cloud": "-1"}, (0.33, 0.15, None, "0-3", None)),
        # device 0-1 then edge: 0.1 + 20 ms + 0.4 + 0.2 = 0.72; device 0-2 then edge: 0.5 + 20 ms + 0.04 + 0.1 = 0.66
        ({"device": "!-1", "edge": "!-1", "cloud": "-1"}, (0.66, 0.1, "0-2", "3", None)),
        # device 0-1 then cloud: 0.1 + 45 ms + 0.4 + 0.02 = 0.565; device 0-2: 0.5 + 45 ms + 0.04 + 0.01 = 0.595
        ({"device": "!-1", "edge": "-1", "cloud": "!-1"}, (0.565, 1.0, "0-1", None, "2-3")),
        # edge 0-1: 0.08 + 0.05 + 25 ms + 0.16 + 0.02 = 0.335; edge 0-2: 0.08 + 0.15 + 25 ms + 0.016 + 0.01 = 0.281
        ({"device": "-1", "edge": "!-1", "cloud": "!-1"}, (0.281, 0.25, None, "0-2", "3")),
        # the only one on three tiers: 0.1 + 20 ms + 0.4 + 0.1 + 25 ms + 0.016 + 0.01 = 0.671
        (dict.fromkeys(TIERS, "!-1"), (0.671, 1.1, "0-1", "2", "3")),
    ]
    for demands, expected in asked:
        parsed = [d for t, text in demands.items() for d in parse_tier(f"--{t}", t, text, three_blocks())]
        assert latency_of(three_blocks(), WIRES, parsed)[0] == pytest.approx(expected), demands
    # 3 native, 2 cuts on each of 3 pairs, 1 on all three
    assert len(placements(three_blocks(), WIRES, 150_000.0)) == 3 + 3 * 2 + 1
    top = latency_of(three_blocks(), WIRES, [], top=20)
    assert [row[0] for row in top] == [0.135, 0.281, 0.33, 0.335, 0.565, 0.595, 0.66, 0.671, 0.72, 0.8]


@st.composite
def grounds(draw: st.DrawFn) -> tuple[Benchmarks, Network, float]:
    blocks = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(1, 4, blocks)
    ends = np.cumsum(sizes) - 1
    layers = tuple((int(e - s + 1), int(e)) for s, e in zip(sizes, ends, strict=True))
    counts = [draw(st.integers(0, 2)) for _ in TIERS]
    if sum(counts) == 0:
        counts[draw(st.integers(0, 2))] = 1
    resources = tuple(
        Resource(tier, f"{tier}{n}", rng.uniform(0, 1, blocks), rng.uniform(0, 2e6, blocks).round())
        for tier, count in zip(TIERS, counts, strict=True)
        for n in range(count)
    )
    named = [(r.name, s.name) for r in resources for s in resources if rng.random() < 0.3]
    pairs = [*named, ("device", "edge"), ("device", "cloud"), ("edge", "cloud")]
    links = {pair: Link(float(rng.uniform(0, 100)), float(rng.uniform(1, 50))) for pair in pairs}
    return Benchmarks(layers, resources), Network(links), 150_000.0


def brute_force(
    benchmarks: Benchmarks, network: Network, input_bytes: float, barred: tuple[str, ...] = ()
) -> list[tuple[float, dict[str, tuple[str, int, int]], dict[str, float]]]:
    """Latency, (resource, first and last block) by tier and bytes that leave a tier of every placement."""
    blocks, found = len(benchmarks.layers), []
    named = {tier: [r for r in benchmarks.resources if r.tier == tier] for tier in TIERS}
    sources = [r for r in named["device"] if r.name not in barred] or named["device"]

    def seconds(a: Resource, b: Resource, payload: float) -> float:
        for pair in ((a.name, b.name), (a.name, b.tier), (a.tier, b.name), (a.tier, b.tier)):
            if pair in network.links:
                return network.links[pair].ping_ms / 1e3 + payload * 8 / (network.links[pair].bandwidth_mbps * 1e6)
        raise AssertionError

    for owners in itertools.product(benchmarks.resources, repeat=blocks):
        order = [TIERS.index(r.tier) for r in owners]
        runs = [(r, [k for k, _ in group]) for r, group in itertools.groupby(enumerate(owners), lambda pair: pair[1])]
        if order != sorted(order) or len({r.tier for r, _ in runs}) < len(runs):
            continue
        total, left = sum(float(r.time_s[k]) for k, r in enumerate(owners)), dict.fromkeys(TIERS, 0.0)
        first = runs[0][0]
        if first.tier != "device":
            nowhere = Resource("device", "device", first.time_s, first.time_s)
            total += min(seconds(source, first, input_bytes) for source in sources or [nowhere])
            left["device"] = input_bytes
        for (a, mine), (b, _) in itertools.pairwise(runs):
            left[a.tier] = float(a.output_bytes[mine[-1]])
            total += seconds(a, b, left[a.tier])
        found.append((total, {r.tier: (r.name, mine[0], mine[-1]) for r, mine in runs}, left))
    return found


@given(grounds())
def test_ranking_is_brute_force(ground: tuple[Benchmarks, Network, float]) -> None:
    found, expected = query(*ground, []), brute_force(*ground)
    assert len(found.order) == len(expected)
    assert found.placements.latency_s[found.order] == pytest.approx(sorted(total for total, *_ in expected))
    seen = {
        (r["latency_s"], *(r[t] for t in TIERS)): r["transfer_mb"]
        for r in (found.placements.row(int(p)) for p in found.order)
    }
    best = min(expected, key=lambda item: item[0])
    key, moved = next(iter(seen.items()))
    assert key == (pytest.approx(best[0]), *(best[1][t][0] if t in best[1] else None for t in TIERS))
    assert moved == pytest.approx(sum(best[2].values()) / 1e6)


@given(grounds(), st.data())
def test_ranking_under_demands_is_brute_force(ground: tuple[Benchmarks, Network, float], data: st.DataObject) -> None:
    benchmarks = ground[0]
    last = benchmarks.layers[-1][1]
    demands, checks, barred = [], [], []
    for _ in range(data.draw(st.integers(1, 3))):
        t = data.draw(st.sampled_from(TIERS))
        names = [r.name for r in benchmarks.resources if r.tier == t]
        kind = data.draw(st.sampled_from(["layer", "used", "upload", "time", "share", *(["name"] if names else [])]))
        negated = data.draw(st.booleans())
        if kind in ("upload", "time", "share"):
            cap = data.draw(st.integers(0, 100))
            value = {"upload": cap / 50, "time": cap / 30, "share": cap}[kind]
            option, text = (
                ("upload", f"{t}={value}") if kind == "upload" else ("time", f"{t}={value}" + "%" * (kind == "share"))
            )
            demands += parse_caps("--max", [text], option)
            checks.append((t, kind, value, False))
            continue
        item = {"layer": str(data.draw(st.integers(0, last))), "used": "-1"}.get(kind) or data.draw(
            st.sampled_from(names)
        )
        demands += parse_tier(f"--{t}", t, "!" * negated + item, benchmarks)
        checks.append((t, kind, item, negated))
        barred += [item] if kind == "name" and negated and t == "device" else []

    def meets(where: dict[str, tuple[str, int, int]], left: dict[str, float]) -> bool:
        times = {
            t: sum(float(next(r for r in benchmarks.resources if r.name == n).time_s[k]) for k in range(a, b + 1))
            for t, (n, a, b) in where.items()
        }
        for t, kind, value, negated in checks:
            if kind == "upload":
                met = left[t] <= float(value) * 1e6
            elif kind == "time":
                met = times.get(t, 0.0) <= float(value)
            elif kind == "share":
                met = 100 * times.get(t, 0.0) <= float(value) * sum(times.values()) * (1 + 1e-9)
            elif kind == "used":
                met = t not in where
            elif kind == "name":
                met = t in where and where[t][0] == value
            else:
                first, end = (where[t][1], where[t][2]) if t in where else (0, -1)
                met = any(a <= int(value) <= b for a, b in benchmarks.layers[first : end + 1])
            if met == negated:
                return False
        return True

    kept = sorted(total for total, where, left in brute_force(*ground, tuple(barred)) if meets(where, left))
    if kept:
        found = query(*ground, demands)
        assert found.placements.latency_s[found.order] == pytest.approx(kept)
    else:
        with pytest.raises(InputError, match="cannot be met"):
            query(*ground, demands)


def test_chains_of_providers_are_brute_force() -> None:
    rng = np.random.default_rng(0)
    for blocks, count in ((1, 3), (2, 4), (5, 4), (4, 1), (6, 2)):
        ground = Prices(
            time=rng.uniform(0, 1, (count, blocks)),
            left_bytes=rng.uniform(0, 1, (count, blocks)),
            entry=rng.uniform(0, 1, count),
            exit=rng.uniform(0, 1, count),
            hop=rng.uniform(0, 0.2, (count, count)),
            hop_byte=rng.uniform(0, 0.5, (count, count)),
        )
        best = np.inf
        for owners in itertools.product(range(count), repeat=blocks):
            runs = [k for k, _ in itertools.groupby(owners)]
            if len(set(runs)) < len(runs) or len(runs) > 3:
                continue
            total = ground.entry[owners[0]] + ground.exit[owners[-1]]
            for k, i in enumerate(owners):
                total += ground.time[i, k]
                if k and owners[k - 1] != i:
                    h = owners[k - 1]
                    total += ground.hop[h, i] + ground.left_bytes[h, k - 1] * ground.hop_byte[h, i]
            best = min(best, total)
        found = best_chain(ground)
        assert found[2] == pytest.approx(best)
    assert splits(4, 3).tolist() == [[0, 1, 2, 4], [0, 1, 3, 4], [0, 2, 3, 4]]


def test_a_missing_link_is_told_and_left_out() -> None:
    only = Network({("device", "edge"): Link(1.0, 10.0)})
    assert missing_links(three_blocks(), only) == ["from pi to gpu", "from box to gpu"]
    assert len(placements(three_blocks(), only, 1.0)) == 4
    far = Benchmarks(three_blocks().layers, three_blocks().resources[1:])
    with pytest.raises(InputError, match="the network has no link from device to box"):
        placements(far, Network({}), 1.0)


def test_sixty_blocks_on_three_tiers_are_ranked_in_50_ms() -> None:
    rng = np.random.default_rng(0)
    left = rng.uniform(0, 1e6, 60)
    resources = tuple(Resource(t, t + str(n), rng.uniform(0, 0.1, 60), left) for t in TIERS for n in range(2))
    benchmarks = Benchmarks(tuple((k, k) for k in range(60)), resources)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        query(benchmarks, WIRES, 150_000.0, parse_tier("--edge", "edge", "10,!59", benchmarks))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05


@pytest.fixture(scope="module")
def board_blocks() -> dict[str, Benchmarks]:
    """A Raspberry Pi 4, two Jetsons as edges, an AGX Xavier for a cloud's GPU: calibrated, not measured."""
    tiers = {"device": ["raspberry-pi-4b"], "edge": ["jetson-tx2", "jetson-nano"], "cloud": ["jetson-agx-xavier"]}
    return {m: benchmarks_of(load_model(m), scenario_of_profiles(tiers), tiers) for m in ("vgg19", "resnet50")}


def where(benchmarks: Benchmarks, network: str, size: float = 150_000.0, **demands: str) -> list[object]:
    parsed = [d for t, text in demands.items() for d in parse_tier(f"--{t}", t, text, benchmarks)]
    found = query(benchmarks, NETWORKS[network], size, parsed)
    row = found.placements.row(int(found.order[0]))
    return [row[f"{t}_layers"] for t in TIERS]


def test_the_best_placement_moves_as_in_the_paper(board_blocks: dict[str, Benchmarks]) -> None:
    vgg, resnet = board_blocks["vgg19"], board_blocks["resnet50"]
    # Fig. 6: VGG-19 is best on the cloud, by 3G and by 4G.
    assert where(vgg, "3g")[:2] == where(vgg, "4g")[:2] == [None, None]
    # Fig. 8 (there MobileNetV2): on the device by 3G, away from it by 4G.
    assert where(resnet, "3g")[1:] == [None, None]
    assert where(resnet, "4g")[0] is None
    # Fig. 9 (there ResNet-50): a somewhat larger input brings it home to the device.
    assert where(vgg, "3g", 200_000.0)[1:] == [None, None]
    # Fig. 11: if all three must be used, the device keeps more by 3G than by 4G.
    every = dict.fromkeys(TIERS, "!-1")
    keeps = [int(str(where(resnet, network, **every)[0]).split("-")[-1]) for network in ("3g", "4g")]
    assert keeps[0] > keeps[1]
    # Table IV, device-edge-cloud, wired: the device computes the first block, the edge most, the cloud the last.
    device, edge, cloud = (str(span).split("-") for span in where(resnet, "wired", **every))
    assert int(device[-1]) <= 3
    assert int(edge[-1]) - int(edge[0]) > 40
    assert int(cloud[-1]) == resnet.layers[-1][1]


def test_a_scenario_has_tiers_and_links(tmp_path_factory: pytest.TempPathFactory) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))
    scenario = toy_scenario(
        [ToyProfile(n, 0.0, ms) for n, ms in (("a", 1.0), ("b", 3.0), ("c", 0.1), ("d", 1.0))], [10.0] * 4
    )
    tiers = default_tiers(graph, scenario)
    assert tiers == {"device": ["d1"], "edge": ["d0", "d3"], "cloud": ["d2"]}
    made = benchmarks_of(graph, scenario, tiers)
    assert made.layers == ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5))  # 5 is the head
    # Rows of conv1, conv2, pool1, conv3, pool2: 24, 24, 12, 12, 6; 3 ms a row on d1, and a head of 0 ms.
    assert made.resources[0].time_s == pytest.approx([0.072, 0.072, 0.036, 0.036, 0.018])
    # conv1 makes 4 x 24 x 10 elements of 2 bytes, pool1 6 x 12 x 5.
    assert made.resources[0].output_bytes[[0, 2]].tolist() == [1920.0, 720.0]
    links = network_of(scenario)
    assert links.links["d0", "d1"].ping_ms == pytest.approx(0.25)
    assert links.links["d0", "d1"].bandwidth_mbps == pytest.approx(10.0 * 0.98 / 1.0456)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("method", LAYER_WISE)
@pytest.mark.parametrize("providers", [1, 2, 3, 16])
def test_layer_wise_planners_keep_the_contract(graph: LayerGraph, method: str, providers: int) -> None:
    scenario = random_scenario(np.random.default_rng(providers), providers)
    told: list[float] = []
    task = make_task(graph, scenario, 0, None, lambda share, best: told.append(share))
    strategy = planner(method).plan(task)
    made, again = make_plan(task, strategy, method, 0), planner(method).plan(task)
    assert again.cuts.tolist() == strategy.cuts.tolist()
    simulator = Simulator(graph, strategy.scenario, strategy.scheme)
    assert simulator.evaluate(strategy.cuts[None])[0] == strategy.latency_ms
    assert made.predicted is not None
    assert made.predicted.latency_ms == pytest.approx(strategy.latency_ms)
    assert told[-1] == 1.0
    assert np.all((np.diff(strategy.cuts, axis=1) > 0).sum(axis=1) == 1)  # each volume whole on one provider


def quick_far_slow_near() -> Scenario:
    """d0 computes fast behind a slow link, d1 slowly behind a fast one: 0.01 and 10 ms a layer."""
    return toy_scenario([ToyProfile("fast", 0.01, 0.0), ToyProfile("slow", 10.0, 0.0)], [2.0, 300.0], 300.0)


@pytest.mark.parametrize("method", LAYER_WISE)
def test_layer_wise_planners_reduce_on_the_near_and_finish_on_the_far(method: str) -> None:
    # All on the fast one: 1.28 s for the image. All on the slow one: 0.53 s for 52 layers and the head. But the first
    # 21 layers take it 0.21 s and hand on 14 x 14 x 64 elements, 25 kB: 0.11 s.
    graph = load_model("mobilenet_v2")
    plan = distredge.plan(graph, quick_far_slow_near(), method)
    owners = [int(np.argmax(np.diff(v.cuts))) for v in plan.volumes]
    alone = distredge.plan(graph, quick_far_slow_near(), "offload")
    assert plan.predicted is not None
    assert alone.predicted is not None
    assert owners == [1, 0]
    assert len(plan.volumes[0].layers) == 21
    assert plan.predicted.latency_ms < alone.predicted.latency_ms


@pytest.mark.parametrize(
    "model", ["vgg16", "resnet50", "inception_v3", "openpose", "ssd_resnet50", "yolov2", "voxelnet"]
)
def test_scission_foresees_what_the_simulator_says(model: str) -> None:
    graph, scenario = load_model(model), random_scenario(np.random.default_rng(4), 4)
    task = make_task(graph, scenario, 0, None, None)
    foreseen = best_chain(prices(task, graph.partition_points))[2]
    assert planner("scission").plan(task).latency_ms == pytest.approx(foreseen, rel=0.1)
