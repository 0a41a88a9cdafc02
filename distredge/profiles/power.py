"""`Power`: what a device draws, for plans that keep to an energy budget."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Power:
    """A device's power in watts, 0 < idle_w <= active_w.

    `idle_w` is drawn by the whole device while it waits, `active_w` while it computes; `radio_w` comes on top of
    either while its radio sends or receives.
    """

    idle_w: float
    active_w: float
    radio_w: float
