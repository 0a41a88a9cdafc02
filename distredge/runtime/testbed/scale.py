"""Slower networks with slower devices: what a small machine cannot carry at full speed, it can in slow motion."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from distredge.errors import InputError
from distredge.profiles.network import MESSAGE_MS
from distredge.runtime.testbed.replay import read_trace, write_trace
from distredge.scenario import Io, Scenario


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """The scenario with all rates divided and all times of its devices multiplied by `factor`.

    What this machine itself takes for a message stays. Its traces are still the scenario's: `write_scenario` scales
    them. Raises `InputError` if a figure would leave its range.
    """
    data = scenario.model_dump()
    nodes = [data["requester"], *data["providers"]]
    for node in nodes:
        if node["bandwidth_mbps"] is not None:
            node["bandwidth_mbps"] /= factor
        node["io"] = _slower(Io(**node["io"]), factor)
    for provider in data["providers"]:
        provider["slowdown"] *= factor
    try:
        made = Scenario.model_validate(data)
    except ValidationError as exc:
        problem = exc.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"--scale {factor:g} takes {where} out of its range: choose a smaller factor") from exc
    made._folder = scenario.folder
    return made


def _slower(io: Io, factor: float) -> dict[str, float]:
    own = min(io.write_ms, MESSAGE_MS)
    return {
        "read_ms": io.read_ms * factor,
        "read_ms_per_mb": io.read_ms_per_mb * factor,
        "write_ms": own + (io.write_ms - own) * factor,
        "write_ms_per_mb": io.write_ms_per_mb * factor,
    }


def write_scenario(scenario: Scenario, folder: Path, factor: float = 1.0) -> Path:
    """Write a scenario so that another process can read it, with its traces' rates divided by `factor`."""
    data = scenario.model_dump(mode="json")
    for provider in data["providers"]:
        name = provider["profile"]
        files = [p for p in (scenario.folder / name, Path(name)) if p.suffix and p.is_file()]
        provider["profile"] = str(files[0].resolve()) if files else name
        if provider["trace"]:
            trace = read_trace(scenario.folder / provider["trace"]).scaled(factor)
            provider["trace"] = f"{provider['name']}.csv"
            write_trace(trace, folder / provider["trace"])
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path
