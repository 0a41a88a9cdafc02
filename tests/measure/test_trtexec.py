"""Measuring with `trtexec`, here and over a real ssh connection, on a stand-in as strict as the real one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from distredge.engine.subgraph import OnnxSource
from distredge.errors import InputError, RunError
from distredge.measure.bench import MAX_RUNS, Piece
from distredge.measure.device import Campaign, measure_device
from distredge.measure.imports import trtexec as imports
from distredge.measure.points import layer_point, piece_of
from distredge.measure.row_counts import Every
from distredge.measure.trtexec import TrtexecBench, read_version, reason
from distredge.measure.trtexec_files import (
    KernelTime,
    attribute,
    by_name,
    named_nodes,
    read_layer_info,
    read_profile,
    read_times,
)
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.measured import Precision
from distredge.testing.toy_models import chain, save_model
from distredge.testing.trtexec import VERSIONS, install, milliseconds

RECORDED = Path(__file__).parent / "recorded"

COPY_MS = 0.125
"""What the stand-in takes to lay the input out anew."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def piece(graph: LayerGraph) -> Piece:
    return piece_of(OnnxSource.of(graph), graph, layer_point(graph.layers[0], 5))


# The stand-in.


@pytest.mark.parametrize(
    ("version", "flag"),
    [
        ("8.0", "--exportLayerInfo=x"),
        ("8.2", "--memPoolSize=workspace:1"),
        ("8.6", "--noCudaGraph"),
        ("10.3", "--workspace=1"),
        ("10.3", "--buildOnly"),
        ("11.4", "--fp16"),
        ("11.4", "--avgruns=1"),
    ],
)
def test_the_stand_in_refuses_what_its_version_does_not_have(version: str, flag: str, tmp_path: Path) -> None:
    program = install(tmp_path, version)
    ran = subprocess.run([program, "--onnx=x.onnx", flag], text=True, capture_output=True)
    assert ran.returncode == 1
    assert f"[E] Unknown option: {flag.partition('=')[0]}" in ran.stderr
    assert "&&&& FAILED TensorRT.trtexec [TensorRT v" in ran.stdout


# On this machine.


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_is_asked_for_what_it_has(version: str, piece: Piece, tmp_path: Path) -> None:
    with TrtexecBench(None, precision="FP32", trtexec=str(install(tmp_path, version))) as bench:
        # conv + relu, and the copy to the output
        whole_ms = COPY_MS + milliseconds(2) + milliseconds(1)
        times = bench.time_ms(piece, 0.05, 0.05)
        assert np.median(times) == pytest.approx(1.01 * whole_ms, rel=1e-4)  # without the runs that warm up, of 3 x
        assert max(times) == pytest.approx(1.02 * whole_ms, rel=1e-4)
        assert 10 < len(times) <= MAX_RUNS
        assert sum((bench.breakdown_ms(piece) or {}).values()) == pytest.approx(whole_ms)
        subject = bench.subject
    assert (subject.backend, subject.runtime, subject.precision) == ("trtexec", "TensorRT", "FP32")
    assert subject.runtime_version == ".".join(map(str, VERSIONS[version]))
    assert subject.host == os.uname().nodename


@pytest.mark.parametrize(
    ("version", "flags", "others"),
    [
        ("8.2", ["--workspace=1024", "--noDataTransfers", "--useSpinWait", "--fp16"], ["--noCudaGraph"]),
        ("10.3", ["--memPoolSize=workspace:1024", "--noDataTransfers", "--useSpinWait", "--fp16"], ["--workspace"]),
        ("11.4", ["--memPoolSize=workspace:1024", "--noCudaGraph"], ["--fp16", "--useSpinWait", "--noDataTransfers"]),
    ],
)
def test_the_command_line_is_kept(version: str, flags: list[str], others: list[str], tmp_path: Path) -> None:
    with TrtexecBench(None, trtexec=str(install(tmp_path, version))) as bench:
        (command,) = bench.commands
    words = command.split()
    assert words[:2] == ["trtexec", "--onnx=PIECE"]
    assert set(flags) <= set(words)
    assert not set(others) & {word.partition("=")[0] for word in words}
    assert str(tmp_path) not in command


