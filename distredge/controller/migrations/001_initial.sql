-- What happened, in order: the truth. `body` is the whole event as JSON.
CREATE TABLE events (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at_s   REAL NOT NULL,
    kind   TEXT NOT NULL,
    stream TEXT,
    node   TEXT,
    body   TEXT NOT NULL
);
CREATE INDEX events_of_stream ON events (stream, id);

-- What requesters tell twice a second. `at_s` by the controller's clock; `body` is the message without its samples.
CREATE TABLE telemetry (
    stream      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    at_s        REAL NOT NULL,
    epoch       INTEGER NOT NULL,
    p50         REAL,
    p90         REAL,
    ips         REAL NOT NULL,
    expected_ms REAL,
    body        TEXT NOT NULL,
    PRIMARY KEY (stream, sequence)
) WITHOUT ROWID;
CREATE INDEX telemetry_by_age ON telemetry (at_s);

CREATE TABLE plans (sha256 TEXT PRIMARY KEY, body TEXT NOT NULL);

CREATE TABLE policies (
    sha256   TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    model    TEXT NOT NULL,
    scenario TEXT NOT NULL,
    blob     BLOB NOT NULL
);

CREATE TABLE profiles (name TEXT PRIMARY KEY, body TEXT NOT NULL);

CREATE TABLE scenarios (name TEXT PRIMARY KEY, body TEXT NOT NULL);

-- Tokens themselves are nowhere: only their SHA-256.
CREATE TABLE tokens (sha256 TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, created_s REAL NOT NULL);
