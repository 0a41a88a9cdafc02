"""What speaks against a measured profile is said."""

from __future__ import annotations

from distredge.profiles.check import condition_doubts, doubts
from distredge.profiles.measured import (
    Conditions,
    Method,
    Provenance,
    RowTiming,
    Sentinel,
    Subject,
    TableFile,
)

SUBJECT = Subject(backend="ort", host="h", device="d", runtime="r", runtime_version="1", threads=1)


def row(rows: int, ms: float, cv: float = 0.01) -> RowTiming:
    return RowTiming(rows=rows, median_ms=ms, p10_ms=ms, p90_ms=ms, p99_ms=ms, cv=cv, count=9)


def file(*rows: RowTiming, **provenance: object) -> TableFile:
    source = {"subject": SUBJECT, "method": Method(), "date": "", "models": {}, "complete": True, **provenance}
    return TableFile(name="x", provenance=Provenance(**source), layers={"layer": rows})  # type: ignore[arg-type]


def test_a_good_profile_raises_no_doubts() -> None:
    assert doubts(file(row(1, 1.0), row(8, 2.0))) == []


def test_unsteady_points_drift_falls_and_interruptions_are_named() -> None:
    drifting = Sentinel(signature="layer", rows=8, medians_ms=(1.0, 1.3))
    said = doubts(
        file(row(1, 1.0, 0.2), row(4, 3.0), row(8, 2.0), sentinel=drifting, complete=False, notes=("a note",))
    )
    assert [words.split(":")[0].split(" ")[0] for words in said] == ["1", "the", "the", "latency"]
    assert "from 3.000 ms at 4 rows to 2.000 ms at 8" in said[3]


def test_the_devices_state_is_judged() -> None:
    calm = Conditions(at="", clocks_mhz={"cpu0": 1500.0}, governors=("performance",), power_mode="MAXN")
    assert condition_doubts((calm, calm)) == []
    slow = Conditions(
        at="", clocks_mhz={"cpu0": 600.0}, governors=("ondemand",), power_mode="5W", throttled="under-voltage"
    )
    said = " | ".join(condition_doubts((calm, slow)))
    for words in ("throttled: under-voltage", "ondemand", "cpu0 was between 600 and 1500 MHz", "5W, MAXN"):
        assert words in said
