"""A part that does not fit is refused before anything is built, with the figures."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from distredge.errors import RunError
from distredge.model.load import load_model
from distredge.runtime.memory import ENGINE_FACTOR, ENGINE_MB, free_mb, needed_mb, shortage
from distredge.runtime.provider import Provider
from distredge.runtime.requester import Requester
from distredge.testing.providers import equal_plan, random_images
from distredge.testing.toy_models import chain, save_model


def test_what_is_held_already_is_not_asked_for_again() -> None:
    assert shortage(100.0, 0.0, needed_mb(100.0)) == ""
    problem = shortage(100.0, 0.0, 200.0)
    assert f"needs about {ENGINE_FACTOR * 100 + ENGINE_MB:.0f} MB (100 MB of weights and feature maps" in problem
    assert "200 MB are free" in problem
    assert shortage(100.0, 100.0, 0.0) == ""
    assert shortage(0.0, 0.0, 0.0) == ""


def test_free_memory_is_the_machines_or_the_limit() -> None:
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024 / 1e6
    assert 0.0 < free_mb() <= 1.1 * available
    assert free_mb(1.0) == 0.0, "this process takes more than that"
    assert free_mb(100.0) < 100.0


@pytest.mark.parametrize(("memory_mb", "fits"), [(1.0, False), (100_000.0, True)])
def test_a_provider_says_what_it_lacks(tmp_path: Path, memory_mb: float, fits: bool) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(0)), tmp_path))
    provider, stop = Provider("a", "127.0.0.1:0", memory_mb=memory_mb), Event()
    thread = Thread(target=provider.serve, args=(stop,))
    thread.start()
    try:
        with Requester(equal_plan(graph, ["a"]), {"a": provider.address}) as requester:
            assert len([*requester.stream(random_images(graph, 1))]) == 1
            assert fits
    except RunError as exc:
        assert not fits
        assert "'a' at" in str(exc) and "has too little memory: its part needs about" in str(exc)
    finally:
        stop.set()
        thread.join()
