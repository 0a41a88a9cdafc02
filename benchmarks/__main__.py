"""What the performance claims rest on: `python -m benchmarks [NAME...]` prints each figure beside a named alternative.

Ratios within one run count; absolute figures are this machine's. One core.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import agent, controller, engine, exact, many_devices, planning, runtime, scission, simulator  # noqa: E402

BENCHMARKS = {
    "simulator": simulator.main,
    "planning": planning.main,
    "engine": engine.main,
    "scission": scission.main,
    "many-devices": many_devices.main,
    "exact": exact.main,
    "agent": agent.main,
    "runtime": runtime.main,
    "controller": controller.main,
}


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: unknown benchmark '{unknown[0]}', known: {', '.join(BENCHMARKS)}")
    for name in chosen:
        print(f"== {name}")
        BENCHMARKS[name]()
