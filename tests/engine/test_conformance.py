"""Every engine passes the same suite: exact, odd shapes, memory, reuse when the split changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.engine.onnxruntime import FixedEngine, RuntimeEngine
from distredge.testing import engine_suite
from distredge.testing.stitching import MakeEngine
from distredge.testing.toy_models import chain, residual

ENGINES: dict[str, MakeEngine] = {
    "fixed": lambda volume, source: FixedEngine(volume, source=source),
    "runtime": lambda volume, source: RuntimeEngine(volume, source=source),
}
engines = pytest.mark.parametrize("engine", ENGINES)


@engines
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_stitched_parts_are_the_undivided_model(engine: str, seed: int) -> None:
    engine_suite.check_random_models(ENGINES[engine], seed)


@engines
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_a_row_for_each_part(engine: str, seed: int) -> None:
    engine_suite.check_random_models(ENGINES[engine], seed, odd=True)


@engines
@pytest.mark.parametrize("make", [chain, residual])
def test_many_splits_on_the_same_engines(engine: str, make: object) -> None:
    rng = np.random.default_rng(1)
    engine_suite.check_exact(ENGINES[engine], make(rng), rng, splits=20)  # type: ignore[operator]


@engines
def test_inputs_and_results_are_apart(engine: str) -> None:
    engine_suite.check_inputs_and_results_are_apart(ENGINES[engine])


@engines
def test_memory_stays_when_the_split_changes(engine: str) -> None:
    engine_suite.check_memory_stays(ENGINES[engine])