@pytest.mark.parametrize(
    ("version", "precision", "kernels"),
    [
        ("10.3", "FP16", 3),
        ("10.3", "INT8", 3),
        ("11.4", "FP32", 3),
        ("11.4", "FP16", 5),  # written into the model: a cast at each end
    ],
)
def test_precisions(version: str, precision: Precision, kernels: int, piece: Piece, tmp_path: Path) -> None:
    with TrtexecBench(None, precision=precision, trtexec=str(install(tmp_path, version))) as bench:
        assert len(bench.breakdown_ms(piece) or {}) == kernels


def test_a_precision_that_a_version_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use FP16 or FP32"):
        TrtexecBench(None, precision="INT8", trtexec=str(install(tmp_path, "11.4")))


def test_a_model_is_measured(graph: LayerGraph, tmp_path: Path) -> None:
    campaign = Campaign(row_counts=Every(24), seconds_per_point=0.01, layers=("conv1",))
    with TrtexecBench(None, precision="FP32", trtexec=str(install(tmp_path, "8.2"))) as bench:
        rng = np.random.default_rng(0)
        profile = measure_device(graph, bench, name="nano", out=tmp_path, rng=rng, campaign=campaign)
    layer = graph.layers[0]
    assert profile.layer_ms(layer, layer.height) == pytest.approx(COPY_MS + 1.0 + 0.75, rel=0.03)
    assert profile.file.provenance.method.commands == bench.commands
    assert profile.file.provenance.subject.runtime_version == "8.2.1"


def test_what_trtexec_refuses_is_told_in_one_line(piece: Piece, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(piece.model)
    model.graph.node[0].domain = "elsewhere"
    model.opset_import.add(domain="elsewhere", version=1)
    with TrtexecBench(None, trtexec=str(install(tmp_path, "8.6"))) as bench:
        with pytest.raises(RunError, match="conv1, 5 rows: trtexec failed on .*Plugin not found") as told:
            bench.time_ms(Piece(piece.title, model, piece.folder), 0.0, 0.0)
        assert "\n" not in str(told.value)
        assert bench.time_ms(piece, 0.0, 0.0)  # it goes on


def test_a_model_that_is_too_new_for_a_version(tmp_path: Path) -> None:
    node = onnx.helper.make_node("RMSNormalization", ["x", "scale"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "scale", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "new", values[:2], values[2:]))
    with TrtexecBench(None, trtexec=str(install(tmp_path, "8.2"))) as bench:
        with pytest.raises(RunError, match="it: cannot be written for TensorRT 8: .*RMSNormalization"):
            bench.time_ms(Piece("it", model, tmp_path), 0.0, 0.0)


def test_a_path_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "8.2")
    monkeypatch.chdir(tmp_path)
    TrtexecBench(None, trtexec="./trtexec").close()


def test_a_program_that_is_none_of_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this machine has no /nowhere/trtexec: .*--trtexec PATH"):
        TrtexecBench(None, trtexec="/nowhere/trtexec")
    program = tmp_path / "trtexec"
    program.write_text("#!/bin/sh\necho error while loading shared libraries: libnvinfer.so.8 >&2; exit 127\n")
    program.chmod(0o755)
    with pytest.raises(InputError, match="no trtexec that works: .*libnvinfer.so.8"):
        TrtexecBench(None, trtexec=str(program))
    program.write_text("#!/bin/sh\necho '&&&& RUNNING TensorRT.trtexec [TensorRT v7103] # trtexec'\n")
    with pytest.raises(InputError, match=r"has TensorRT 7\.1: 8\.0 to 11 are supported"):
        TrtexecBench(None, trtexec=str(program))


