"""Back end `trtexec`: times pieces with TensorRT's own program, on a board over ssh or on this machine.

Nothing is installed on the board: ONNX files are copied into a folder of their own there, `trtexec` builds and runs
them, and the JSON files that it exports are read back. `docs/tensorrt.md` says what of this has never met a board.
"""

from __future__ import annotations

import math
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from onnx.version_converter import ConvertError

from distredge.errors import InputError, RunError
from distredge.measure.bench import MAX_RUNS, MIN_RUNS, Bench, Piece
from distredge.measure.conditions import read_conditions
from distredge.measure.tensorrt import prepared
from distredge.measure.trtexec_files import by_name, read_layer_info, read_profile, read_times
from distredge.profiles.measured import Conditions, Precision, Subject

TIME_LIMIT_S = 3600.0
"""That building and running one piece may take: large layers take a Nano minutes."""

WORKSPACE_MB = 1024
"""What a kernel may use for itself; versions before 8.4 allow 16 MiB if not asked, later ones all there is."""

LEAST_WARM_UP_MS = 200
"""trtexec's own choice."""

LEAST_RUNS = 2 * MIN_RUNS
"""That trtexec is asked for, since one or two at the end of the warm-up are lost."""

JETSON_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"

CONNECT_S = 10
"""That a board may take to answer when it is connected to."""

OPEN_S = 60.0
"""That logging in may take in all."""

SCRIPT_S = 120.0
"""That a script may take that is not told otherwise."""

_MISSING = 99  # 127 is also what a program ends with that lacks a library
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

Version = tuple[int, int, int]


