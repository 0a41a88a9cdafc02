"""Settings of all tests: one thread a worker, no display, and Hypothesis' profiles."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before numpy, numba or torch is imported: two workers on two cores must not start two threads each.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first example of a test may compile a kernel.
settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
