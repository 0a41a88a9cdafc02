"""Anonymous network namespaces, each held by a process that ends with the one that made it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType

from distredge.errors import InputError, RunError

TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
"""What is called, and the package that it comes with."""

_STOP_S = 3.0

# IPv6 would announce itself on every link, in front of what is measured. Some kernels have none.
_HOLD = "echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6; echo held; exec cat >/dev/null"


def check_host() -> None:
    """Raise `InputError`, saying what to do, if no network can be made on this machine by this user."""
    if platform.system() != "Linux":
        raise InputError("a test-bed is made of Linux network namespaces: run it on Linux")
    if os.geteuid() != 0:
        raise InputError("a test-bed makes network namespaces: run it as root, for example with sudo")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise InputError(f"a test-bed needs the command '{tool}': install {package}")


def run_tool(command: Sequence[str], lines: Sequence[str] = ()) -> None:
    """Run a command to its end with these lines as its input; raises `RunError` with what it said if it fails."""
    done = subprocess.run(command, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise RunError(f"'{' '.join(command)}' failed: {said}")


class Namespace:
    """A network namespace without a name; a context manager.

    A process holds it that ends when its pipe to this one closes, however this process ends. With the last process in
    it the namespace is gone, and its links with it.
    """

    def __enter__(self) -> Namespace:
        """Make it; raises `RunError` if the machine does not let us."""
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process: it closes what it has made in order
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"held\n":
            said = " ".join(self._holder.stderr.read().decode(errors="replace").split())
            self._close()
            raise RunError(f"cannot make a network namespace: {said or 'unshare failed'}")
        self.pid = self._holder.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process that holds it."""
        self._close()

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command is preceded by to run in it; the command's process id stays its own."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", "--")

    def batch(self, tool: str, lines: Sequence[str]) -> None:
        """Run `ip` or `tc` in it with a command on each line; raises `RunError` at the first that fails."""
        if lines:
            run_tool([*self.prefix, tool, "-batch", "-"], lines)

    def write(self, setting: str, value: str) -> None:
        """Set one of the namespace's own values under `/proc/sys`; raises `RunError` if that is not allowed."""
        run_tool([*self.prefix, "sh", "-c", f"echo {value} >/proc/sys/{setting}"])

    def _close(self) -> None:
        holder = self._holder
        assert holder.stdin is not None
        holder.stdin.close()
        try:
            holder.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()
        for pipe in (holder.stdout, holder.stderr):
            assert pipe is not None
            pipe.close()