def test_an_export_that_is_cut_off_is_a_failure_of_the_run(piece: Piece, tmp_path: Path) -> None:
    program = tmp_path / "trtexec"
    program.write_text("#!/bin/sh\necho '[TensorRT v8601]'; echo '[' >times.json; cat /dev/null >profile.json\n")
    program.chmod(0o755)
    with TrtexecBench(None, trtexec=str(program)) as bench:
        with pytest.raises(RunError, match="cannot be read: .*--exportTimes"):
            bench.time_ms(piece, 0.0, 0.0)


@pytest.mark.parametrize("host", ["-oProxyCommand=touch${IFS}x", "-", ""])
def test_a_host_that_is_an_option(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is no host: give USER@BOARD"):
        TrtexecBench(host)
    assert not list(tmp_path.iterdir())


def test_ssh_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs the OpenSSH client"):
        TrtexecBench("me@board")


def test_versions_and_reasons() -> None:
    assert read_version("&&&& RUNNING TensorRT.trtexec [TensorRT v8001] # trtexec") == (8, 0, 1)
    assert read_version("&&&& RUNNING TensorRT.trtexec [TensorRT v8205] # trtexec") == (8, 2, 5)
    assert read_version("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec") == (10, 16, 1)
    assert read_version("&&&& RUNNING TensorRT.trtexec [TensorRT v110201] [b3] # trtexec") == (11, 2, 1)
    assert read_version("bash: trtexec: command not found") is None
    assert "SUB must have same input types" in reason(
        "[09/25/2026-10:00:02] [E] [TRT] ITensor::getDimensions: Error Code 4: SUB must have same input types\n"
        "[09/25/2026-10:00:02] [E] Failed to parse onnx file\n"
        "[09/25/2026-10:00:02] [E] Engine set up failed\n&&&& FAILED TensorRT.trtexec [TensorRT v110201] [b3]\n"
    )
    assert reason("[10/05/2025-10:46:31] [E] Unknown option: --fp16 \n&&&& FAILED x") == "Unknown option: --fp16"
    assert reason("[E] Engine set up failed") == "Engine set up failed"
    assert reason("Segmentation fault") == "Segmentation fault"
    assert reason("") == "it prints nothing"


# Over ssh.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def openssh_server(port: int, keys: Path) -> list[str]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no sshd is installed here (apt install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": keys / "host",
        "AuthorizedKeysFile": keys / "user.pub",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "SetEnv": "SHLVL=9",  # then bash does not take the time to read ~/.bashrc
    }
    config = keys / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    return [program, "-D", "-e", "-f", str(config)]


