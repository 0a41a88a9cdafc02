"""Agents for a moving network that are quickly made."""

from __future__ import annotations

from distredge.agents.moving.settings import MovingSettings, load_moving_settings

LITTLE = {
    "library": {"screens": 1, "rounds": 2, "conditions": 8, "steps": 800, "try_on": 60, "keep": 24},
    "critic": {"pieces": 6, "slopes_at": 24, "conditions": 200, "steps": 150, "batch": 64},
    "actor": {"layers": [16], "dimensions": 3, "candidates": 8, "steps": 100, "batch": 64},
}


def little_settings() -> MovingSettings:
    """The shipped settings with little to do."""
    data = load_moving_settings().model_dump()
    for section, changes in LITTLE.items():
        data[section] |= changes
    return MovingSettings.model_validate(data)
