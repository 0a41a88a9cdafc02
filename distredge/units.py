"""Units by name. A number whose unit is not in its type has it in its name (`latency_ms`, `payload_bytes`)."""

from __future__ import annotations

Milliseconds = float
"""A duration or a point in time, in ms."""

Mbps = float
"""A link's rate in megabit/s (10^6 bit/s)."""


def wire_ms(payload_bytes: float, rate_mbps: Mbps) -> Milliseconds:
    """Time that `payload_bytes` occupy a link of `rate_mbps` (may be infinite), without any overhead."""
    return payload_bytes * 8.0 / (rate_mbps * 1000.0)
