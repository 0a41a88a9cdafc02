"""Made-up devices and scenarios for tests: no board behaves so, but all the simulator's cases occur."""

from __future__ import annotations

from typing import Literal

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.profile import FloatArray, IntArray, Profile
from distredge.scenario import Provider, Requester, Scenario


class ToyProfile(Profile):
    """Overhead a layer and a time a row, in steps of `quantum` rows."""

    kind: Literal["measured", "calibrated"] = "calibrated"

    def __init__(self, name: str, overhead_ms: float, row_ms: float, quantum: int = 1) -> None:
        self.name = name
        self.overhead_ms = overhead_ms
        self.row_ms = row_ms
        self.quantum = quantum

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """Affine in the rows, rounded up to the quantum."""
        steps = np.ceil(np.asarray(rows) / self.quantum) * self.quantum
        return np.where(np.asarray(rows) > 0, self.overhead_ms + self.row_ms * steps, 0.0)

    def head_ms(self, graph: LayerGraph) -> float:
        """The overhead of one layer."""
        return self.overhead_ms if graph.head.nodes else 0.0

    def provenance(self) -> dict[str, object]:
        """It was invented."""
        return {"source": "invented for tests"}


def toy_scenario(
    profiles: list[ToyProfile],
    mbps: list[float],
    requester_mbps: float | None = None,
    element_bytes: Literal[1, 2, 4] = 2,
) -> Scenario:
    """A scenario with providers d0, d1, ..."""
    providers = tuple(
        Provider(name=f"d{i}", profile=p.name, bandwidth_mbps=rate)
        for i, (p, rate) in enumerate(zip(profiles, mbps, strict=True))
    )
    scenario = Scenario(
        name="toy", requester=Requester(bandwidth_mbps=requester_mbps), providers=providers, element_bytes=element_bytes
    )
    scenario.__dict__["profiles"] = tuple(profiles)  # takes the place of loading them by name
    return scenario


def random_scenario(rng: np.random.Generator, providers: int) -> Scenario:
    """Devices that differ by an order of magnitude, links from 1 to 300 Mbit/s, sometimes two devices of one kind."""
    kinds = [
        ToyProfile(f"toy-{k}", rng.uniform(0.0, 0.3), 10.0 ** rng.uniform(-3, -0.5), int(rng.integers(1, 5)))
        for k in range(providers)
    ]
    profiles = [kinds[int(rng.integers(0, providers))] for _ in range(providers)]
    mbps = [float(10.0 ** rng.uniform(0, 2.5)) for _ in range(providers)]
    requester = None if rng.random() < 0.5 else float(10.0 ** rng.uniform(0, 2.5))
    return toy_scenario(profiles, mbps, requester)


def random_cuts(rng: np.random.Generator, heights: IntArray, providers: int, batch: int) -> IntArray:
    """(batch, volumes, providers + 1) valid cuts, with empty parts among them."""
    inner = np.sort(rng.random((batch, len(heights), providers - 1)) * 1.3 - 0.15, axis=2)
    edges = np.concatenate(
        [np.zeros((batch, len(heights), 1)), inner.clip(0, 1), np.ones((batch, len(heights), 1))], axis=2
    )
    return np.rint(edges * heights[None, :, None]).astype(np.int64)
