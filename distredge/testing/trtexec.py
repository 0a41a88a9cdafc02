"""A stand-in for TensorRT's `trtexec`, of TensorRT 8.0 to 11: no GPU, and times that come from a formula.

It is as strict as the real one: a flag that its version does not have is an error, as is a node that it does not know.
It prints the banner, the device and the errors that the real one prints, and writes files in its version's format.
Sources: `samples/trtexec/trtexec.cpp`, `samples/common/sampleOptions.cpp`, `sampleReporting.cpp` and
`sampleInference.cpp` of NVIDIA/TensorRT between 8.2 and 11.1, and logs of 8.0 on a Jetson Nano and of 8.6 to 11.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Version = tuple[int, int, int]

VERSIONS: dict[str, Version] = {
    "8.0": (8, 0, 1),
    "8.2": (8, 2, 1),
    "8.5": (8, 5, 2),
    "8.6": (8, 6, 1),
    "10.3": (10, 3, 0),
    "11.4": (11, 4, 0),
}

_FOREVER = (99, 0, 0)
_ALWAYS = """--onnx --help --warmUp --duration --iterations --avgRuns --percentile --exportTimes --exportProfile
    --dumpProfile --separateProfileRun --noDataTransfers --useSpinWait --useCudaGraph --timingCacheFile --noTF32
    --saveEngine --loadEngine --device --verbose"""
_SOMETIMES: dict[str, tuple[Version, Version]] = {
    "--workspace": ((0, 0, 0), (10, 0, 0)),
    "--buildOnly": ((0, 0, 0), (8, 6, 0)),
    "--nvtxMode": ((0, 0, 0), (10, 0, 0)),
    "--fp16": ((0, 0, 0), (11, 0, 0)),
    "--int8": ((0, 0, 0), (11, 0, 0)),
    "--profilingVerbosity": ((8, 2, 0), _FOREVER),
    "--exportLayerInfo": ((8, 2, 0), _FOREVER),
    "--dumpLayerInfo": ((8, 2, 0), _FOREVER),
    "--memPoolSize": ((8, 4, 0), _FOREVER),
    "--skipInference": ((8, 6, 0), _FOREVER),
    "--stronglyTyped": ((9, 0, 0), _FOREVER),
    "--noSpinWait": ((11, 0, 0), _FOREVER),
    "--noCudaGraph": ((11, 0, 0), _FOREVER),
    "--includeDataTransfers": ((11, 0, 0), _FOREVER),
}
"""Flags that came with a version, and went with another."""

_JOINS = {"Add", "BatchNormalization", "Clip", "Relu"}  # become part of the kernel before


def install(folder: Path, version: str, build_s: float = 0.0) -> Path:
    """Write an executable `trtexec` of one of `VERSIONS` into a folder; building an engine takes it `build_s`."""
    program = folder / "trtexec"
    call = f"main({VERSIONS[version]!r}, {build_s!r})"
    program.write_text(f"#!{sys.executable}\nfrom distredge.testing.trtexec import main\n{call}\n")
    program.chmod(0o755)
    return program


def milliseconds(nodes: int) -> float:
    """What a kernel of some ONNX nodes takes here."""
    return 0.5 + 0.25 * nodes


def main(version: Version, build_s: float) -> None:
    """Behave as `trtexec`."""
    major, minor, patch = version
    number = (major * 100 + minor) * 100 + patch if major > 9 else (major * 10 + minor) * 100 + patch
    banner = f"TensorRT.trtexec [TensorRT v{number}] # {' '.join(sys.argv)}"
    print(f"&&&& RUNNING {banner}")
    flags = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if "--help" in flags:
        print("=== Model Options ===\n  --onnx=<file>               ONNX model")
        return
    errors = list(_unknown(flags, version)) or _run(flags, version, build_s)
    for error in errors:
        print(error if error.startswith("[8]") else f"[11/25/2026-09:00:00] [E] {error}", file=sys.stderr)
    print(f"&&&& {'FAILED' if errors else 'PASSED'} {banner}")
    sys.exit(1 if errors else 0)


def _unknown(flags: dict[str, str], version: Version) -> Iterator[str]:
    for flag, value in flags.items():
        since, until = _SOMETIMES.get(flag, ((0, 0, 0), _FOREVER if flag in _ALWAYS.split() else (0, 0, 0)))
        if not since <= version < until:
            yield f"Unknown option: {flag} {value}"


def _run(flags: dict[str, str], version: Version, build_s: float) -> list[str]:
    """Build and run the model, write what is asked for; returns errors."""
    import onnx

    try:
        model = onnx.load(flags["--onnx"])
        onnx.checker.check_model(model)
    except Exception as error:  # whatever is wrong with the file
        return [f"[TRT] ModelImporter.cpp:688: {error}", "Failed to parse onnx file", "Engine set up failed"]
    for i, node in enumerate(model.graph.node):
        if node.domain:
            return [
                f'[TRT] ModelImporter.cpp:773: While parsing node number {i} [{node.op_type} -> "{node.output[0]}"]:',
                "[TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:5402 In function importFallbackPlugin:",
                '[8] Assertion failed: creator && "Plugin not found"',
                "Failed to parse onnx file",
                "Parsing model failed",
                "Failed to create engine from model or file.",
                "Engine set up failed",
            ]
    time.sleep(build_s)
    if "--timingCacheFile" in flags:
        Path(flags["--timingCacheFile"]).write_bytes(b"timings")
    print("[I] === Device Information ===\n[I] Selected Device: NVIDIA Tegra X1")
    kernels = list(_kernels(model))
    total_ms = sum(ms for _, _, ms in kernels)
    profiled = bool({"--exportProfile", "--dumpProfile"} & set(flags)) and "--separateProfileRun" not in flags
    if "--exportTimes" in flags and not (profiled and (8, 4, 0) < version < (11, 0, 0)):
        Path(flags["--exportTimes"]).write_text(_times(total_ms, flags, version))
    if "--exportProfile" in flags:
        Path(flags["--exportProfile"]).write_text(_profile(kernels, total_ms, version))
    if "--exportLayerInfo" in flags:
        detailed = flags.get("--profilingVerbosity") == "detailed"
        Path(flags["--exportLayerInfo"]).write_text(_layer_info(kernels, detailed, version))
    return []


def _kernels(model: Any) -> Iterator[tuple[str, list[str], float]]:
    """Name, ONNX nodes and milliseconds of each kernel, and of a copy that lays the input out anew."""
    groups: list[list[str]] = []
    for node in model.graph.node:
        if groups and node.op_type in _JOINS:
            groups[-1].append(node.name)
        elif node.op_type != "Constant":
            groups.append([node.name])
    yield f"Reformatting CopyNode for Input Tensor 0 to {' + '.join(groups[0])}", groups[0], 0.125
    for nodes in groups:
        yield " + ".join(nodes), nodes, milliseconds(len(nodes))


def _times(ms: float, flags: dict[str, str], version: Version) -> str:
    """One run behind the other, each 1 % longer than the one before for three runs; before 8.5 with the warm-up."""
    warm_up_ms = _number(flags.get("--warmUp", "200"), version)
    end_ms = warm_up_ms + 1e3 * _number(flags.get("--duration", "3"), version)
    least, start, timed, lines = int(flags.get("--iterations", "10")), 0.0, 0, []
    while start < end_ms or timed < least:
        taken = ms * (1 + 0.01 * (timed % 3))
        if start >= warm_up_ms:
            timed += 1
        if start >= warm_up_ms or version < (8, 5, 0):
            lines.append(_trace(start, taken if start >= warm_up_ms else 3 * taken, version))
        start += taken
    return "[\n  " + ", ".join(lines) + "]\n"


def _number(text: str, version: Version) -> float:
    """C++'s `stoi` up to 8.4, which ends at what is no digit, and `stof` since."""
    whole = re.match(r"-?\d+", text) if version < (8, 5, 0) else re.match(r"-?\d+(\.\d+)?", text)
    return float(whole[0]) if whole else 0.0


