"""`Store`: all that the controller must not forget, in one SQLite file.

The file is in WAL mode, so that readers never wait. A transaction that has returned survives the end of the process,
whichever way that comes: its pages are with the operating system. Events, and what else is rare, also survive a power
failure (`synchronous=FULL` waits for the disk); of the telemetry, which comes all the time, a power failure may take
the last seconds (`synchronous=NORMAL`), and never half a message. One controller at a time has a file: it holds a lock
(`flock`) on `FILE.lock` that ends with the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any, Literal

from distredge.config import Frozen
from distredge.control.schema import Event, Point, Role, Telemetry, plan_sha256
from distredge.controller.events import EVENT, AnyEvent
from distredge.errors import InputError, RunError
from distredge.plans.plan import Plan
from distredge.resources import check_writable

BUSY_S = 2.0
"""How long to wait for another program that has the file locked."""

TELEMETRY_ROWS = 200_000
"""Messages that are kept of a stream: a day at two a second, and some."""

TELEMETRY_S = 24 * 3600.0
"""For which messages are kept."""

PRUNE_EVERY = 500
"""Messages of a stream between two prunings."""

POINTS = 600
"""Of a stream's history."""

HISTORY_ROWS = 7200
"""Messages that a stream's history covers: an hour at two a second."""

APPLICATION_ID = 0x44457374
"""By which SQLite's header says whose file it is."""

MIGRATIONS = Path(__file__).with_name("migrations")
"""Numbered SQL files; how many of them a file has seen is its `user_version`."""

_SAMPLES = {"frame_ms", "transfer_ms", "compute_ms", "changes", "plan_changes", "plans", "timeline"}
"""Of a message: they go into metrics, events and plans."""


class StoreError(RunError):
    """It could not be stored, or read: nothing was changed, and the same may be tried again."""


class Token(Frozen):
    """Who may do what; the token itself is not known, only its hash."""

    sha256: str
    name: str
    role: Role
    created_s: float


class PolicyEntry(Frozen):
    """A stored policy: what it is for."""

    sha256: str
    kind: Literal["moving", "osds"]
    model: str
    scenario: str


class Told(Frozen):
    """A message of a stream and when it came, by the controller's clock."""

    stream: str
    at_s: float
    telemetry: Telemetry


