"""Scenarios: those that are shipped are the paper's, and a bad file is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distredge.api import plan
from distredge.errors import InputError, PlanError, ScenarioError, UnknownNameError
from distredge.model.load import load_model
from distredge.resources import shipped
from distredge.scenario import REQUESTER, Io, load_scenario, revise

XAVIER, TX2, NANO, PI3 = "jetson-agx-xavier", "jetson-tx2", "jetson-nano", "raspberry-pi-3b"

# Tables I, II and III of the paper as (profile, Mbit/s), in the order in which the paper writes them.
TABLES = {
    "da-50": [(TX2, 50), (TX2, 50), (NANO, 50), (NANO, 50)],
    "da-300": [(TX2, 300), (TX2, 300), (NANO, 300), (NANO, 300)],
    "db-50": [(XAVIER, 50), (XAVIER, 50), (NANO, 50), (NANO, 50)],
    "db-300": [(XAVIER, 300), (XAVIER, 300), (NANO, 300), (NANO, 300)],
    "dc-50": [(XAVIER, 50), (TX2, 50), (NANO, 50), (PI3, 50)],
    "dc-300": [(XAVIER, 300), (TX2, 300), (NANO, 300), (PI3, 300)],
    "na-nano": [(NANO, 50), (NANO, 50), (NANO, 200), (NANO, 200)],
    "na-xavier": [(XAVIER, 50), (XAVIER, 50), (XAVIER, 200), (XAVIER, 200)],
    "nb-nano": [(NANO, 100), (NANO, 100), (NANO, 200), (NANO, 200)],
    "nb-xavier": [(XAVIER, 100), (XAVIER, 100), (XAVIER, 200), (XAVIER, 200)],
    "nc-nano": [(NANO, 200), (NANO, 200), (NANO, 300), (NANO, 300)],
    "nc-xavier": [(XAVIER, 200), (XAVIER, 200), (XAVIER, 300), (XAVIER, 300)],
    "nd-nano": [(NANO, 50), (NANO, 100), (NANO, 200), (NANO, 300)],
    "nd-xavier": [(XAVIER, 50), (XAVIER, 100), (XAVIER, 200), (XAVIER, 300)],
    "la": [(NANO, 300), (NANO, 200), (NANO, 100), (NANO, 50)] * 4,
    "lb": [(PI3, 300), (NANO, 200), (TX2, 100), (XAVIER, 50)] * 4,
    "lc": [(PI3, 200), (NANO, 200), (TX2, 200), (XAVIER, 200)] * 4,
    "ld": [(PI3, 50), (NANO, 100), (TX2, 200), (XAVIER, 300)] * 4,
    "homogeneous-200": [(NANO, 200)] * 4,
}
MEMORY_MB = {XAVIER: 31000, TX2: 7800, NANO: 3900, PI3: 900}

VALID = "name: mine\nproviders:\n  - {name: a, profile: jetson-nano, bandwidth_mbps: 50}\n"


def refused(folder: Path, text: str) -> str:
    """The message with which a scenario file of this text is refused."""
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert str(path) in str(caught.value)
    return one_line(caught.value)


def one_line(error: InputError) -> str:
    assert error.exit_code == 2
    assert len(str(error).splitlines()) == 1
    return str(error)


def test_the_scenarios_of_the_paper_are_shipped() -> None:
    assert set(TABLES) <= set(shipped("envs", ".yaml"))


@pytest.mark.parametrize("name", TABLES)
def test_group_is_the_papers(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert [(p.profile, p.bandwidth_mbps) for p in scenario.providers] == TABLES[name]
    assert all(p.memory_mb == MEMORY_MB[p.profile] for p in scenario.providers)
    assert scenario.requester_mbps == float("inf")
    assert scenario.element_bytes == 2


@pytest.mark.parametrize("name", shipped("envs", ".yaml"))
def test_shipped_scenario_loads_with_its_profiles(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert len(scenario.profiles) == len(scenario.providers)


def test_providers_of_db_50_stand_in_the_order_that_plans_use() -> None:
    assert load_scenario("db-50").provider_names == ("xavier-0", "xavier-1", "nano-0", "nano-1")


def test_own_file_needs_little_and_knows_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(VALID)
    scenario = load_scenario(path)
    assert (scenario.schema_version, scenario.element_bytes, scenario.folder) == (1, 2, tmp_path)
    assert load_scenario(str(path)) == scenario


def test_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_scenario("db50")
    assert "did you mean 'db-50'?" in one_line(caught.value)


@pytest.mark.parametrize("missing", ["nowhere.yaml", "."])
def test_path_that_is_no_file(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError) as caught:
        load_scenario(tmp_path / missing)
    assert str(tmp_path) in one_line(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("bandwidth_mbps", "bandwith_mbps", "unknown key 'providers.0.bandwith_mbps', did you mean 'bandwidth_mbps'?"),
        ("providers:", "provider:", "'providers'"),
        ("name: mine", "name: mine\nelement_byte: 2", "unknown key 'element_byte', did you mean 'element_bytes'?"),
        ("name: mine", "name: mine\nschema_version: 2", "'schema_version'"),
        ("name: mine", "name: mine\nelement_bytes: 3", "'element_bytes'"),
        (": 50", ": 0", "'providers.0.bandwidth_mbps': Input should be greater than"),
        (": 50", ": 1.0e-320", "'providers.0.bandwidth_mbps'"),
        (": 50", ": .nan", "'providers.0.bandwidth_mbps'"),
        (": 50", ": .inf", "'providers.0.bandwidth_mbps'"),
        (": 50", ": true", "'providers.0.bandwidth_mbps'"),
        (": 50", ": 50, io: {read: 1}", "unknown key 'providers.0.io.read', did you mean 'read_ms'?"),
        (": 50", ": 50, io: {read_ms: -1}", "'providers.0.io.read_ms'"),
        (": 50", ": 50, io: {write_ms_per_mb: .inf}", "'providers.0.io.write_ms_per_mb'"),
        (": 50", ": 50, io: 3", "'providers.0.io'"),
        (": 50", ": 50, trace: nowhere.csv", "there is no trace"),
        (": 50", ": 50, address: somewhere", "'providers.0.address'"),
        ("name: mine", "name: mine\nelement_bytes: true", "'element_bytes'"),
        ("name: mine", "name: mine\nname: other", "the key 'name' is given twice"),
        ("name: mine", "name: mine\nfolder: /", "unknown key 'folder'"),
        ("{name: a,", "{name: requester,", "no provider may be named 'requester'"),
        ("{name: a,", "{name: '..',", "'providers.0.name'"),
        (": 50", ": fast", "'providers.0.bandwidth_mbps'"),
        ("{name: a,", "{name: a b,", "'providers.0.name'"),
        ("{name: a,", "{", "'providers.0.name': Field required"),
        ("providers:\n", "providers:\n  - {name: a, profile: p, bandwidth_mbps: 1}\n", "two providers are named 'a'"),
        (VALID, "name: mine\nproviders: []\n", "'providers'"),
        (VALID, "", "expected a mapping"),
        (VALID, "- a\n- b\n", "expected a mapping"),
        ("providers:", "providers: [", "not valid YAML"),
        ("mine", "2026-99-99", "not valid YAML"),
        ("mine", "!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("mine", "[" * 5000, "not valid YAML"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in VALID
    assert says in refused(tmp_path, VALID.replace(old, new, 1))


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ScenarioError, match="not a text file"):
        load_scenario(path)


@given(text=st.text(), where=st.integers(0, len(VALID)))
@example(text='"a\\nb": 1\n', where=0)
def test_whatever_is_typed_into_a_file_it_loads_or_is_refused_in_one_line(
    text: str, where: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "typed.yaml"
    path.write_text(VALID[:where] + text + VALID[where:], encoding="utf-8")
    try:
        load_scenario(path)
    except ScenarioError as error:
        one_line(error)


def test_io_is_todays_unless_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(VALID)
    (provider,) = load_scenario(path).providers
    assert provider.io == load_scenario(path).requester.io == Io()
    assert (provider.io.reading_ms(2e6), provider.io.writing_ms(2e6)) == (0.0, 0.25)
    path.write_text(VALID.replace(": 50", ": 50, io: {read_ms: 1, read_ms_per_mb: 2, write_ms: 3, write_ms_per_mb: 4}"))
    (provider,) = load_scenario(path).providers
    assert (provider.io.reading_ms(2e6), provider.io.writing_ms(2e6)) == (1 + 2 * 2, 3 + 2 * 4)


FORMS = {
    "flow": VALID,
    "block": "providers:\n  - name: a   # one\n    bandwidth_mbps: 5  # ?\n    profile: jetson-nano\n# end\nname: m\n",
    "no newline at the end": "providers:\n- profile: jetson-nano\n  bandwidth_mbps: 50\n  name: a\nname: mine",
    "requester": "requester: {bandwidth_mbps: null}  # mine\n" + VALID,
    "block io": VALID + "requester:\n  io:\n    read_ms: 7   # long\n    write_ms: 8\n",
    "json": '{"name": "mine", "providers": [{"name": "a", "profile": "jetson-nano", "bandwidth_mbps": 50}]}',
    "windows": VALID.replace("\n", "\r\n"),
    "words of any script": "# \u00fcber \u4f60\u597d \U0001f600\n" + VALID,
}
FIGURES = {
    "a": {"bandwidth_mbps": 47.5, "io": {"read_ms": 1e-05, "write_ms": 0.5}},
    REQUESTER: {"io": {"read_ms": 0.25}},
}


@pytest.mark.parametrize("form", FORMS)
def test_figures_are_put_into_a_file_of_any_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(FORMS[form].encode())
    revise(path, FIGURES)
    scenario = load_scenario(path)
    (provider,) = scenario.providers
    assert (provider.name, provider.profile, provider.bandwidth_mbps) == ("a", "jetson-nano", 47.5)
    assert (provider.io.read_ms, provider.io.write_ms) == (1e-05, 0.5)
    assert scenario.requester.io.read_ms == 0.25
    text = path.read_bytes().decode()
    for line in FORMS[form].splitlines():
        _, hash_sign, comment = line.partition("#")
        assert hash_sign + comment in text
    revise(path, FIGURES)
    assert path.read_bytes().decode() == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("x: &x {name: a, profile: p, bandwidth_mbps: 1}\nproviders: [*x]\ny: *x\n", ["a"]),
        ("providers: [1]\n", ["a"]),
        (VALID, ["b"]),
        ("providers: {", ["a"]),
        ("", ["a"]),
    ],
)
def test_a_file_that_cannot_be_revised_is_left_alone(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        revise(path, {name: {"bandwidth_mbps": 2.0} for name in names})
    assert "by hand" in " ".join(one_line_of(caught.value).split())
    assert path.read_text() == text


def one_line_of(error: InputError) -> str:
    """What the command line prints of it."""
    assert error.exit_code == 2
    return " ".join(str(error).split())


def test_memory_is_the_providers_own_else_the_profiles(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "schema_version: 1\nname: two\nproviders:\n"
        "  - {name: a, profile: jetson-nano, bandwidth_mbps: 50}\n"
        "  - {name: b, profile: jetson-nano, bandwidth_mbps: 50, memory_mb: 50}\n"
    )
    assert load_scenario(file).memory_mb == (3900.0, 50.0)
    with pytest.raises(PlanError, match="on provider 'b', which has 50 MB"):
        plan(load_model("vgg16"), load_scenario(file), method="equal")