class TrtexecBench(Bench):
    """A board's GPU, by `ssh HOST`, or with `host` None this machine's.

    `trtexec` is where the program is there; None: on its path, else where JetPack has it. The OpenSSH client logs in,
    as `~/.ssh/config` says, without asking for anything; it is one connection from opening to `close`.
    """

    caches = "warm: trtexec runs a piece again and again with the same inputs"

    def __init__(self, host: str | None, *, precision: Precision = "FP16", trtexec: str | None = None) -> None:
        self._shell = Shell(host)
        try:
            if trtexec and "/" in trtexec and host is None:
                trtexec = os.path.abspath(trtexec)  # since the shell works in a folder of its own
            self._program, version = self._find(trtexec)
            self._flags = Flags(version, precision)
            self.commands = (self._flags.described(),)
            name, device = self._names()
            self.subject = Subject(
                backend="trtexec",
                host=name,
                device=device,
                runtime="TensorRT",
                runtime_version=".".join(map(str, version)),
                precision=precision,
                threads=0,
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the folder on the board, end what still runs there, and disconnect. May be called twice."""
        self._shell.close()

    def time_ms(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        """See `Bench`; warms up for 0.2 s and runs for 1 s at least: next to nothing, beside what building takes."""
        warm_up_ms = max(LEAST_WARM_UP_MS, math.ceil(1e3 * warm_up_s))
        exported = self._run(piece, self._flags.timing(warm_up_ms, math.ceil(seconds)), "times.json")
        times = _parsed(read_times, exported, warm_up_ms)
        if len(times) < MIN_RUNS:
            raise RunError(f"{piece.title}: trtexec timed {len(times)} runs only")
        kept = min(len(times), MAX_RUNS)
        return [times[i * len(times) // kept] for i in range(kept)]

    def breakdown_ms(self, piece: Piece) -> dict[str, float]:
        """See `Bench`; the names also tell the ONNX nodes, where TensorRT does."""
        exported = self._run(piece, self._flags.profiling(), "profile.json")
        told = self._flags.tells_nodes
        nodes = _parsed(read_layer_info, self._shell.run("cat layers.json 2>&1")) if told else {}
        return by_name(_parsed(read_profile, exported), nodes)

    def conditions(self) -> Conditions:
        """See `Bench`."""
        return read_conditions(self._shell.run)

    def _run(self, piece: Piece, flags: list[str], export: str) -> str:
        """Copy a piece there and run trtexec on it; what it exports into the file `export`."""
        version, half = self._flags.version, self._flags.precision == "FP16"
        try:
            data = prepared(piece.whole(), version, half).SerializeToString()
        except (ConvertError, RuntimeError, ValueError) as error:
            raise RunError(f"{piece.title}: cannot be written for TensorRT {version[0]}: {error}") from error
        # While trtexec runs, its number is where closing the shell finds it, and ends it.
        script = f"""
            rm -f *.json; cat >piece.onnx || exit
            {shlex.join([self._program, "--onnx=piece.onnx", *flags])} >log 2>&1 &
            echo $! >pid; wait $!; code=$?; rm -f pid
            [ $code = 0 ] || {{ cat log; exit $code; }}
            cat {export} 2>&1
        """
        ran = self._shell.attempt(script, data, TIME_LIMIT_S)
        if ran.code:
            raise RunError(f"{piece.title}: trtexec failed on {self.subject.host}: {reason(ran.output)}")
        return ran.output

    def _find(self, given: str | None) -> tuple[str, Version]:
        """The program, and the version in the line with which it begins whatever it does."""
        for program in [given] if given else ["trtexec", JETSON_TRTEXEC]:
            quoted = shlex.quote(program)
            ran = self._shell.attempt(f"command -v {quoted} >/dev/null || exit {_MISSING}; {quoted} --help 2>&1")
            if ran.code == _MISSING:
                continue
            version = read_version(ran.output)
            if version is None:
                raise InputError(f"'{program}' on {self._shell.place} is no trtexec that works: {reason(ran.output)}")
            if not (8, 0, 0) <= version < (12, 0, 0):
                raise InputError(f"{self._shell.place} has TensorRT {version[0]}.{version[1]}: 8.0 to 11 are supported")
            return program, version
        missing = given or f"trtexec on the path, nor {JETSON_TRTEXEC}"
        raise InputError(
            f"{self._shell.place} has no {missing}: it comes with TensorRT; say where it is with --trtexec PATH"
        )

    def _names(self) -> tuple[str, str]:
        """The host's name, and the board's or else the GPU's."""
        tree, smi = "/proc/device-tree/model", "nvidia-smi -i 0 --query-gpu=name --format=csv,noheader 2>/dev/null"
        told = self._shell.run(f"uname -n; if [ -r {tree} ]; then tr -d '\\0' <{tree}; else {smi}; fi; true")
        host, *device = told.splitlines()
        return host.strip(), " ".join(device).strip() or "NVIDIA GPU"


@dataclass(frozen=True)
class Flags:
    """The flags of trtexec by which every version measures the same thing.

    That is: GPU time, inputs and outputs in the GPU's memory, no CUDA graph (a provider uses none), the processor
    spinning while it waits. From 11 on most of it is the default. Raises `InputError` for a precision that a version
    cannot be asked for. Source: `samples/common/sampleOptions.cpp` of NVIDIA/TensorRT at 8.2, 8.4 and 11.1.
    """

    version: Version
    precision: Precision

    def __post_init__(self) -> None:
        if self.precision == "INT8" and self.version >= (11, 0, 0):
            raise InputError("TensorRT 11 computes in INT8 only what a model says is quantised: use FP16 or FP32")

    @property
    def tells_nodes(self) -> bool:
        """Whether the layer information names ONNX nodes."""
        return self.version >= (8, 6, 0)

    def timing(self, warm_up_ms: int, seconds: int) -> list[str]:
        """For `--exportTimes`. Whole numbers, since TensorRT before 8.5 reads no fractions."""
        return [*self._common(), *self._lasting(warm_up_ms, seconds), "--exportTimes=times.json"]

    def profiling(self) -> list[str]:
        """For `--exportProfile`, and the layer information where it is of use."""
        flags = [*self._common(), *self._lasting(LEAST_WARM_UP_MS, 1), "--exportProfile=profile.json"]
        if self.tells_nodes:
            flags += ["--profilingVerbosity=detailed", "--exportLayerInfo=layers.json"]
        return flags

    def described(self) -> str:
        """The command line in general."""
        lasting = ("--warmUp=MILLISECONDS", "--duration=SECONDS", f"--iterations={LEAST_RUNS}")
        return shlex.join(["trtexec", "--onnx=PIECE", *self._common(), *lasting, "--exportTimes=FILE"])

    def _common(self) -> list[str]:
        old = self.version < (8, 4, 0)
        flags = [f"--workspace={WORKSPACE_MB}" if old else f"--memPoolSize=workspace:{WORKSPACE_MB}"]
        # Kept from piece to piece, so that what is built twice is quick the second time, and gets the same kernels.
        flags.append("--timingCacheFile=timing.cache")
        if self.version >= (11, 0, 0):
            return [*flags, "--noCudaGraph"]
        flags += {"FP32": (), "FP16": ("--fp16",), "INT8": ("--int8", "--fp16")}[self.precision]
        return [*flags, "--noDataTransfers", "--useSpinWait"]

    @staticmethod
    def _lasting(warm_up_ms: int, seconds: int) -> list[str]:
        times = f"--warmUp={warm_up_ms}", f"--duration={seconds}"
        return [*times, f"--iterations={LEAST_RUNS}", "--avgRuns=1000"]  # the last only keeps the log short


def read_version(output: str) -> Version | None:
    """TensorRT's version from trtexec's first line: `[TensorRT v8201]` is 8.2.1, `[TensorRT v100300]` is 10.3.0."""
    found = re.search(r"\[TensorRT v(\d+)\]", output)
    if not found:
        return None
    number, base = int(found[1]), 100 if len(found[1]) > 4 else 10
    return (number // 100 // base, number // 100 % base, number % 100)


_GENERAL = re.compile(
    r"(Failed to (parse|create)|Parsing model|Engine (set|creation)|Building engine|Network And|--- )"
)


def reason(output: str) -> str:
    """Why trtexec failed: the last error in its output that says more than that it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.partition("[E]")[2].removeprefix(" [TRT]").strip() for line in lines if "[E]" in line]
    told = [line for line in lines if "Assertion failed" in line and "[E]" not in line]
    told = told or [line for line in errors if not _GENERAL.match(line)]
    return (told or errors or lines or ["it prints nothing"])[-1]


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _parsed(read: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """What `read` makes of a file that trtexec has just written: if that is no good, nobody gave bad input."""
    try:
        return read(*args, **options)
    except InputError as error:
        raise RunError(f"trtexec's export cannot be read: {error}") from error


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
