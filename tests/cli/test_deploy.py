"""`distredge deploy`: what is sent to a device, what is done there, and what is said when that fails."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.errors import RunError
from distredge.measure.shell import Shell
from distredge.model.load import load_model
from distredge.runtime.deploy.device import bundle, install, shipped
from distredge.runtime.deploy.inventory import load_inventory
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.run import RunOptions, run_plan
from distredge.scenario import REQUESTER
from distredge.testing.providers import equal_plan, random_images, toy_scenario
from distredge.testing.toy_models import chain, save_model

ROOT = Path(__file__).resolve().parents[2]
UNIT = "distredge-provider@.service"
NAMES = ["nano-0", "nano-1", "pi-0"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["deploy", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Something that is called as a wheel is."""
    path = tmp_path / "distredge-0.1.0-py3-none-any.whl"
    path.write_bytes(b"no wheel")
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys", [REQUESTER, *NAMES])
    return tmp_path / "keys"


def written(folder: Path, devices: str, more: str = "") -> Path:
    path = folder / "devices.yaml"
    path.write_text(f"{more}\ndevices:\n{devices}")
    return path


def devices(*lines: str) -> str:
    return "".join(f"  - {{{line}}}\n" for line in lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---- the inventory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "more", "words"),
    [
        (["name: nano-0, hots: a"], "", "did you mean 'host'"),
        (["name: nano-0, host: a", "name: nano-0, host: b"], "", "two devices are named 'nano-0'"),
        (["name: requester, host: a"], "", "no provider may be named"),
        (["name: nano-0, host: -oProxyCommand=x"], "", "host"),
        (["name: nano-0, host: a, user: -x"], "", "user"),
        (["name: nano-0, host: a, listen: '0.0.0.0:0'"], "", "port"),
        (["name: nano-0, host: a, listen: here"], "", "listen"),
        (["name: ../x, host: a"], "", "name"),
        (["name: nano-0, host: a"], "folder: /opt/a b", "folder"),
        (["name: nano-0, host: a"], "schema_version: 2", "schema_version"),
        (["name: tx2-0, host: a"], "", "no key of 'tx2-0'"),
        (["name: nano-0, host: a"], "keys: absent", "distredge keys"),
    ],
)
def test_a_wrong_inventory_is_one_line(
    call: Call, keys: Path, wheel: Path, tmp_path: Path, lines: list[str], more: str, words: str
) -> None:
    code, out, err = call(written(tmp_path, devices(*lines), more), "--wheel", wheel)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_names_and_wheels_that_are_none_are_one_line(call: Call, keys: Path, wheel: Path, tmp_path: Path) -> None:
    inventory = written(tmp_path, devices("name: nano-0, host: a"))
    for arguments, words in (
        ([inventory], "scripts/deploy"),
        ([inventory, "--wheel", tmp_path / "absent.whl"], "scripts/deploy"),
        ([inventory, "nano-9", "--wheel", wheel], "did you mean 'nano-0'"),
        ([tmp_path / "absent.yaml", "--wheel", wheel], "absent.yaml"),
    ):
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err


# ---- what is sent ----------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_all_and_needs_no_ssh(
    call: Call, keys: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    inventory = written(tmp_path, devices("name: nano-0, host: a, user: me", "name: pi-0, host: b, python: /opt/py/3"))
    code, out, err = call(inventory, "--wheel", wheel, "--dry-run")
    assert (code, err) == (0, "")
    for part in ("ssh me@a", "ssh b", "PYTHON=/opt/py/3", "SERVICE=yes", wheel.name, shipped("install.sh").rstrip()):
        assert part in out
    data = json.loads(call(inventory, "pi-0", "--wheel", wheel, "--dry-run", "--no-service", "--json")[1])
    (device,) = data["devices"]
    assert device["name"] == "pi-0"
    assert "SERVICE=no" in device["settings"]


