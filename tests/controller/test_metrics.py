"""`/metrics` as Prometheus reads it, and the dashboard whose queries it must answer."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distredge import controller as package
from distredge.control.schema import Change, Latencies, Telemetry
from distredge.controller import metrics
from distredge.testing.controlling import opening, some_plan, telemetry
from distredge.testing.served import Served, served

DASHBOARD = Path(package.__path__[0]) / "grafana.json"


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state.sqlite") as found:
        yield found


def scraped(controller: Served) -> dict[str, float]:
    """Every sample by its name and labels, as they are written."""
    answer = controller.http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + (json.dumps(sample.labels) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def told(controller: Served, stream: str, message: Telemetry) -> None:
    path = f"/v1/streams/{stream}/telemetry"
    answer = controller.http.post(path, content=message.model_dump_json(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_what_a_requester_tells_is_counted_once(controller: Served) -> None:
    stream = controller.core.open_stream(opening()).stream
    message = telemetry(
        1,
        time.time(),
        frame_ms=(90.0, 400.0),
        compute_ms=(3.0, 4.0, 5.0),
        transfer_ms=(30.0,),
        deadline_misses=2,
        expected_ms=120.0,
    )
    told(controller, stream, message)
    told(controller, stream, message)  # as one whose answer was lost does
    found = scraped(controller)
    model = '{"model": "nowhere"}'
    assert found["distredge_frame_seconds_count" + model] == 2
    assert found["distredge_frame_seconds_sum" + model] == pytest.approx(0.49)
    assert found['distredge_frame_seconds_bucket{"le": "0.1", "model": "nowhere"}'] == 1
    assert found["distredge_compute_seconds_sum" + model] == pytest.approx(0.012)
    assert found["distredge_transfer_seconds_count" + model] == 1
    assert found["distredge_deadline_misses_total" + model] == 2
    assert found["distredge_telemetry_messages_total"] == 1


def of_stream(controller: Served, stream: str) -> dict[str, float]:
    families = text_string_to_metric_families(controller.http.get("/metrics").text)
    samples = [s for family in families for s in family.samples if s.labels.get("stream") == stream]
    return {s.name: s.value for s in samples}


def test_gauges_show_a_stream_as_it_is_and_forget_it_when_it_ends(controller: Served) -> None:
    stream = controller.core.open_stream(opening()).stream
    latency = Latencies(frames=5, p50=100.0, p90=110.0, p99=120.0, ips=10.0)
    told(controller, stream, telemetry(1, time.time(), epoch=0, latency=latency, expected_ms=120.0))
    controller.core.pin(stream)
    found = of_stream(controller, stream)
    assert found["distredge_prediction_error_ratio"] == pytest.approx(0.2)
    assert (found["distredge_plan_version"], found["distredge_order_version"]) == (0, 1)
    assert found["distredge_latency_p50_seconds"] == pytest.approx(0.1)
    assert scraped(controller)["distredge_streams_live"] == 1
    controller.core.close_stream(stream)
    assert of_stream(controller, stream) == {}
    assert scraped(controller)["distredge_streams_live"] == 0


def test_drift_re_plans_and_roll_backs_are_counted_from_the_events(controller: Served) -> None:
    stream, now = controller.core.open_stream(opening()).stream, time.time()
    change = Change(at_s=now, kind="link", node="nano-0", before=50.0, after=12.5)
    told(controller, stream, telemetry(1, now, mbps={"nano-0": 12.5}, changes=(change,)))
    end_s = time.monotonic() + 30.0
    while not controller.replanner.jobs:
        assert time.monotonic() < end_s
        controller.service.tick()
        time.sleep(0.05)
    controller.replanner.answer(some_plan(1), 80.0, 200.0)
    controller.service.tick()
    found = scraped(controller)
    assert found['distredge_drift_total{"kind": "link"}'] == 1
    assert found['distredge_drift_total{"kind": "large"}'] == 1
    assert found['distredge_replans_total{"outcome": "used"}'] == 1
    assert found['distredge_replans_total{"outcome": "failed"}'] == 0


def test_decisions_and_refusals_are_counted(controller: Served) -> None:
    controller.http.post("/v1/decisions", json={"model": "none", "scenario": "none"})
    controller.http.get("/v1/nothing")
    found = scraped(controller)
    assert found['distredge_decisions_total{"outcome": "refused"}'] == 1
    assert found["distredge_decision_seconds_count"] == 1
    assert found['distredge_http_errors_total{"status": "404"}'] == 2


def test_labels_stay_few_however_many_models_and_streams_come(
    controller: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_MODELS", 3)
    monkeypatch.setattr(metrics, "MAX_STREAMS", 4)
    for k in range(8):
        model = some_plan(0).model.model_copy(update={"name": f"model-{k}"})
        stream = controller.core.open_stream(opening(some_plan(0, model=model))).stream
        told(controller, stream, telemetry(1, time.time(), frame_ms=(5.0,)))
    families = list(text_string_to_metric_families(controller.http.get("/metrics").text))
    labels = [sample.labels for family in families for sample in family.samples]
    frames = [s for f in families for s in f.samples if s.name == "distredge_frame_seconds_count"]
    assert {s.labels["model"]: s.value for s in frames}["other"] == 5 and len(frames) == 4
    assert len({found["stream"] for found in labels if "stream" in found}) == 4


def queries(value: object) -> Iterator[str]:
    """Every `expr` in the dashboard."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for inner in value.values():
            yield from queries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from queries(inner)


def test_every_query_of_the_dashboard_names_metrics_and_labels_that_exist(controller: Served) -> None:
    stream = controller.core.open_stream(opening()).stream
    samples = {"frame_ms": (5.0,), "compute_ms": (1.0,), "transfer_ms": (1.0,), "expected_ms": 5.0}
    told(controller, stream, telemetry(1, time.time(), **samples))
    controller.http.get("/v1/nothing")
    families = text_string_to_metric_families(controller.http.get("/metrics").text)
    labels: dict[str, set[str]] = {}
    for sample in (s for family in families for s in family.samples):
        labels.setdefault(sample.name, set()).update(sample.labels)
    found = list(queries(json.loads(DASHBOARD.read_text())))
    used = {name for query in found for name in re.findall(r"\bdistredge_\w+", query)}
    assert used <= set(labels)
    names = {name.removesuffix("_count") for name in labels if not name.endswith(("_created", "_bucket", "_sum"))}
    assert {n for n in names if not any(n in query for query in found)} == {"distredge_build_info"}
    for query in found:
        known = set().union(*(labels[name] for name in re.findall(r"\bdistredge_\w+", query)))
        grouped = {w.strip() for group in re.findall(r"by \(([^)]*)\)", query) for w in group.split(",")}
        matched = set(re.findall(r"(\w+)\s*=~?\s*\"", query))
        assert grouped | matched <= known, query


def test_the_dashboard_marks_drift_and_re_plans() -> None:
    board = json.loads(DASHBOARD.read_text())
    marks = [a["expr"] for a in board["annotations"]["list"] if "expr" in a]
    assert any("distredge_drift_total" in m for m in marks) and any("distredge_replans_total" in m for m in marks)
    assert all(panel["targets"] for panel in board["panels"])
