"""Schemathesis over the whole interface of a controller with a device, a stream and plans: it finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distredge.control.schema import plan_sha256
from distredge.testing.controlling import opening, registration, some_plan
from distredge.testing.served import served

SEED = 1

# What fits the schema may still be refused, for what no schema can say: cuts that go back, a node of another scenario,
# a name that stands for nothing here, a file that is no policy.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-path-regex = "/v1/devices/.*/beat"
parameters = {{ name = "nano-0" }}

[[operations]]
include-path-regex = "/v1/streams/.*"
exclude-method = "DELETE"
parameters = {{ stream = "{stream}" }}

[[operations]]
include-path-regex = "/v1/plans/.*"
parameters = {{ sha256 = "{plan}" }}
"""


@pytest.mark.parametrize(
    ("phases", "examples"),
    [
        ("coverage", 1),
        pytest.param("coverage,fuzzing,stateful", 100, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_schemathesis_finds_nothing(phases: str, examples: int, tmp_path: Path) -> None:
    with served(tmp_path / "state.sqlite") as controller:
        controller.core.register_device("nano-0", registration())
        stream = controller.core.open_stream(opening()).stream
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIG.format(stream=stream, plan=plan_sha256(some_plan(0))))
        with controller.as_role("operator") as operator:
            token = operator.headers["Authorization"]
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "--config-file", config),
                *("run", f"{controller.url}/openapi.json", "--header", f"Authorization: {token}"),
                *(
                    "--checks",
                    "all",
                    "--phases",
                    phases,
                    "--max-examples",
                    str(examples),
                    "--seed",
                    str(SEED),
                    "--no-color",
                ),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "Tested: 28" in done.stdout
        assert controller.http.get("/v1/health").json()["status"] == "ok"
