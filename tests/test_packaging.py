"""What a user gets by installing: the wheel's contents, its dependencies, and imports that stay light."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distredge import __version__

ROOT = Path(__file__).resolve().parent.parent
DIST_INFO = f"distredge-{__version__}.dist-info"
LEARNING = {"torch", "gymnasium", "stable_baselines3", "tensorboard"}
DECIDING = {"distredge.agents", "distredge.envs", "distredge.planners", "distredge.partitioning"}


def python(code: str, *, cwd: Path = ROOT, path: Path | None = None) -> str:
    """What a fresh interpreter prints for `code`; `path` goes before the installed packages."""
    env = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_holds_the_package_and_all_shipped_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "distredge").rglob("*.py")}
    data = {
        f"distredge/_data/{p.relative_to(ROOT).as_posix()}"
        for folder in ("envs", "profiles", "agents")
        for p in (ROOT / folder).rglob("*")
        if p.is_file()
    }
    assert "distredge/_data/envs/db-50.yaml" in data
    assert sources | data | {"distredge/py.typed"} <= names


def test_wheel_holds_nothing_else_at_the_top(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"distredge", DIST_INFO}
    assert not [name for name in wheel.namelist() if "__pycache__" in name or name.endswith(".part")]


def test_wheel_finds_its_own_data_when_unpacked_elsewhere(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.extractall(site)
    code = (
        "from distredge.scenario import load_scenario as load; s = load('db-50');"
        "print(s.folder, len(s.profiles), *s.provider_names)"
    )
    folder = site / "distredge" / "_data" / "envs"
    assert python(code, cwd=tmp_path, path=site) == f"{folder} 4 xavier-0 xavier-1 nano-0 nano-1"


def test_wheel_asks_for_no_learning_library_unless_train_is_chosen(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(f"{DIST_INFO}/METADATA").decode())
    asked = [Requirement(r) for r in metadata.get_all("Requires-Dist", [])]
    core = {r.name for r in asked if r.marker is None}
    train = {r.name for r in asked if r.marker and r.marker.evaluate({"extra": "train"})}
    assert {"numpy", "onnx", "onnxruntime", "pyzmq"} <= core
    assert {"torch", "gymnasium", "stable-baselines3"} <= train - core


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("distredge", LEARNING | {"matplotlib", "onnxruntime", "skimage"}),
        ("distredge.cli.main", LEARNING | {"matplotlib", "onnxruntime", "skimage"}),
        ("distredge.runtime.provider", LEARNING | DECIDING | {"matplotlib", "skimage"}),
    ],
)
def test_import_stays_light(module: str, unwanted: set[str]) -> None:
    assert python(f"import sys, {module}; print(*sorted({unwanted!r} & set(sys.modules)))") == ""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the pins are those of Python 3.11")
def test_constraints_pin_everything_that_is_installed() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, lines)}
    assert all(p.startswith("==") and "*" not in p for p in pins.values())
    assert pins["torch"] == "==2.13.0"
    assert needed("distredge", {"train", "tune", "ray", "plot", "images", "controller", "dev"}, {}) - {
        "distredge"
    } == set(pins)


def needed(name: str, extras: set[str], seen: dict[str, set[str]]) -> set[str]:
    """The package and all that it needs here, by canonical names; `seen` remembers the extras already followed."""
    known = seen.setdefault(canonicalize_name(name), {"\0"})
    new = ({""} | extras) - known
    known |= new
    for requirement in map(Requirement, requires(name) or []) if new else ():
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in new):
            needed(requirement.name, set(requirement.extras), seen)
    return set(seen)