PYTHON_SERVER = """
import asyncio, sys
from asyncio.subprocess import PIPE
from contextlib import suppress
import asyncssh

async def pump(source, sink):
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()

async def feed(source, sink):
    await pump(source, sink)
    sink.close()

async def serve(process):
    child = await asyncio.create_subprocess_exec("sh", "-c", process.command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    feeding = asyncio.create_task(feed(process.stdin, child.stdin))
    await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
    process.exit(await child.wait())
    feeding.cancel()

async def main(port, keys):
    options = {"server_host_keys": [keys + "/host"], "authorized_client_keys": keys + "/user.pub"}
    await asyncssh.listen("127.0.0.1", int(port), process_factory=serve, encoding=None, **options)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def python_server(port: int, keys: Path) -> list[str]:
    pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra dev)")
    return [sys.executable, "-c", PYTHON_SERVER, str(port), str(keys)]


SERVERS: dict[str, Callable[[int, Path], list[str]]] = {"sshd": openssh_server, "asyncssh": python_server}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a program `ssh`: the real one, for which this machine is the host `board`.

    It also knows a host that is not there, one that refuses the key, and one that it has never seen.
    """
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("the OpenSSH client is not installed here")
    keys = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    port = free_port()
    (keys / "known").write_text(f"[127.0.0.1]:{port} {(keys / 'host.pub').read_text()}")
    (keys / "config").write_text(
        f"Host nobody\n Port {free_port()}\nHost stranger\n UserKnownHostsFile none\n"
        f"Host locked\n IdentityFile {keys}/other\nHost board\n IdentityFile {keys}/user\n"
        f"Host *\n HostName 127.0.0.1\n Port {port}\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {keys}/known\n GlobalKnownHostsFile none\n IdentityAgent none\n"
    )
    program = keys / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(ssh)} -F {shlex.quote(str(keys / "config"))} "$@"\n')
    program.chmod(0o755)
    with open(keys / "log", "wb") as log:
        running = subprocess.Popen(SERVERS[request.param](port, keys), stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port))
        yield program.parent
    finally:
        running.terminate()
        running.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def board(server: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PATH", f"{server}:{os.environ['PATH']}")
    return "board"


def test_over_ssh(board: str, piece: Piece, tmp_path: Path) -> None:
    with TrtexecBench(board, precision="FP32", trtexec=str(install(tmp_path, "10.3"))) as bench:
        folder, control = Path(bench._shell._folder), Path(bench._shell._socket).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert np.median(bench.time_ms(piece, 0.0, 0.0)) == pytest.approx(1.01 * 1.875, rel=1e-4)
        assert len(bench.breakdown_ms(piece) or {}) == 3
        assert bench.conditions().at.startswith("20")
    bench.close()  # once more
    assert not folder.exists()
    assert not control.exists()


def test_a_connection_that_breaks(board: str, piece: Piece, tmp_path: Path) -> None:
    with TrtexecBench(board, trtexec=str(install(tmp_path, "10.3"))) as bench:
        folder = Path(bench._shell._folder)
        bench._shell._lease.kill()
        bench._shell._lease.wait()
        with pytest.raises(RunError, match="the connection to board is lost"):
            bench.time_ms(piece, 0.0, 0.0)
    wait_until(lambda: not folder.exists())


def test_a_board_that_does_not_let_us_in(board: str) -> None:
    for host, said in (
        ("nobody", "Connection refused"),
        ("locked", "Permission denied"),
        ("stranger", "Host key verification failed"),
    ):
        with pytest.raises(InputError, match=f"cannot log in to '{host}' by ssh: .*{said}") as told:
            TrtexecBench(host)
        assert f"`ssh {host}` must work without a question first" in str(told.value)


def test_a_board_without_trtexec(board: str) -> None:
    with pytest.raises(InputError, match="board has no /nowhere/trtexec"):
        TrtexecBench(board, trtexec="/nowhere/trtexec")


PROGRAM = """
import sys
from pathlib import Path
import onnx
from distredge.measure.bench import Piece
from distredge.measure.trtexec import TrtexecBench
host, trtexec, model = sys.argv[1:]
with TrtexecBench(host or None, trtexec=trtexec) as bench:
    print(bench._shell._folder, bench._shell._socket, sep="|", flush=True)
    bench.time_ms(Piece("it", onnx.load(model), Path(".")), 0.0, 0.0)
"""


ENDS = pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])


@ENDS
def test_an_end_in_the_middle_leaves_nothing_here(end: signal.Signals, piece: Piece, tmp_path: Path) -> None:
    check_an_end("", end, piece, tmp_path)


@ENDS
def test_an_end_in_the_middle_leaves_nothing_there(
    board: str, end: signal.Signals, piece: Piece, tmp_path: Path
) -> None:
    check_an_end(board, end, piece, tmp_path)


