"""Finding profiles by name and by path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distredge.errors import ProfileError, UnknownNameError
from distredge.profiles.store import list_profiles, load_profile
from distredge.resources import data_dir

NANO = data_dir("profiles") / "jetson-nano.yaml"


def test_shipped_names_are_listed_with_their_kind_and_provenance() -> None:
    listed = json.loads(json.dumps(list_profiles()))
    assert {"jetson-nano", "jetson-tx2", "jetson-agx-xavier", "raspberry-pi-3b"} <= {p["name"] for p in listed}
    assert all(p["kind"] == p["provenance"]["kind"] for p in listed)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown profile 'jetson-nanoo': did you mean 'jetson-nano'"):
        load_profile("jetson-nanoo")


def test_a_path_is_relative_to_the_folder_then_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("scenario", "mine"), ("here", "yours")):
        (tmp_path / folder / "p").mkdir(parents=True)
        (tmp_path / folder / "p" / "a.yaml").write_text(NANO.read_text().replace("name: jetson-nano", f"name: {name}"))
    shutil.copy(NANO, tmp_path / "here" / "p" / "b.yaml")
    monkeypatch.chdir(tmp_path / "here")
    assert load_profile("p/a.yaml", tmp_path / "scenario").name == "mine"
    assert load_profile("p/a.yaml").name == "yours"
    assert load_profile("p/b.yaml", tmp_path / "scenario").name == "jetson-nano"
    assert load_profile(str(NANO), tmp_path).name == "jetson-nano"


def test_a_path_to_nothing_or_to_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"cannot read 'gone\.yaml': no such file"):
        load_profile("gone.yaml", tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ProfileError, match="is no profile"):
        load_profile("notes.txt", tmp_path)
