"""Fixtures: an own cache, and providers in threads of this process that listen on real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from distredge.testing.providers import provider_threads

StartProviders = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test keeps is nobody else's; provider processes inherit it."""
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def start_providers() -> Iterator[StartProviders]:
    """Starts providers of these names; returns their addresses. They end with the test."""
    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(provider_threads(names, **options))