def check_an_end(host: str, end: signal.Signals, piece: Piece, tmp_path: Path) -> None:
    """Ctrl-C, and a kill that gives no time to clean up: the folder and what ran in it are gone."""
    onnx.save(piece.whole(), tmp_path / "piece.onnx")
    program = install(tmp_path, "8.2", build_s=60.0)
    arguments = [sys.executable, "-c", PROGRAM, host, str(program), str(tmp_path / "piece.onnx")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as measuring:
        assert measuring.stdout is not None
        folder, control = (Path(path) for path in measuring.stdout.readline().strip().split("|"))
        pid_file = folder / "pid"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
        pid = int(pid_file.read_text())
        assert runs(pid)
        measuring.send_signal(end)
    wait_until(lambda: not folder.exists())
    wait_until(lambda: not runs(pid))
    if host and end == signal.SIGKILL:
        wait_until(lambda: not control.exists())
        control.parent.rmdir()  # empty, but there was nobody to remove it
    assert not host or not control.parent.exists()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Files.


def recorded(name: str) -> str:
    return (RECORDED / f"trtexec-{name}.json").read_text()


def test_times() -> None:
    assert read_times(recorded("times-8.2"), warm_up_ms=200.0) == [40.0, 40.1]
    assert read_times(recorded("times-8.2")) == [150.58, 50.2, 40.0, 40.1]
    assert read_times(recorded("times-10.3"), warm_up_ms=200.0) == [2.0, 2.1]


def test_profiles() -> None:
    assert read_profile(recorded("profile-8.2"))[1] == KernelTime("conv1 + relu1", 1.0)  # the mean
    assert read_profile(recorded("profile-10.3"))[1] == KernelTime("conv1 + relu1", 1.0)  # the median


def test_layer_information() -> None:
    assert read_layer_info(recorded("layers-8.2")) == {}
    assert read_layer_info(recorded("layers-11.4")) == {"conv1 + relu1": ("conv1", "relu1")}
    assert read_layer_info(recorded("layers-10.3"))["{ForeignNode[conv2...conv3]}"] == (
        "conv2",
        "relu3",
        "pool1",
        "conv3",
    )


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"name": "x"}]', '{"Layers": 3}', "null"])
@pytest.mark.parametrize("read", [read_times, read_profile, read_layer_info])
def test_other_files(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(InputError, match="this is no file of trtexec's --export"):
        read(text)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("a + b", ["a", "b"]),
        ("a || b", ["a", "b"]),
        ("a + PWN(b)", ["a", "b"]),
        ("PWN(PWN(a), b)", ["a", "b"]),
        ("PWN(PWN(PWN(/x/Sigmoid), a), b) + c", ["a", "b", "c"]),
        ("a + (Unnamed Layer* 4) [ElementWise] + b", ["a", "b"]),
        ("a_myl9_1", ["a"]),
        ("a§out§identity", ["a"]),
        ("{ForeignNode[a...c]}", ["a", "c"]),
        ("{ForeignNode[318...c]}", []),
        ("__myl_Cast_myl9_2", []),
        ("[HostToDeviceCopy 0]", []),
    ],
)
def test_names_of_kernels(name: str, nodes: list[str]) -> None:
    assert named_nodes(name, {"a", "b", "c"}) == nodes


def test_a_profile_by_layer(graph: LayerGraph) -> None:
    found = attribute(read_profile(recorded("profile-8.2")), graph)
    assert found.layers_ms == pytest.approx({"conv1": 1.1, "conv2": 0.5, "pool1": 0.1, "conv3": 0.2, "pool2": 0.05})
    assert found.head_ms == pytest.approx(0.05)
    assert found.reformat_ms == pytest.approx(0.11)
    assert found.unattributed == ()
    assert found.total_ms == pytest.approx(2.0)
    assert list(found.notes(2.5)) == [
        "5.5% of the time lays data out anew, charged to the layer behind it",
        "the kernels add up to 2 ms, 80.0% of a whole run",
    ]


