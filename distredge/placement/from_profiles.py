"""Block benchmarks and links of a scenario's providers, or of bare profiles, for Scission's queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.placement import layerwise
from distredge.placement.benchmarks import TIERS, Benchmarks, Link, Network, Resource
from distredge.scenario import Provider, Scenario
from distredge.simulate.costs import VolumeCosts

Tiers = Mapping[str, Sequence[str]]
"""Names of the resources of each tier."""


def benchmarks_of(graph: LayerGraph, scenario: Scenario, tiers: Tiers) -> Benchmarks:
    """Blocks between partition points, on providers by tier.

    Layers are numbered as in the graph; the head follows them as one more, in the last block.
    """
    costs, names = VolumeCosts(graph, scenario.profiles), scenario.provider_names
    points = graph.partition_points
    time_s = layerwise.block_ms(costs, scenario, layerwise.blocks(graph, points)) / 1000.0
    time_s[:, -1] += layerwise.head_ms(costs, scenario) / 1000.0
    left = layerwise.leaving_bytes(graph, points, scenario.element_bytes)
    left[-1] = layerwise.result_bytes(graph, scenario.element_bytes)
    end = len(graph.layers) + bool(graph.head.nodes)
    resources = []
    for tier in TIERS:
        for name in tiers.get(tier, ()):
            if name not in names:
                raise UnknownNameError("provider", name, names, f"(of '{scenario.name}', for the tier {tier})")
            resources.append(Resource(tier, name, time_s[names.index(name)], left))
    if len({r.name for r in resources}) < len(resources):
        raise InputError("a provider stands on two tiers: give each one tier")
    return Benchmarks(tuple((a, b - 1) for a, b in zip(points, (*points[1:], end), strict=True)), tuple(resources))


def network_of(scenario: Scenario) -> Network:
    """The links between providers: the slower of both access links, a message's reading and writing as latency."""
    messages, names = layerwise.Messages.of(scenario), scenario.provider_names
    return Network(
        {
            (a, b): Link(float(messages.fixed_ms[i, j]), 8.0 / (float(messages.byte_ms[i, j]) * 1000.0))
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if i != j
        }
    )


def default_tiers(graph: LayerGraph, scenario: Scenario) -> dict[str, list[str]]:
    """The slowest provider as the device, the fastest as the cloud, all others as the edge; of two: device and edge."""
    costs = VolumeCosts(graph, scenario.profiles)
    whole = layerwise.block_ms(costs, scenario, layerwise.blocks(graph, (0,)))[:, 0]
    total, names = whole + layerwise.head_ms(costs, scenario), scenario.provider_names
    order = sorted(range(len(names)), key=lambda i: (total[i], i))
    device = max(order, key=lambda i: (total[i], -i))
    ranked = [names[i] for i in order if i != device]
    edge, cloud = (ranked[1:], ranked[:1]) if len(ranked) > 1 else (ranked, [])
    return {"device": [names[device]], "edge": [n for n in names if n in edge], "cloud": cloud}


def scenario_of_profiles(tiers: Tiers, element_bytes: Literal[1, 2, 4] = 4) -> Scenario:
    """A scenario whose providers bear their profiles' names; features are sent in float32 as in Scission.

    Its links are never asked for: give a network.
    """
    providers = {
        name: Provider(name=name, profile=name, bandwidth_mbps=1.0) for tier in TIERS for name in tiers.get(tier, ())
    }
    return Scenario(name="profiles", providers=tuple(providers.values()), element_bytes=element_bytes)


def parse_tiers(given: Sequence[str]) -> dict[str, list[str]]:
    """`TIER=NAME` with more names behind commas, some of them; raises `InputError`."""
    found: dict[str, list[str]] = {}
    for text in given:
        tier, _, names = text.partition("=")
        listed = [name.strip() for name in names.split(",") if name.strip()]
        if tier.strip() not in TIERS or not listed:
            raise InputError(f"--tier '{text}': give TIER=NAME or TIER=NAME,NAME, the tier being {', '.join(TIERS)}")
        found.setdefault(tier.strip(), []).extend(listed)
    return found
