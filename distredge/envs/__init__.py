"""Gymnasium environments; importing this registers `distredge/VerticalSplit-v0`."""

from __future__ import annotations

ENV_ID = "distredge/VerticalSplit-v0"


def register() -> None:
    """Make `gymnasium.make("distredge/VerticalSplit-v0", model=..., scenario=...)` work; Gymnasium calls it itself
    when DistrEdge is installed (entry point `gymnasium.envs`)."""
    import gymnasium

    if ENV_ID not in gymnasium.registry:
        gymnasium.register(id=ENV_ID, entry_point="distredge.envs.split_env:SplitEnv")