class Store:
    """The state file. May be used from several threads.

    With `alone` it is locked against a second controller; without, it may be looked into, and tokens be added, while a
    controller runs. Raises `InputError` if the file cannot be used. Its methods raise `StoreError`.
    """

    def __init__(self, path: Path, alone: bool = True) -> None:
        check_writable(path)
        self.path = path
        self._lock_file = _locked(path) if alone else None
        try:
            self._durable = self._open("FULL")
            self._quick = self._open("NORMAL")
            self._reading = self._open("NORMAL")
        except BaseException:
            self._unlock()
            raise
        self._write_lock, self._read_lock = Lock(), Lock()

    def close(self) -> None:
        """Close the file and let go of the lock."""
        with self._write_lock, self._read_lock:
            for connection in (self._durable, self._quick, self._reading):
                connection.close()
        self._unlock()

    # Events and telemetry.

    def add(self, events: Sequence[AnyEvent] = (), told: Told | None = None, plans: Sequence[Plan] = ()) -> None:
        """Store events, a message of a stream and plans: all or nothing."""
        with self._write(durable=bool(events or plans)) as connection:
            for plan in plans:
                _put_plan(connection, plan)
            if told is not None:
                _put_told(connection, told)
            connection.executemany(
                "INSERT INTO events (at_s, kind, stream, node, body) VALUES (?, ?, ?, ?, ?)",
                [
                    (x.at_s, x.kind, getattr(x, "stream", None), getattr(x, "node", None), x.model_dump_json())
                    for x in events
                ],
            )

    def all_events(self) -> Iterator[AnyEvent]:
        """Everything that happened, in order."""
        for (body,) in self._rows("SELECT body FROM events ORDER BY id"):
            yield EVENT.validate_json(body)

    def events(self, stream: str | None = None, after: int = 0, limit: int = 100) -> tuple[Event, ...]:
        """Events (of a stream) oldest first, behind the one numbered `after`; without that the newest ones."""
        where = "id > ?" if stream is None else "id > ? AND stream = ?"
        order = "ASC" if after else "DESC"
        rows = self._rows(
            f"SELECT id, body FROM events WHERE {where} ORDER BY id {order} LIMIT ?",
            (after, *(() if stream is None else (stream,)), limit),
        )
        found = [_event(number, EVENT.validate_json(body)) for number, body in rows]
        return tuple(found if after else reversed(found))

    def latest(self, stream: str) -> Told | None:
        """The newest message of a stream, without its samples."""
        rows = self._rows("SELECT at_s, body FROM telemetry WHERE stream = ? ORDER BY sequence DESC LIMIT 1", (stream,))
        return (
            Told(stream=stream, at_s=rows[0][0], telemetry=Telemetry.model_validate_json(rows[0][1])) if rows else None
        )

    def history(self, stream: str) -> tuple[Point, ...]:
        """Of the last hour of a stream at most `POINTS` points, oldest first.

        Where there are more messages a point stands for several: means, and the highest of the p90s.
        """
        newest = self._rows("SELECT max(sequence) FROM telemetry WHERE stream = ?", (stream,))[0][0] or 0
        rows = self._rows(
            "SELECT max(at_s), avg(p50), max(p90), avg(ips), avg(expected_ms), max(epoch) FROM telemetry"
            " WHERE stream = ? AND sequence > ? GROUP BY sequence / ? ORDER BY 1",
            (stream, newest - HISTORY_ROWS, -(-min(newest, HISTORY_ROWS) // (POINTS - 1)) or 1),
        )
        names = ("at_s", "p50", "p90", "ips", "expected_ms", "epoch")
        return tuple(Point.model_validate(dict(zip(names, row, strict=True))) for row in rows)

    # Plans, policies, profiles, scenarios.

    def add_plan(self, plan: Plan) -> str:
        """Store a plan; gives its hash."""
        with self._write() as connection:
            return _put_plan(connection, plan)

    def plan(self, sha256: str) -> Plan | None:
        """A plan by its hash."""
        body = self._value("SELECT body FROM plans WHERE sha256 = ?", sha256)
        return None if body is None else Plan.model_validate_json(str(body))

    def knows_plan(self, sha256: str) -> bool:
        """Whether a plan is stored."""
        return self._value("SELECT 1 FROM plans WHERE sha256 = ?", sha256) is not None

    def add_policy(self, entry: PolicyEntry, blob: bytes) -> None:
        """Store a policy under its hash."""
        with self._write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO policies VALUES (?, ?, ?, ?, ?)",
                (entry.sha256, entry.kind, entry.model, entry.scenario, blob),
            )

    def policy(self, sha256: str) -> bytes | None:
        """A policy's file by its hash."""
        blob = self._value("SELECT blob FROM policies WHERE sha256 = ?", sha256)
        return blob if isinstance(blob, bytes) else None

    def policies(self) -> tuple[PolicyEntry, ...]:
        """What policies there are, oldest first."""
        rows = self._rows("SELECT sha256, kind, model, scenario FROM policies ORDER BY rowid")
        return tuple(PolicyEntry.model_validate(dict(zip(PolicyEntry.model_fields, r, strict=True))) for r in rows)

    def put(self, table: Literal["profiles", "scenarios"], name: str, body: str) -> None:
        """Store a text under a name, in place of what was there."""
        with self._write() as connection:
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, body))

    def get(self, table: Literal["profiles", "scenarios"], name: str) -> str | None:
        """The text of a name."""
        body = self._value(f"SELECT body FROM {table} WHERE name = ?", name)
        return None if body is None else str(body)

    def names(self, table: Literal["profiles", "scenarios"]) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(name for (name,) in self._rows(f"SELECT name FROM {table} ORDER BY name"))

    # Tokens.

    def add_token(self, token: Token) -> None:
        """Store who may do what; raises `InputError` if there is a token of this name."""
        with self._write() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?)",
                (token.sha256, token.name, token.role, token.created_s),
            )
            if cursor.rowcount == 0:
                raise InputError(f"there is a token named '{token.name}': remove it first, or choose another name")

    def remove_token(self, name: str) -> None:
        """Withdraw a token; raises `InputError` if there is none of this name."""
        with self._write() as connection:
            if connection.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount == 0:
                raise InputError(f"there is no token named '{name}'")

    def token(self, secret: str) -> Token | None:
        """Whose a token is."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return next((t for t in self.tokens("WHERE sha256 = ?", digest)), None)

    def tokens(self, where: str = "", *values: str) -> tuple[Token, ...]:
        """All tokens, oldest first."""
        rows = self._rows(f"SELECT sha256, name, role, created_s FROM tokens {where} ORDER BY created_s", values)
        return tuple(Token.model_validate(dict(zip(Token.model_fields, row, strict=True))) for row in rows)

    # How.

    def _open(self, synchronous: Literal["FULL", "NORMAL"]) -> sqlite3.Connection:
        try:
            self.path.touch(mode=0o600)
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            _check_ours(connection, self.path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            _migrate(connection)
        except OSError as exc:
            raise InputError(f"cannot write '{self.path}': {exc.strerror}") from exc
        except sqlite3.OperationalError as exc:
            raise InputError(f"cannot open '{self.path}': {exc}") from exc
        except sqlite3.DatabaseError as exc:
            raise InputError(f"'{self.path}' is no state file of a controller ({exc}): give another one") from exc
        return connection

    def _unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()

    @contextmanager
    def _write(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction: what is done within it is done wholly, or not at all if anything is raised."""
        connection = self._durable if durable else self._quick
        with self._write_lock, self._saying():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _rows(self, sql: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        with self._read_lock, self._saying():
            return self._reading.execute(sql, tuple(values)).fetchall()

    def _value(self, sql: str, key: str) -> object:
        rows = self._rows(sql, (key,))
        return rows[0][0] if rows else None

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """Say in one line what SQLite could not do."""
        try:
            yield
        except sqlite3.Error as exc:
            raise StoreError(_words(self.path, exc)) from exc


def _words(path: Path, exc: sqlite3.Error) -> str:
    said = str(exc)
    if "is full" in said:
        return f"'{path}' cannot be written, as its disk is full: make room there, and the controller goes on"
    if "locked" in said:
        return f"'{path}' is locked by another program: end that, and the controller goes on"
    return f"'{path}' cannot be used: {said}"


def _locked(path: Path) -> IO[str]:
    """The open file that holds the lock; raises `InputError` if another process has it."""
    name = path.with_name(f"{path.name}.lock")
    try:
        file = name.open("a")
    except OSError as exc:
        raise InputError(f"cannot write '{name}': {exc.strerror}") from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise InputError(f"another controller uses '{path}': end it, or give another state file") from exc
    return file


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `InputError` for the database of another program, or of a later release."""
    (identity,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and identity != APPLICATION_ID:
        raise InputError(f"'{path}' is the database of another program: give another state file")
    if version > len(_migrations()):
        raise InputError(f"'{path}' was written by a later release of DistrEdge: install that, or give another file")


def _migrations() -> list[Path]:
    return sorted(MIGRATIONS.glob("*.sql"))


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring a file up to date, a migration at a time; each is done wholly or not at all."""
    for number, file in enumerate(_migrations(), 1):
        connection.execute("BEGIN IMMEDIATE")  # others that open the same file wait here
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] < number:
                for statement in _statements(file.read_text(encoding="utf-8")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _put_plan(connection: sqlite3.Connection, plan: Plan) -> str:
    sha256 = plan_sha256(plan)
    connection.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (sha256, plan.model_dump_json()))
    return sha256


def _put_told(connection: sqlite3.Connection, told: Told) -> None:
    telemetry, latency = told.telemetry, told.telemetry.latency
    connection.execute(
        "INSERT INTO telemetry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            told.stream,
            telemetry.sequence,
            told.at_s,
            telemetry.epoch,
            latency.p50 if latency else None,
            latency.p90 if latency else None,
            latency.ips if latency else 0.0,
            telemetry.expected_ms,
            telemetry.model_dump_json(exclude=_SAMPLES),
        ),
    )
    if telemetry.sequence % PRUNE_EVERY == 0:
        oldest = telemetry.sequence - TELEMETRY_ROWS
        connection.execute("DELETE FROM telemetry WHERE stream = ? AND sequence <= ?", (told.stream, oldest))
        connection.execute("DELETE FROM telemetry WHERE at_s < ?", (told.at_s - TELEMETRY_S,))


def _event(number: int, event: AnyEvent) -> Event:
    """As others see it."""
    data = event.model_dump(mode="json", exclude={"at_s", "kind", "stream", "node", "reason"})
    return Event(
        id=number,
        at_s=event.at_s,
        kind=event.kind,
        stream=getattr(event, "stream", None),
        node=getattr(event, "node", None),
        reason=event.reason,
        data=data,
    )