def _trace(start: float, taken: float, version: Version) -> str:
    end = start + taken
    values = {
        "startEnqMs": start, "endEnqMs": start, "startH2dMs": start, "endH2dMs": start, "startComputeMs": start,
        "endComputeMs": end, "startD2hMs": end, "endD2hMs": end, "h2dMs": 0, "computeMs": taken, "d2hMs": 0,
        "latencyMs": taken,
    }  # fmt: skip
    if version < (8, 5, 0):
        values["endToEndMs"] = taken
    return "{ " + ", ".join(f'"{key}" : {value:g}' for key, value in values.items()) + " }\n"


def _profile(kernels: list[tuple[str, list[str], float]], total_ms: float, version: Version) -> str:
    lines = ["[", '  { "count" : 10 }']
    for name, _, ms in kernels:
        median = "" if version < (8, 5, 0) else f', "medianMs" : {ms:g}'
        # A first run that took longer: it moves the mean and leaves the median.
        mean = ms if version < (8, 5, 0) else 1.1 * ms
        lines.append(
            f', {{ "name" : "{name}", "timeMs" : {10 * mean:g}, "averageMs" : {mean:g}{median}'
            f', "percentage" : {100 * ms / total_ms:g} }}'
        )
    return "\n".join([*lines, "]\n"])


def _layer_info(kernels: list[tuple[str, list[str], float]], detailed: bool, version: Version) -> str:
    names: list[Any] = [name for name, _, _ in kernels]
    if detailed:
        names = [{"Name": name, "LayerType": "CaskConvolution", "TacticValue": "0x1"} for name in names]
        for entry, (_, nodes, _) in zip(names, kernels, strict=True):
            if version >= (8, 6, 0):
                entry["Metadata"] = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    tensors = {"I/O Tensors": [{"Name": "image"}]} if version >= (11, 0, 0) else {"Bindings": ["image"]}
    return json.dumps({"Layers": names, **tensors})
