"""Gymnasium environments; importing this registers `distredge/VerticalSplit-v0`.

    import distredge.envs
    import gymnasium

    env = gymnasium.make("distredge/VerticalSplit-v0", model="vgg16", scenario="db-50")

Gymnasium itself imports it for the id `distredge.envs:distredge/VerticalSplit-v0`.
"""

from __future__ import annotations

import gymnasium

ENV_ID = "distredge/VerticalSplit-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(id=ENV_ID, entry_point="distredge.envs.split_env:SplitEnv")