def test_a_device_gets_no_secret_but_its_own(keys: Path, wheel: Path, tmp_path: Path) -> None:
    inventory = load_inventory(written(tmp_path, devices(*(f"name: {n}, host: a" for n in NAMES))))
    for device in inventory.devices:
        files = bundle(device, inventory, wheel, True)
        assert [f for f in files if "private" in f] == [f"keys/private/{device.name}.key_secret"]
        assert {f for f in files if "public" in f} == {f"keys/public/{n}.key" for n in (REQUESTER, *NAMES)}
        others = [(keys / "private" / f"{n}.key_secret").read_bytes() for n in (REQUESTER, *NAMES) if n != device.name]
        assert not [secret for secret in others if secret in files.values()]
    (keys / "private" / "nano-0.key_secret").unlink()  # it is on the device already
    assert not [f for f in bundle(inventory.devices[0], inventory, wheel, True) if "private" in f]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "venv" / "bin" / "distredge"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    unit = tmp_path / "distredge-provider@nano-0.service"
    unit.write_text(shipped(UNIT).replace("/opt/distredge", str(tmp_path)))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("ProtectHome", "ProtectHouse"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert "ProtectHouse" in done.stderr


# ---- what is done there, without ssh: the shell is this machine's ----------------------------------------------------


def refusal(folder: Path, wheel: Path, python: str, more: str = "", service: bool = False) -> str:
    inventory = load_inventory(written(folder, devices(f"name: nano-0, host: a, python: '{python}'"), more))
    with closing(Shell(None)) as board, pytest.raises(RunError) as told:
        install(board, bundle(inventory.devices[0], inventory, wheel, service))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_device_says_what_it_lacks(keys: Path, wheel: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && { echo Python 3.8.10; exit; }\nexit 1\n')
    bare = tmp_path / "python-without-venv"
    bare.write_text(f'#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    for program in (old, bare):
        program.chmod(0o755)
    assert "there is no 'python9'" in refusal(tmp_path, wheel, "python9")
    assert "is Python 3.8.10, 3.10 or newer is needed" in refusal(tmp_path, wheel, str(old))
    assert "apt install python3-venv" in refusal(tmp_path, wheel, str(bare))
    assert "cannot write '/proc/nowhere'" in refusal(tmp_path, wheel, sys.executable, "folder: /proc/nowhere")


def test_what_pip_has_against_it_is_said_in_one_line(
    keys: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    said = refusal(tmp_path, wheel, sys.executable, f"folder: {tmp_path}/device")
    assert said.startswith("pip cannot install what a provider needs: ERROR: No matching distribution found for")


# ---- over ssh --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True, timeout=60)
    return next(out.glob("*.whl"))


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts an OpenSSH server on loopback, for which `ssh board` works; `ssh nobody` finds none."""
    program, client = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin"), shutil.which("ssh")
    if program is None or client is None:
        pytest.skip("no OpenSSH server and client are installed here (apt install openssh-server)")
    if os.geteuid():
        pytest.skip("an OpenSSH server for this test needs root")
    folder = tmp_path / "ssh"
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Host nobody\n Port {free_port()}\nHost *\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n GlobalKnownHostsFile none\n IdentityAgent none\n"
    )
    wrapped = folder / "bin" / "ssh"
    wrapped.parent.mkdir()
    wrapped.write_text(f'#!/bin/sh\nexec {client} -F {folder}/config "$@"\n')
    wrapped.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapped.parent}:{os.environ['PATH']}")
    passed_on = {n: v for n, v in os.environ.items() if n.startswith("PIP_")}
    running: list[subprocess.Popen[bytes]] = []

    def start(prefix: tuple[str, ...] = (), path: str = os.environ["PATH"]) -> None:
        settings = {
            "ListenAddress": f"127.0.0.1:{port}", "HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub",
            "PidFile": "none", "UsePAM": "no", "StrictModes": "no", "PasswordAuthentication": "no",
            "SetEnv": " ".join(shlex.quote(f"{n}={v}") for n, v in {**passed_on, "PATH": path}.items()),
        }  # fmt: skip
        (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        Path("/run/sshd").mkdir(exist_ok=True)
        with open(folder / "log", "wb") as log:
            command = [*prefix, program, "-D", "-e", "-f", str(folder / "sshd_config")]
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
        wait_until(lambda: answers(port))

    yield start
    for process in running:
        process.terminate()
        process.wait(10)


@pytest.fixture
def packages() -> None:
    """Skips where nothing can be installed."""
    probe = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", "--dry-run", "msgspec"]
    if subprocess.run(probe, capture_output=True, timeout=60).returncode:
        pytest.skip("pip finds no packages here")


def serve_toy(keys: Path, address: str, folder: Path) -> None:
    """A verified stream on the provider `nano-0`."""
    graph = load_model(save_model(chain(np.random.default_rng(0)), folder))
    report = run_plan(
        equal_plan(graph, ["nano-0"]), toy_scenario(["nano-0"]), {"nano-0": address}, random_images(graph, 2),
        RunOptions(verify=True), keys=Keys.load(keys, REQUESTER),
    )  # fmt: skip
    assert report.images == 2
    assert report.max_abs_diff is not None and report.max_abs_diff <= 1e-5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_a_service_a_device_can_serve_and_another_ones_failure_does_not_keep_it_from_that(
    call: Call, ssh: Callable[..., None], packages: None, keys: Path, real_wheel: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path / "cache"))
    ssh()
    address = f"127.0.0.1:{free_port()}"
    there = f"host: board, python: {sys.executable}, listen: '{address}'"
    lines = devices("name: pi-0, host: nobody", f"name: nano-0, {there}", f"name: nano-1, host: board, python: {keys}")
    inventory = written(tmp_path, lines, f"folder: {tmp_path}/device")

    code, out, err = call(inventory, "--wheel", real_wheel, "--no-service", "--json")
    said = {d["name"]: d["said"] for d in json.loads(out)["devices"] if d["ok"] == (d["name"] == "nano-0")}
    assert code == 1
    assert list(said) == ["pi-0", "nano-0", "nano-1"]
    assert "Connection refused" in said["pi-0"] and "`ssh nobody` must work" in said["pi-0"]
    assert "there is no" in said["nano-1"]
    assert err.splitlines()[-1] == "error: 2 of 3 devices have failed: pi-0, nano-1"
    assert len(err.splitlines()) == 4

    command = shlex.split(said["nano-0"].partition("start it: ")[2])
    device = tmp_path / "device"
    assert [p.name for p in device.glob("keys/private/*")] == ["nano-0.key_secret"]
    with subprocess.Popen(
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as provider:
        try:
            assert provider.stdout is not None
            provider.stdout.readline()
            serve_toy(keys, address, tmp_path)
        finally:
            provider.kill()
    installed = {p.name.partition("-")[0] for p in device.glob("venv/lib/*/site-packages/*.dist-info")}
    assert not {"torch", "scipy", "numba", "networkx", "rich", "typer"} & installed

    # Once more: what is there is kept. A node whose key is gone is a stranger there too; a secret stays there that has
    # been removed here.
    marker = device / "venv" / "marker"
    marker.touch()
    (keys / "public" / "pi-0.key").unlink()
    (keys / "private" / "nano-0.key_secret").unlink()
    inventory = written(tmp_path, devices(f"name: nano-0, {there}"), f"folder: {device}")
    assert call(inventory, "--wheel", real_wheel, "--no-service")[0] == 0
    assert marker.exists()
    assert sorted(p.name for p in device.glob("keys/public/*")) == ["nano-0.key", "nano-1.key", "requester.key"]
    assert (device / "keys/private/nano-0.key_secret").stat().st_mode & 0o777 == 0o600


SYSTEMCTL = """#!/bin/sh
# Stands in for systemd, which does not run here: starts what the unit says, as the user that it says.
set -eu
name=${2:-}; name=${name#*@}
case $1 in
stop) [ ! -f "$STATE/$name" ] || { kill "$(cat "$STATE/$name")"; rm "$STATE/$name"; } ;;
restart)
    "$0" stop "$2"
    unit=/etc/systemd/system/distredge-provider@.service
    value() { sed -n "s/^$1=//p" $unit | sed "s/%i/$name/g"; }
    . "$(value EnvironmentFile)"
    mkdir -p "$STATE/cache" && chown "$(value User)" "$STATE/cache"
    command=$(value ExecStart | sed "s/[$]{LISTEN}/$LISTEN/")
    cd /
    DISTREDGE_CACHE=$STATE/cache runuser -u "$(value User)" -- $command >"$STATE/log" 2>&1 </dev/null &
    echo $! >"$STATE/$name" ;;
esac
"""

OWN_ETC = """
mount --make-rprivate / && mount -t tmpfs tmpfs "$0" && mkdir "$0/upper" "$0/work" "$0/state" &&
mount -t overlay -o lowerdir=/etc,upperdir="$0/upper",workdir="$0/work" overlay /etc && chmod 755 "$0" && exec "$@"
"""
"""Runs a program that may change /etc as it likes: in a mount namespace of its own, on top of the real one."""


@pytest.fixture
def own_etc(tmp_path: Path) -> tuple[str, ...]:
    """What precedes a command whose changes to /etc nobody else shall see, nor shall they last."""
    layers = tmp_path / "layers"
    layers.mkdir()
    prefix = ("unshare", "--mount", "sh", "-c", OWN_ETC, str(layers))
    if os.geteuid() or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs root, and a kernel that can lay a folder over /etc")
    return prefix


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_a_service_it_runs_as_its_own_user_and_a_second_deployment_replaces_it(
    call: Call, ssh: Callable[..., None], packages: None, own_etc: tuple[str, ...], keys: Path, real_wheel: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    system = Path("/usr/bin/python3")
    if subprocess.run([system, "-c", "import ensurepip, sys; assert sys.version_info >= (3, 10)"]).returncode:
        pytest.skip("needs a Python outside of home folders, with venv")
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path / "cache"))
    above = [p for p in tmp_path.parents if Path(tempfile.gettempdir()) in p.parents]
    for folder in (tmp_path, *above):  # so that another user gets through to it, with pytest-xdist as well
        folder.chmod(folder.stat().st_mode | 0o011)
    systemctl = tmp_path / "standins" / "systemctl"
    systemctl.parent.mkdir()
    state = Path(own_etc[-1]) / "state"
    systemctl.write_text(SYSTEMCTL.replace("set -eu", f"set -eu\nSTATE={state}", 1))
    systemctl.chmod(0o755)
    ssh(own_etc, path=f"{systemctl.parent}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
    address = f"127.0.0.1:{free_port()}"
    lines = devices(f"name: nano-0, host: board, python: {system}, listen: '{address}'")
    inventory = written(tmp_path, lines, f"folder: {tmp_path}/device")
    try:
        for _ in range(2):
            code, _, err = call(inventory, "--wheel", real_wheel)
            assert (code, err) == (0, f"nano-0: listens at {address}\n")
            serve_toy(keys, address, tmp_path)
        secret = tmp_path / "device" / "keys" / "private" / "nano-0.key_secret"
        with closing(Shell("board")) as board:
            assert board.run(f"stat -c '%U %a' {secret}").split() == ["distredge", "600"]
            assert str(tmp_path) in board.run("cat /etc/systemd/system/distredge-provider@.service")
            held = board.run("ps -o user= -p $(pgrep -u distredge -f 'distredge provider --name nano-0')")
            assert held.split() == ["distredge"]
    finally:
        with closing(Shell("board")) as board:
            board.attempt("systemctl stop distredge-provider@nano-0")
    wait_until(lambda: not answers(int(address.rpartition(":")[2])))
    assert not Path("/etc/systemd/system/distredge-provider@.service").exists()
