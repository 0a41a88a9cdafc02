"""What a test-bed's guard does: waits for the pipe to it to close, then cleans up.

It kills the processes and removes the folders and cgroups that it was told of, and nothing else. It runs as a script of
the standard library alone, so that it is there at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 5.0
"""How long cgroups may take to become empty after their processes were killed."""


def main() -> None:
    """Read `KIND WHAT` lines, answering each; at the end of input clean up, and print what would not go."""
    processes: list[int] = []
    places: dict[str, list[Path]] = {"cgroup": [], "folder": []}
    for line in sys.stdin:
        kind, _, what = line.rstrip("\n").partition(" ")
        if kind == "process":
            with suppress(ProcessLookupError):  # it has ended already
                processes.append(os.pidfd_open(int(what)))  # this very process, never a later one of the same number
        else:
            places[kind].append(Path(what))
        _say("known\n")
    for process in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    for cgroup in places["cgroup"]:
        _remove_cgroup(cgroup, deadline)
    for folder in places["folder"]:
        shutil.rmtree(folder, ignore_errors=True)
    _say(" ".join(str(path) for kind in places.values() for path in kind if path.exists()))


def _say(text: str) -> None:
    """Tell the test-bed, if it is still there."""
    with suppress(BrokenPipeError):
        os.write(1, text.encode())


def _remove_cgroup(cgroup: Path, deadline: float) -> None:
    """Kill what is left in it and remove it."""
    while cgroup.exists():
        try:
            for pid in (cgroup / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            cgroup.rmdir()
        except OSError:  # its processes are ending
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


if __name__ == "__main__":
    main()
