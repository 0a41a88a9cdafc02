"""Back end `trtexec`: times pieces with TensorRT's own program, on a board over ssh or on this machine.

Nothing is installed on the board: ONNX files are copied into a folder of their own there, `trtexec` builds and runs
them, and the JSON files that it exports are read back. `docs/tensorrt.md` says what of this has never met a board.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from onnx.version_converter import ConvertError

from distredge.errors import InputError, RunError
from distredge.measure.bench import MAX_RUNS, MIN_RUNS, Bench, Piece
from distredge.measure.conditions import read_conditions
from distredge.measure.shell import Shell
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

_MISSING = 99  # 127 is also what a program ends with that lacks a library


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
