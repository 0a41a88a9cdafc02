"""Neurosurgeon: the cut by hand, and regressions that see a profile only as lines for each type of layer."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.api import make_task
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.model.load import load_model
from distredge.planners.neurosurgeon import Neurosurgeon, best_cut, features_of, layer_type, predicted_ms
from distredge.profiles.profile import FloatArray, IntArray
from distredge.profiles.store import load_profile
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import chain, save_model


def test_the_cut_of_three_layers_by_hand() -> None:
    # Cut before a layer: device + transfer + server.
    #   0: 0 + 90 + 9 = 99;  1: 10 + 60 + 6 = 76;  2: 30 + 20 + 3 = 53;  3: 90 + 1 + 0 = 91
    device, server, transfer = (
        np.array([10.0, 20.0, 60.0]),
        np.array([3.0, 3.0, 3.0]),
        np.array([90.0, 60.0, 20.0, 1.0]),
    )
    assert best_cut(device, server, transfer) == (2, 53.0)
    # Four times the bandwidth: 31.5, 31, 38, 90.25. Hardly any: 909, 616, 233, 91.
    assert best_cut(device, server, np.array([22.5, 15.0, 5.0, 0.25])) == (1, 31.0)
    assert best_cut(device, server, np.array([900.0, 600.0, 200.0, 1.0])) == (3, 91.0)
    # Of equal cuts the first.
    assert best_cut(np.array([1.0]), np.array([1.0]), np.array([0.0, 0.0])) == (0, 1.0)


class Lines(ToyProfile):
    """A profile that is linear in operations and elements, by type of layer: what the regressions can see."""

    def __init__(self, coefficients: dict[str, tuple[float, float, float]]) -> None:
        super().__init__("lines", 0.0, 0.0)
        self.coefficients = coefficients

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        shares = np.asarray(rows) / layer.height
        weights = self.coefficients.get(layer_type(layer), (2e-6, 3e-6, 0.02))
        ms = np.array([features_of(layer, float(s)) @ weights for s in shares.ravel()])
        return np.where(shares > 0, ms.reshape(shares.shape), 0.0)


@pytest.mark.parametrize("model", ["vgg16", "mobilenet_v2", "resnet50"])
def test_regressions_find_lines_again(model: str) -> None:
    graph = load_model(model)
    profile = Lines({"conv": (1e-6, 2e-6, 0.01), "conv in groups": (5e-6, 1e-6, 0.03)})
    assert len({layer_type(layer) for layer in graph.layers}) > 1
    true = np.array([profile.layer_ms(layer, np.array([layer.height]))[0] for layer in graph.layers])
    assert predicted_ms(profile, graph) == pytest.approx(true, rel=1e-6)


def test_regressions_are_blind_to_steps() -> None:
    graph, profile = load_model("resnet50"), load_profile("jetson-nano")
    true = np.array([profile.layer_ms(layer, np.array([layer.height]))[0] for layer in graph.layers])
    seen = predicted_ms(profile, graph)
    assert np.all(seen > 0.0)
    assert seen.sum() == pytest.approx(true.sum(), rel=0.3)
    assert not np.allclose(seen, true, rtol=0.05)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))


def test_the_golden_cut_of_a_chain(graph: LayerGraph) -> None:
    # conv1, conv2, pool1, conv3, pool2 hand on 4 x 24 x 10, 6 x 24 x 10, 6 x 12 x 5, 8 x 12 x 5, 8 x 6 x 2 elements of
    # 2 bytes: 1920, 2880, 720, 960, 192 bytes; the image has 3 x 24 x 10 elements, 1440 bytes. A layer (and the head)
    # takes d0 1 ms, d1 nothing. 1000 bytes take 17.07 ms on d1's link of 0.5 Mbit/s, nothing on d0's, and 0.25 ms more.
    # The result is 10 bytes, 0.17 ms on d1's link. Device d0, server d1; all that has left the device is
    #   cut 0: 24.83; 1: 1 + 33.02; 2: 2 + 49.41; 3: 3 + 12.54; 4: 4 + 16.64; 5: 5 + 3.53, with the image to d0 0.25 ms
    #   and the head on d1; all on d0 is no cut behind the head: 6 ms + 2 * 0.25.
    scenario = toy_scenario([ToyProfile("d", 1.0, 0.0), ToyProfile("s", 0.0, 0.0)], [1e6, 0.5])
    strategy = Neurosurgeon().plan(make_task(graph, scenario, 0, None, None))
    assert strategy.scheme.locations == (0,)
    assert strategy.cuts.tolist() == [[0, 6, 6]]
    assert strategy.latency_ms == pytest.approx(6.5, abs=1e-3)
    # Ten times as slow: cut 3 costs 30.25 + 12.54 + the result's 0.42, cut 0 24.83 + 0.42, all on d0 60.5.
    slow = toy_scenario([ToyProfile("d", 10.0, 0.0), ToyProfile("s", 0.0, 0.0)], [1e6, 0.5])
    strategy = Neurosurgeon().plan(make_task(graph, slow, 0, None, None))
    assert strategy.cuts.tolist() == [[0, 0, 6]]
    assert strategy.latency_ms == pytest.approx(24.83 + 0.42, abs=0.02)


def test_a_single_provider_computes_all(graph: LayerGraph) -> None:
    task = make_task(graph, toy_scenario([ToyProfile("d", 1.0, 0.0)], [10.0]), 0, None, None)
    assert Neurosurgeon().plan(task).cuts.tolist() == [[0, 6]]
