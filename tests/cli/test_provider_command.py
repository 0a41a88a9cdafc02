"""`distredge provider`: what it needs, what it says, and that nothing else is loaded on a device."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distredge.cli.main import run
from distredge.cli.provider_command import run as run_alone
from distredge.model.load import load_model
from distredge.runtime.deploy.device import shipped
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.run import RunOptions, run_plan
from distredge.scenario import REQUESTER
from distredge.testing.providers import equal_plan, random_images, toy_scenario
from distredge.testing.toy_models import chain, save_model

START_S = 60.0

DEVICE = """
import json, sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    "Finds what an installation of the allowed packages would hold, and nothing more."
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in allowed or name.startswith("_sysconfigdata"):
            return super().find_spec(name, path, target)

allowed = {*sys.stdlib_module_names, *json.loads(sys.argv.pop(1)), "distredge"}
already = set(sys.modules)  # before anything of it runs: what starts every interpreter of this environment
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
from distredge.__main__ import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules.keys() - already)))
"""
"""A provider in an interpreter that finds only some packages; when it ends it prints which modules it has loaded."""


def needed() -> list[Requirement]:
    lines = shipped("provider-requirements.txt").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def modules_of(names: set[str]) -> list[str]:
    """Modules that these packages install, at the top."""
    owners = packages_distributions()
    return [module for module, found in owners.items() if any(canonicalize_name(name) in names for name in found)]


def packages_of(modules: set[str]) -> set[str]:
    """Packages that installed these modules; parts of the interpreter, and of compiled packages, belong to none."""
    owners = packages_distributions()
    return {canonicalize_name(owner) for module in modules for owner in owners.get(module.partition(".")[0], [])}


@contextmanager
def device(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A provider called `a` that finds what `provider-requirements.txt` lists, and where it listens."""
    modules = json.dumps(modules_of({canonicalize_name(r.name) for r in needed()}))
    command = [sys.executable, "-c", DEVICE, modules, "provider", "--name", "a", "--listen", "127.0.0.1:0"]
    command += ["--json", "--until-stdin-closes", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            select.select([process.stdout], [], [], START_S)
            told = json.loads(process.stdout.readline() or "null")
            assert isinstance(told, dict), process.communicate(timeout=30)[1]
            yield process, told["address"]
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path / "cache"))


def test_a_stream_is_served_with_what_a_device_has_and_all_of_that_is_used(tmp_path: Path) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(0)), tmp_path))
    create_keys(tmp_path / "keys", [REQUESTER, "a"])
    with device("--keys", str(tmp_path / "keys")) as (process, address):
        report = run_plan(
            equal_plan(graph, ["a"]),
            toy_scenario(["a"]),
            {"a": address},
            random_images(graph, 3),
            RunOptions(verify=True),
            keys=Keys.load(tmp_path / "keys", REQUESTER),
        )
        printed, said = process.communicate(timeout=30)
    assert report.images == 3
    assert report.max_abs_diff is not None and report.max_abs_diff <= 1e-5
    loaded = set(json.loads(printed))
    assert packages_of(loaded) - {"distredge"} == {canonicalize_name(r.name) for r in needed()}, said


def test_a_device_lists_the_versions_that_the_package_asks_for_and_what_those_need() -> None:
    wanted = {canonicalize_name(r.name): r for r in map(Requirement, requires("distredge") or []) if r.marker is None}
    listed = {canonicalize_name(r.name): r for r in needed()}
    assert "torch" not in listed
    for name in listed.keys() & wanted.keys():
        assert min_version(listed[name]) >= min_version(wanted[name])
    for name in listed:
        for other in map(Requirement, requires(name) or []):
            if other.marker is None or other.marker.evaluate({"extra": ""}):
                # Only ONNX Runtime's tools, which nobody here calls, read flatbuffers and compare versions.
                assert canonicalize_name(other.name) in {*listed, "flatbuffers", "packaging"}, f"{name} needs {other}"


def min_version(requirement: Requirement) -> tuple[int, ...]:
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    return tuple(map(int, bound.version.split(".")))


def test_before_it_listens_it_loads_no_engine_and_no_other_command() -> None:
    with device() as (process, _):
        printed, _ = process.communicate(timeout=30)
    loaded = json.loads(printed)
    assert "distredge.runtime.provider" in loaded
    assert not {"onnxruntime", "typer", "distredge.cli.main", "distredge.planners"} & set(loaded)


def test_logs_are_json_lines_if_asked_for(tmp_path: Path) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(0)), tmp_path))
    with device("--log-format", "json", "--log-level", "info") as (process, address):
        run_plan(equal_plan(graph, ["a"]), toy_scenario(["a"]), {"a": address}, random_images(graph, 1), RunOptions())
        _, said = process.communicate(timeout=30)
    records = [json.loads(line) for line in said.splitlines()]
    assert any(r["logger"] == "distredge.runtime.provider" and len(r["session"]) > 8 for r in records)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", r["time"]) for r in records)


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_level_keeps_back_what_is_below_it(level: str, tmp_path: Path) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(0)), tmp_path))
    with device("--log-level", level) as (process, address):
        run_plan(equal_plan(graph, ["a"]), toy_scenario(["a"]), {"a": address}, random_images(graph, 1), RunOptions())
        assert process.communicate(timeout=30)[1] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--name"),
        (["--name", "a", "--log-level", "loud"], "invalid choice"),
        (["--name", "a", "--log-format", "xml"], "invalid choice"),
        (["--name", "a", "--memory-mb", "nan"], "--memory-mb"),
        (["--name", "a", "--listen", "nowhere"], "no address"),
        (["--name", "a", "--listen", "0.0.0.0:0"], "--keys"),
        (["--name", "a", "--keys", "absent"], "distredge keys"),
        (["--name", "a", "--frobnicate"], "--frobnicate"),
        (["--name", REQUESTER], REQUESTER),
    ],
)
def test_bad_input_is_one_line_alone_and_among_all_commands(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    answers = set()
    for command in (run, run_alone):
        assert command(["provider", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.count("\n") == 1 and words in err
        answers.add(err)
    assert len(answers) == 1


def test_help_is_the_same_alone_and_among_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for command in (run, run_alone):
        assert command(["provider", "--help"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "--log-format" in shown[0]
    assert run(["--help"]) == 0
    assert re.search(r"^  provider +Serve split-parts", capsys.readouterr().out, re.MULTILINE)


def test_an_interrupted_provider_leaves_quietly() -> None:
    command = [sys.executable, "-m", "distredge", "provider", "--name", "a", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        try:
            assert process.stdout is not None
            assert b"listens at 127.0.0.1:" in process.stdout.readline()
            process.terminate()
            assert process.communicate(timeout=30)[1] == b""
        finally:
            process.kill()
    assert process.returncode in (0, 143)
