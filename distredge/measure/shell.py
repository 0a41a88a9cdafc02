"""A shell on a board over ssh, or on this machine, whose scripts leave nothing behind."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass

from distredge.errors import InputError, RunError

CONNECT_S = 10
"""That a board may take to answer when it is connected to."""

OPEN_S = 60.0
"""That logging in may take in all."""

SCRIPT_S = 120.0
"""That a script may take that is not told otherwise."""

_LOST = 255
"""How ssh ends if it, and not what it ran, has failed."""

_SSH = (
    *("ssh", "-T", "-oBatchMode=yes", f"-oConnectTimeout={CONNECT_S}", "-oControlPersist=no"),
    *("-oServerAliveInterval=10", "-oServerAliveCountMax=3"),  # a board that is cut off is noticed within 40 s
)

_BEGIN = "distredge-begins-here"
"""What a script prints comes behind this; before it stands what the board's shell has to say to everyone."""

_LEASE = f"""
umask 077; trap '' HUP
dir=$(mktemp -d "${{TMPDIR:-/tmp}}/distredge.XXXXXX") || exit 1
echo "{_BEGIN}$dir"
cat >/dev/null
[ -r "$dir/pid" ] && kill -9 "$(cat "$dir/pid")" 2>/dev/null
rm -rf "$dir" || {{ sleep 1; rm -rf "$dir"; }}
"""
"""Makes the folder and waits; its input ends when the bench closes, dies or is cut off, and then it cleans up."""


@dataclass(frozen=True)
class Ran:
    """How a script ended, and what it printed."""

    code: int
    output: str


class Shell:
    """A POSIX shell on `host`, or on this machine if it is None, whose scripts run in one temporary folder.

    The folder, and a process whose number a script wrote into the file `pid` there, are gone when the shell is closed,
    or its connection, or this process ends, however it ends. Raises `InputError` where it cannot be opened.
    """

    def __init__(self, host: str | None) -> None:
        if host is not None and (not host or host.startswith("-")):
            raise InputError(f"'{host}' is no host: give USER@BOARD, or a name from ~/.ssh/config")
        if host is not None and not shutil.which("ssh"):
            raise InputError("measuring over ssh needs the OpenSSH client: install the program ssh")
        self.place = host or "this machine"
        self._host = host
        with ExitStack() as held:
            # Holds the socket of the connection that all scripts share: in /tmp, since its path must be short.
            control = (
                held.enter_context(tempfile.TemporaryDirectory(prefix="distredge-ssh-", dir="/tmp")) if host else ""
            )
            self._socket = f"{control}/socket"
            self._lease, self._folder = self._open(held)
            self._held = held.pop_all()

    def close(self) -> None:
        """Clean up there, and disconnect. May be called twice."""
        self._held.close()

    def run(self, script: str, data: bytes = b"", limit_s: float = SCRIPT_S) -> str:
        """What a script prints, given `data`; raises `RunError` if it fails."""
        ran = self.attempt(script, data, limit_s)
        if ran.code:
            raise RunError(f"a script failed on {self.place}: {ran.output.strip() or f'exit code {ran.code}'}")
        return ran.output

    def attempt(self, script: str, data: bytes = b"", limit_s: float = SCRIPT_S) -> Ran:
        """Run a script, which may fail; raises `RunError` if it takes too long or the connection is lost."""
        whole = f"echo {_BEGIN}; cd {shlex.quote(self._folder)} || exit; {script}"
        try:
            ran = subprocess.run(
                self._argv(whole), input=data, capture_output=True, timeout=limit_s, start_new_session=True
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{self.place} did not finish within {limit_s:.0f} s") from error
        _, begun, output = ran.stdout.decode(errors="replace").partition(f"{_BEGIN}\n")
        if self._lease.poll() is not None or (self._host and (ran.returncode == _LOST or not begun)):
            raise RunError(f"the connection to {self.place} is lost: {_last(ran.stderr)}")
        return Ran(ran.returncode, output)

    def _argv(self, script: str, *options: str) -> list[str]:
        """The command that runs a script there; `options` are for ssh."""
        local = ["sh", "-c", script]
        if not self._host:
            return local
        return [*_SSH, "-S", self._socket, *options, "--", self._host, f"exec {shlex.join(local)}"]

    def _open(self, held: ExitStack) -> tuple[subprocess.Popen[bytes], str]:
        """Connect, and make the folder; the process that will remove it is ended by `held`."""
        with tempfile.TemporaryFile() as log:
            lease = subprocess.Popen(
                self._argv(_LEASE, "-M"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for this process, which then has it clean up
            )
            held.callback(_end, lease)
            folder = _until_begun(lease)
            if not folder:
                lease.kill()
                lease.wait()
                log.seek(0)
                raise InputError(_refusal(self._host, _last(log.read())))
        return lease, folder


def _refusal(host: str | None, said: str) -> str:
    if host:
        return f"cannot log in to '{host}' by ssh: {said}: `ssh {host}` must work without a question first"
    return f"no temporary folder can be made here: {said}"


def _until_begun(lease: subprocess.Popen[bytes]) -> str:
    """The folder that a lease tells of; empty if it ends, or takes too long."""
    assert lease.stdout is not None
    said = b""
    while not (said.endswith(b"\n") and _BEGIN.encode() in said):
        ready, _, _ = select.select([lease.stdout], [], [], OPEN_S)
        more = os.read(lease.stdout.fileno(), 4096) if ready else b""
        if not more:
            return ""
        said += more
    return said.decode().partition(_BEGIN)[2].strip()


def _end(lease: subprocess.Popen[bytes]) -> None:
    """Have a lease clean up, and wait for it."""
    if lease.stdin is not None and not lease.stdin.closed:
        lease.stdin.close()
    try:
        lease.wait(timeout=CONNECT_S)
    except subprocess.TimeoutExpired:
        lease.kill()
        lease.wait()
    if lease.stdout is not None:
        lease.stdout.close()


def _last(said: bytes) -> str:
    """The last line of what ssh said."""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it says nothing"
