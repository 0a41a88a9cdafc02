"""The state file: nothing that was acknowledged is lost, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from distredge.control.schema import plan_sha256
from distredge.controller import events as e
from distredge.controller import store as storing
from distredge.controller.store import Store, StoreError, Token, Told
from distredge.errors import InputError
from distredge.testing.controlling import registration, some_plan, telemetry


def registered(name: str, at_s: float = 1.0) -> e.DeviceRegistered:
    return e.DeviceRegistered(at_s=at_s, node=name, registration=registration(), reason="for the first time")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_what_was_stored_is_there_after_reopening(path: Path) -> None:
    store, plan = Store(path), some_plan(1)
    store.add([registered("a"), registered("b")], plans=[plan])
    store.add(told=Told(stream="s", at_s=5.0, telemetry=telemetry(1, 4.0, mbps={"nano-0": 12.5})))
    store.put("profiles", "lab", "text")
    store.close()
    store = Store(path)
    assert [event.model_dump() for event in store.all_events()] == [
        registered("a").model_dump(),
        registered("b").model_dump(),
    ]
    assert store.plan(plan_sha256(plan)) == plan
    latest = store.latest("s")
    assert latest is not None and latest.telemetry == telemetry(1, 4.0, mbps={"nano-0": 12.5})
    assert (store.get("profiles", "lab"), store.names("profiles")) == ("text", ("lab",))
    store.close()


_WRITER = """
import sys
from pathlib import Path
from distredge.controller import events as e
from distredge.controller.store import Store, Told
from distredge.testing.controlling import registration, telemetry
store, n = Store(Path(sys.argv[1])), 0
while True:
    n += 1
    store.add([e.DeviceRegistered(at_s=1.0, node=f"d{n}", registration=registration())])
    store.add(told=Told(stream="s", at_s=float(n), telemetry=telemetry(n, float(n))))
    print(n, flush=True)
"""


def test_a_killed_process_has_lost_nothing_that_it_acknowledged(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                if int(line) >= 200:
                    break
        finally:
            process.kill()
        said = [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    acknowledged = max([200, *said])
    store = Store(path)  # the lock has gone with the process
    names = [event.node for event in store.all_events() if isinstance(event, e.DeviceRegistered)]
    assert names[:acknowledged] == [f"d{n}" for n in range(1, acknowledged + 1)]
    latest = store.latest("s")
    assert latest is not None and latest.telemetry.sequence >= acknowledged
    store.close()


def test_a_full_disk_is_said_and_afterwards_it_goes_on(path: Path) -> None:
    store = Store(path)
    store.add([registered("before")])
    pages = store._durable.execute("PRAGMA page_count").fetchone()[0]
    store._durable.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="disk is full: make room"):
        for n in range(2000):
            store.add([registered(f"d{n}")], plans=[some_plan(n)])
    kept = [event.node for event in store.all_events() if isinstance(event, e.DeviceRegistered)]
    assert kept[0] == "before" and kept[1:] == [f"d{n}" for n in range(len(kept) - 1)]
    assert not store.knows_plan(plan_sha256(some_plan(len(kept) - 1)))  # all or nothing
    store._durable.execute("PRAGMA max_page_count = 1000000")
    store.add([registered("after")])
    assert [*store.all_events()][-1] == registered("after")
    store.close()


def test_a_locked_file_is_said_and_afterwards_it_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "BUSY_S", 0.1)
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked by another program"):
        store.add([registered("a")])
    assert [*store.all_events()] == []  # it can be read meanwhile
    other.execute("ROLLBACK")
    other.close()
    store.add([registered("a")])
    assert [*store.all_events()] == [registered("a")]
    store.close()


def test_a_second_controller_is_refused_and_a_visitor_is_not(path: Path) -> None:
    store = Store(path)
    with pytest.raises(InputError, match="another controller uses"):
        Store(path)
    visitor = Store(path, alone=False)
    visitor.add_token(Token(sha256="ab", name="phone", role="reader", created_s=1.0))
    visitor.close()
    assert [t.name for t in store.tokens()] == ["phone"]
    store.close()
    Store(path).close()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (f"PRAGMA application_id = {storing.APPLICATION_ID}; PRAGMA user_version = 99", "a later release"),
        ("PRAGMA user_version = 0", "another program"),
    ],
)
def test_a_database_of_somebody_else_is_refused(path: Path, sql: str, words: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(f"CREATE TABLE t (x); {sql};")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=words):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("nonsense " * 200)
    with pytest.raises(InputError, match="is no state file"):
        Store(path)
    with pytest.raises(InputError, match="is a folder"):
        Store(path.parent)


def test_others_cannot_read_the_state_file(path: Path) -> None:
    Store(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_token_is_found_by_its_secret_and_no_name_is_given_twice(path: Path) -> None:
    store = Store(path)
    # sha256 of "secret"
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    token = Token(sha256=digest, name="phone", role="operator", created_s=1.0)
    store.add_token(token)
    assert (store.token("secret"), store.token("other")) == (token, None)
    with pytest.raises(InputError, match="there is a token named 'phone'"):
        store.add_token(token)
    store.remove_token("phone")
    assert store.token("secret") is None
    with pytest.raises(InputError, match="no token named 'phone'"):
        store.remove_token("phone")
    store.close()


def test_telemetry_is_bounded_by_number_and_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "TELEMETRY_ROWS", 100)
    monkeypatch.setattr(storing, "PRUNE_EVERY", 10)
    store = Store(path)
    store.add(told=Told(stream="old", at_s=0.0, telemetry=telemetry(1, 0.0)))
    for n in range(1, 301):
        at_s = 2 * storing.TELEMETRY_S + n
        store.add(told=Told(stream="s", at_s=at_s, telemetry=telemetry(n, at_s)))
    rows = store._rows("SELECT stream, count(*), min(sequence) FROM telemetry GROUP BY stream")
    assert rows == [("s", 100, 201)]
    store.close()


@pytest.mark.parametrize("messages", [3, 1500])
def test_history_is_thinned_and_keeps_the_highest(path: Path, messages: int) -> None:
    store = Store(path)
    for n in range(1, messages + 1):
        told = telemetry(n, n / 2)
        if n == messages - 1 and told.latency is not None:
            told = told.model_copy(update={"latency": told.latency.model_copy(update={"p90": 999.0})})
        store.add(told=Told(stream="s", at_s=n / 2, telemetry=told))
    history = store.history("s")
    assert min(messages, 400) <= len(history) <= storing.POINTS
    assert max(p.p90 or 0.0 for p in history) == 999.0
    assert [p.at_s for p in history] == sorted(p.at_s for p in history)
    assert (history[-1].at_s, history[0].p50) == (messages / 2, 100.0)
    assert store.history("unknown") == ()
    store.close()


def test_events_are_given_page_by_page(path: Path) -> None:
    store = Store(path)
    store.add([registered(f"d{n}") for n in range(10)])
    assert [event.id for event in store.events(after=3, limit=4)] == [4, 5, 6, 7]
    assert [event.id for event in store.events(limit=3)] == [8, 9, 10]
    assert store.events(stream="s") == ()
    assert store.events(limit=1)[0].data == {"registration": registration().model_dump(mode="json")}
    store.close()
