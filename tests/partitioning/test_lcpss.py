"""LC-PSS: the facts that the paper states, and the score by hand and by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from distredge.errors import InputError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE
from distredge.model.load import load_model
from distredge.partitioning.lcpss import greedy, lcpss, scorer
from distredge.partitioning.score import SplitScore
from distredge.testing.branchy_models import branchy_model
from distredge.testing.toy_models import chain, save_model


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_vgg16_has_two_volumes_at_alpha_1_nearly_one_a_layer_at_0_and_few_at_the_default() -> None:
    graph = load_model("vgg16")
    counts = [len(lcpss(graph, 4, alpha, 100, rng()).volumes) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert counts[0] >= 13  # the paper: 16 of 18
    assert counts[-1] == 2
    assert counts == sorted(counts, reverse=True)
    assert 3 <= counts[3] <= 6


@pytest.mark.parametrize("model", ["vgg16", "resnet50"])
def test_a_hundred_random_decisions_settle_the_scheme(model: str) -> None:
    graph = load_model(model)
    many = {lcpss(graph, 4, 0.75, 100, rng(seed)).locations for seed in range(20)}
    few = {lcpss(graph, 4, 0.75, 3, rng(seed)).locations for seed in range(20)}
    assert len(many) <= len(few)
    assert len(many) <= 4


def test_same_seed_same_scheme() -> None:
    graph = load_model("resnet50")
    assert lcpss(graph, 4, 0.5, 50, rng(3)) == lcpss(graph, 4, 0.5, 50, rng(3))


def test_no_single_cut_lowers_the_score_of_what_was_found() -> None:
    graph = load_model("vgg16")
    score = scorer(graph, 4, 0.6, 100, rng())
    found = greedy(score).locations
    for point in graph.cut_points:
        if point not in found:
            assert score.scheme(tuple(sorted({*found, point}))) >= score.scheme(found)


def test_greedy_is_near_the_best_scheme_of_a_small_model(tmp_path: Path) -> None:
    graph = load_model(save_model(chain(rng(), height=40), tmp_path))
    inner = graph.cut_points[1:]
    score = SplitScore(graph, 3, 100, 0.5, rng())
    best = min(score.scheme((0, *some)) for k in range(len(inner) + 1) for some in itertools.combinations(inner, k))
    assert best <= score.scheme(greedy(score).locations) <= 1.3 * best


@pytest.mark.parametrize(("make", "crossing"), [(chain, 1), (branchy_model, 2)])
def test_score_by_hand(tmp_path: Path, make: Callable[..., onnx.ModelProto], crossing: int) -> None:
    """One random decision, two providers, two volumes: count every row that is computed and sent."""
    graph = load_model(save_model(make(rng()), tmp_path))
    points = [p for p in graph.cut_points[1:] if len(graph.crossing(p)) >= crossing]
    middle = points[len(points) // 2]
    fractions = np.sort(rng(7).random((len(graph.layers), 1, 1)), axis=2)[:, 0, 0]
    cuts = [int(np.rint(fraction * layer.height)) for fraction, layer in zip(fractions, graph.layers, strict=True)]

    def halves(layer: int) -> list[Interval]:
        """What each of the two providers has of a layer; of the image, nothing."""
        height = graph.layers[layer].height
        return [Interval(0, cuts[layer]), Interval(cuts[layer], height)] if layer != IMAGE else [Interval(0, 0)] * 2

    def counted(*volumes: Volume) -> tuple[float, float]:
        """Operations, and elements that are sent."""
        operations, sent = 0.0, 0.0
        for volume in volumes:
            for i, out in enumerate(halves(volume.stop - 1)):
                if not out.size:
                    continue
                part = volume.part(out)
                operations += sum(r.size * x.macs / x.height for r, x in zip(part.rows, volume.layers, strict=True))
                for entering, rows in zip(volume.entering, part.inputs, strict=True):
                    missing = rows.size - rows.overlap(halves(entering)[i]).size
                    sent += missing * graph.row_elements(entering)
        return operations, sent

    pure = [SplitScore(graph, 2, 1, alpha, rng(7)) for alpha in (0.0, 1.0)]
    layerwise, whole = graph.cut_points, (0,)
    for score in pure:
        unit = abs(score.scheme(whole) - score.scheme(layerwise))
        assert unit == pytest.approx(1.0)  # the range between the extreme schemes
    divided = counted(Volume(graph, 0, middle), Volume(graph, middle, len(graph.layers)))
    undivided = counted(Volume(graph, 0, len(graph.layers)))
    for score, some, all_ in zip(pure, divided, undivided, strict=True):
        assert score.scheme((0, middle)) / score.scheme(whole) == pytest.approx(some / all_)


@pytest.mark.parametrize(("alpha", "samples", "word"), [(1.1, 100, "alpha"), (-0.1, 100, "alpha"), (0.5, 0, "samples")])
def test_bad_parameters(alpha: float, samples: int, word: str) -> None:
    with pytest.raises(InputError, match=word):
        lcpss(load_model("vgg16"), 4, alpha, samples, rng())
