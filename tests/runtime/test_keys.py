"""Keys on disk: who may read them, and whom a folder of public keys lets in, also after it has changed."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from pathlib import Path

import pytest
import zmq

from distredge.errors import InputError
from distredge.runtime import keys as keys_module
from distredge.runtime.keys import AllowList, Keys, create_keys


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is looked at each time."""
    monkeypatch.setattr(keys_module, "RECHECK_S", 0.0)


def public_key(folder: Path, name: str) -> str:
    return Keys.load(folder, name).public.decode()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_key_that_others_can_read_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    create_keys(tmp_path, ["a"])
    path = tmp_path / "private" / "a.key_secret"
    path.chmod(mode)
    with pytest.raises(InputError, match=f"chmod 600 '{path}'"):
        Keys.load(tmp_path, "a")
    path.chmod(0o600)
    assert Keys.load(tmp_path, "a").name == "a"


def test_keys_are_made_once_and_leave_nothing_else(tmp_path: Path) -> None:
    create_keys(tmp_path, ["a"])
    first = (tmp_path / "private" / "a.key_secret").read_bytes()
    create_keys(tmp_path, ["a", "b"])
    assert (tmp_path / "private" / "a.key_secret").read_bytes() == first
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert made == ["private/a.key_secret", "private/b.key_secret", "public/a.key", "public/b.key"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["private", "public"]


def test_keys_are_private_in_a_folder_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o755)
    create_keys(tmp_path, ["a"])
    assert stat.S_IMODE((tmp_path / "private" / "a.key_secret").stat().st_mode) == 0o600


def test_a_node_is_known_by_its_key_until_its_file_is_removed(tmp_path: Path) -> None:
    create_keys(tmp_path, ["a", "b"])
    allowed = AllowList(tmp_path / "public")
    key = public_key(tmp_path, "a")
    assert allowed.name_of(key) == "a"
    assert allowed.callback("", key.encode())
    (tmp_path / "public" / "a.key").unlink()
    assert allowed.name_of(key) is None
    assert not allowed.callback("", key.encode())
    assert allowed.name_of(public_key(tmp_path, "b")) == "b"


def test_a_key_that_is_replaced_or_added_counts_at_once(tmp_path: Path) -> None:
    create_keys(tmp_path / "old", ["a"])
    create_keys(tmp_path / "new", ["a", "c"])
    allowed = AllowList(tmp_path / "old" / "public")
    assert allowed.name_of(public_key(tmp_path / "old", "a")) == "a"
    for name in ("a", "c"):
        copied = shutil.copy(tmp_path / "new" / "public" / f"{name}.key", tmp_path / "old" / "public")
        os.utime(copied, (0, 0))  # the file system's clock may stand still in so short a time
    assert allowed.name_of(public_key(tmp_path / "old", "a")) is None
    assert {allowed.name_of(public_key(tmp_path / "new", name)) for name in ("a", "c")} == {"a", "c"}


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b'public-key = "short"', b'public-key = "' + b"#" * 40 + b'"'])
def test_a_broken_key_keeps_out_one_node_only(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    create_keys(tmp_path, ["a", "b"])
    (tmp_path / "public" / "b.key").write_bytes(content)
    allowed = AllowList(tmp_path / "public")
    with caplog.at_level(logging.WARNING):
        assert allowed.name_of(public_key(tmp_path, "a")) == "a"
    assert allowed.name_of("short") is None
    assert allowed.name_of("") is None
    assert "b.key" in caplog.text
    with pytest.raises(InputError, match="b.key"):
        Keys.load(tmp_path, "a").of("b")


def test_a_folder_that_is_gone_lets_nobody_in_and_back_again_does(tmp_path: Path) -> None:
    create_keys(tmp_path, ["a"])
    key = public_key(tmp_path, "a")
    allowed = AllowList(tmp_path / "public")
    assert allowed.name_of(key) == "a"
    (tmp_path / "public").rename(tmp_path / "elsewhere")
    assert allowed.name_of(key) is None
    (tmp_path / "elsewhere").rename(tmp_path / "public")
    assert allowed.name_of(key) == "a"


@pytest.mark.parametrize("with_gate", [True, False])
def test_without_its_gate_a_listener_lets_nobody_in(tmp_path: Path, with_gate: bool) -> None:
    """ZeroMQ's own rule is the other way round: encryption, but anybody's."""
    create_keys(tmp_path, ["server", "client"])
    server, client = Keys.load(tmp_path, "server"), Keys.load(tmp_path, "client")
    with zmq.Context() as context:
        gate = server.start_gate(context) if with_gate else None
        with context.socket(zmq.PULL) as listener, context.socket(zmq.PUSH) as caller:
            server.secure_listener(listener)
            port = listener.bind_to_random_port("tcp://127.0.0.1")
            client.secure_caller(caller, server.public)
            caller.set(zmq.LINGER, 0)
            caller.connect(f"tcp://127.0.0.1:{port}")
            caller.send(b"hello")
            arrived = bool(listener.poll(5000 if with_gate else 500))
            assert arrived == with_gate
            if arrived:
                frame = listener.recv(copy=False)
                assert server.allowed.name_of(str(frame.get("User-Id"))) == "client"
        if gate:
            gate.stop()
