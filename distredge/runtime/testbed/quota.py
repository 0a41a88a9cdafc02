"""CPU quotas: a cgroup for each process that may use only a share of a core."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from distredge.errors import InputError, RunError
from distredge.runtime.testbed.guard import Guard

SHARES = (0.01, 64.0)
"""Of a core: least and most."""

LEAST_US = 1000
"""The shortest quota and the shortest period that Linux knows, in microseconds. Short ones are best: what is computed
in one go within a quota that was saved up is not slowed at all."""


@dataclass(frozen=True)
class Controller:
    """Where cgroups with a CPU quota are made, and of which version."""

    folder: Path
    version: int


def find_controller(mounts: Path = Path("/proc/self/mountinfo")) -> Controller:
    """The machine's CPU controller; raises `InputError` if there is none that can be used."""
    for line in mounts.read_text().splitlines():
        before, _, after = line.partition(" - ")
        folder, (kind, *_, options) = Path(before.split()[4]), after.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Controller(folder, 1)
        if kind == "cgroup2" and "cpu" in _read(folder / "cgroup.subtree_control"):
            return Controller(folder, 2)
    raise InputError("this machine has no CPU controller for cgroups: leave out --cpu and --scale, or use --emulate")


def _read(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def quota(share: float) -> tuple[int, int]:
    """Quota and period in microseconds for a share of a core; raises `InputError` for one that cannot be."""
    least, most = SHARES
    if not least <= share <= most:
        raise InputError(f"a share of a core must lie between {least:g} and {most:g}, not {share:g}")
    quota_us = round(LEAST_US * max(1.0, share))
    return quota_us, round(quota_us / share)


class Quotas:
    """The cgroups of a test-bed, by name; made when first needed, removed by its guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._folders: dict[str, Path] = {}
        self._version = 0

    def limit(self, name: str, pid: int, share: float) -> None:
        """Let a process, and those that it will start, use so much of a core from now on.

        Raises `InputError` without a CPU controller, `RunError` if it cannot be used.
        """
        amount, period = quota(share)
        folder = self._folders.get(name) or self._make(name)
        try:
            if self._version == 1:  # lifted while both change, so that no pair of old and new is out of range
                (folder / "cpu.cfs_quota_us").write_text("-1")
                (folder / "cpu.cfs_period_us").write_text(str(period))
                (folder / "cpu.cfs_quota_us").write_text(str(amount))
            else:
                (folder / "cpu.max").write_text(f"{amount} {period}")
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError as exc:
            raise RunError(f"cannot limit '{name}' to {share:g} of a core: {exc.strerror}") from exc

    def free(self, name: str) -> None:
        """Lift the limit of a process."""
        if folder := self._folders.get(name):
            file, unlimited = ("cpu.cfs_quota_us", "-1") if self._version == 1 else ("cpu.max", "max")
            (folder / file).write_text(unlimited)

    def _make(self, name: str) -> Path:
        controller = find_controller()
        folder = controller.folder / f"distredge-{os.getpid()}-{secrets.token_hex(4)}"
        self._guard.watch("cgroup", folder)
        try:
            folder.mkdir()
        except OSError as exc:
            raise RunError(f"cannot make the cgroup '{folder}': {exc.strerror}") from exc
        self._folders[name], self._version = folder, controller.version
        return folder