def test_what_spans_layers_is_nobodys(graph: LayerGraph) -> None:
    kernels = read_profile(recorded("profile-10.3"))
    found = attribute(kernels, graph)
    assert found.layers_ms == pytest.approx({"conv1": 1.1})
    assert found.head_ms == pytest.approx(0.05)  # its nodes are all the head's
    assert [kernel.name for kernel in found.unattributed] == ["{ForeignNode[conv2...conv3]}", "__myl_MaxPool_myl9_2"]
    assert found.unattributed_ms == pytest.approx(0.75)
    told = attribute(kernels, graph, read_layer_info(recorded("layers-10.3")))
    assert told.layers_ms == pytest.approx({"conv1": 1.1, "pool2": 0.05})
    names = by_name(kernels, read_layer_info(recorded("layers-10.3")))
    assert list(names)[1:4] == [
        "conv1 + relu1",
        "{ForeignNode[conv2...conv3]} [ONNX Layer: conv2] [ONNX Layer: relu3] [ONNX Layer: pool1] [ONNX Layer: conv3]",
        "__myl_MaxPool_myl9_2 [ONNX Layer: pool2]",
    ]
    again = attribute([KernelTime(name, ms) for name, ms in names.items()], graph)
    assert again.layers_ms == pytest.approx(told.layers_ms)


def test_import(graph: LayerGraph) -> None:
    files = [RECORDED / f"trtexec-{name}.json" for name in ("profile-8.2", "times-10.3", "layers-8.2")]
    found = imports.read(files, graph)
    first, second = graph.layers[:2]
    assert found.layers[first.signature][first.height].median_ms == pytest.approx(1.1)
    assert found.layers[second.signature][second.height].count == 1
    assert len({layer.signature for layer in graph.layers}) == len(found.layers)
    assert found.head is not None and found.head.median_ms == pytest.approx(0.05)
    assert found.whole_ms is not None and found.whole_ms.median_ms == pytest.approx(2.05)
    assert "trtexec: 5.5% of the time lays data out anew, charged to the layer behind it" in found.notes


def test_import_leaves_out_what_it_does_not_know(graph: LayerGraph) -> None:
    found = imports.read([RECORDED / "trtexec-profile-10.3.json"], graph)
    assert set(found.layers) == {graph.layers[0].signature}
    assert found.whole_ms is None
    (spanning,) = [note for note in found.notes if "across layers" in note]
    assert spanning.endswith("nobody's: {ForeignNode[conv2...conv3]}, __myl_MaxPool_myl9_2")


def test_import_of_a_layer_that_was_fused_away(graph: LayerGraph, tmp_path: Path) -> None:
    entries = json.loads(recorded("profile-10.3"))[:3]
    entries[2]["name"] = "conv2 + conv3"  # two layers in one kernel: nobody's, until it is one layer's
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(entries))
    assert set(imports.read([path], graph).layers) == {graph.layers[0].signature}
    entries[2]["name"] = "conv2"
    path.write_text(json.dumps(entries))
    found = imports.read([path], graph)
    assert found.layers[graph.layers[3].signature][graph.layers[3].height].median_ms == 0.0
    assert (
        "trtexec: no kernel of their own, taken as 0 ms since others do their work: pool1, conv3, pool2" in found.notes
    )


def test_import_of_other_files(graph: LayerGraph, tmp_path: Path) -> None:
    profile = RECORDED / "trtexec-profile-8.2.json"
    other, broken = tmp_path / "other.json", tmp_path / "broken.json"
    other.write_text(json.dumps([{"count": 1}, {"name": "elsewhere", "averageMs": 1.0}]))
    broken.write_text(profile.read_text()[:200])
    for paths, said in (
        ([tmp_path / "none.json"], "cannot read '.*none.json': No such file"),
        ([RECORDED / "README.md"], "'.*README.md' is no file of trtexec"),
        ([RECORDED / "trtexec-times-8.2.json"], "times-8.2.json' does not tell times by layer: add the file"),
        ([profile, profile], "is a second file of --exportProfile"),
        ([other], "names no layer of .*must be of the same ONNX file"),
        ([broken], "only part of one"),
    ):
        with pytest.raises(InputError, match=said):
            imports.read(paths, graph)
