"""Plans: written, read, checked against model, scenario and memory; the schema that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from distredge.errors import ModelError, PlanError
from distredge.geometry.interval import Interval
from distredge.model.graph import IMAGE, LayerGraph
from distredge.model.load import load_model
from distredge.plans.plan import SCHEMA_FILE, ModelRef, Plan, VolumePlan, schema
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.memory import check_memory, memory_mb
from distredge.testing.branchy_models import branchy_model
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import ToyModel, chain, save_model


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path))


def plan_for(graph: LayerGraph, **changes: object) -> Plan:
    height = graph.layers[-1].height
    values: dict[str, object] = {
        "method": "test",
        "model": ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape),
        "scenario": "toy",
        "providers": ("d0", "d1"),
        "volumes": (VolumePlan(layers=graph.names(0, len(graph.layers)), cuts=(0, 1, height)),),
        "head_provider": "d1",
    }
    return Plan.model_validate({**values, **changes})


def test_a_saved_plan_is_the_plan(graph: LayerGraph, tmp_path: Path) -> None:
    plan = plan_for(graph)
    plan.save(tmp_path / "deep" / "plan.json")
    assert Plan.load(tmp_path / "deep" / "plan.json") == plan
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["plan.json"]


def test_the_shipped_schema_is_the_plans_and_accepts_it(graph: LayerGraph) -> None:
    shipped = json.loads(SCHEMA_FILE.read_text())
    assert shipped == schema(), "run: python -m distredge.plans.plan"
    jsonschema.validate(json.loads(plan_for(graph).model_dump_json()), shipped)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema_version": 2}, shipped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": ({"layers": ("a",), "cuts": (0, 3, 2)},)}, "not decrease"),
        ({"volumes": ({"layers": ("a",), "cuts": (1, 2, 3)},)}, "begin with 0"),
        ({"volumes": ({"layers": ("a",), "cuts": (0, 3)},)}, "2 providers need 3"),
        ({"providers": ("d0", "d0")}, "named twice"),
        ({"head_provider": "d9"}, "none of the providers"),
        ({"volume": ()}, "did you mean 'volumes'"),
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": True}, "schema_version"),
        ({"seed": -1}, "seed"),
        ({"method": ""}, "method"),
        ({"volumes": ({"layers": ("a",), "cuts": (0, True, 3)},)}, "cuts"),
        ({"volumes": ({"layers": ("a",), "cuts": (0, "2", 3)},)}, "cuts"),
        ({"volumes": ({"layers": ("a",), "cuts": (0, 2.5, 3)},)}, "cuts"),
    ],
)
def test_a_malformed_plan_is_refused_in_one_line(
    graph: LayerGraph, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    data = {**json.loads(plan_for(graph).model_dump_json()), **change}
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=message) as caught:
        Plan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_file_that_is_no_plan_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError) as caught:
        Plan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match="No such file"):
        Plan.load(tmp_path / "absent.json")


def test_a_plan_fits_its_model_only(graph: LayerGraph) -> None:
    names, height = graph.names(0, len(graph.layers)), graph.layers[-1].height
    other = ModelRef(name="other", sha256="0" * 64, input_shape=graph.input_shape)
    with pytest.raises(PlanError, match="was made for 'other'"):
        plan_for(graph, model=other).bind(graph)
    smaller = ModelRef(name=graph.name, sha256=graph.sha256, input_shape=(1, 3, 16, 16))
    with pytest.raises(PlanError, match="images of the shape"):
        plan_for(graph, model=smaller).bind(graph)
    with pytest.raises(PlanError, match="does not continue"):
        plan_for(graph, volumes=(VolumePlan(layers=names[1:], cuts=(0, 1, height)),)).bind(graph)
    with pytest.raises(PlanError, match="ends before layer"):
        plan_for(graph, volumes=(VolumePlan(layers=names[:1], cuts=(0, 1, graph.layers[0].height)),)).bind(graph)
    with pytest.raises(PlanError, match=f"must end with its height {height}"):
        plan_for(graph, volumes=(VolumePlan(layers=names, cuts=(0, 1, height + 1)),)).bind(graph)


def test_a_volume_may_not_begin_inside_a_residual_block() -> None:
    graph = load_model("resnet50")
    inside = next(i for i in range(1, len(graph.layers)) if i not in graph.cut_points)
    names = graph.names(0, len(graph.layers))
    volumes = (
        VolumePlan(layers=names[:inside], cuts=(0, 1, graph.layers[inside - 1].height)),
        VolumePlan(layers=names[inside:], cuts=(0, 1, 7)),
    )
    with pytest.raises(PlanError, match="more than one tensor crosses"):
        plan_for(graph, volumes=volumes).bind(graph)
    with pytest.raises(ModelError, match="cannot be partitioned"):
        PartitionScheme(graph, (0, inside))


def test_rows_of_each_provider(graph: LayerGraph) -> None:
    bound = plan_for(graph).bind(graph)
    height = graph.layers[-1].height
    assert bound.owned(0, 0) == Interval(0, 1)
    assert bound.owned(0, 1) == Interval(1, height)
    assert [*bound.needs(0, 0)] == [*bound.needs(0, 1)] == [IMAGE]
    assert bound.needs(0, 0)[IMAGE].start == 0
    assert bound.needs(0, 1)[IMAGE].stop == graph.input_shape[2]
    empty = plan_for(graph, volumes=(VolumePlan(layers=graph.names(0, len(graph.layers)), cuts=(0, 0, height)),)).bind(
        graph
    )
    assert empty.needs(0, 0) == {}
    assert empty.part(0, 0) is None
    # The volume after the last is the head, which gets all rows of what it reads.
    last = len(graph.layers) - 1
    assert bound.needs(1, 0) == {}
    assert bound.needs(1, 1) == {last: Interval(0, height)}
    assert bound.held(last, 1) == Interval(1, height)


def test_a_volume_may_begin_where_several_tensors_cross(tmp_path: Path) -> None:
    graph = load_model(save_model(branchy_model(np.random.default_rng(0)), tmp_path))
    point = next(p for p in graph.cut_points if len(graph.crossing(p)) > 1)
    names, before, height = graph.names(0, len(graph.layers)), graph.layers[point - 1].height, graph.layers[-1].height
    volumes = (
        VolumePlan(layers=names[:point], cuts=(0, 2, before)),
        VolumePlan(layers=names[point:], cuts=(0, height, height)),
    )
    bound = plan_for(graph, volumes=volumes).bind(graph)
    assert [*bound.needs(1, 0)] == [i for i in graph.crossing(point)]
    assert bound.needs(1, 1) == {}
    for i in graph.crossing(point):
        assert bound.volume_of(i) == (0 if i != IMAGE else -1)
        assert bound.needs(1, 0)[i] == Interval(0, graph.shape(i)[1])
    for i in graph.to_head | graph.to_requester:
        held = [bound.held(i, j) for j in range(2)]
        assert held[0].start == 0 and held[0].stop == held[1].start and held[1].stop == graph.shape(i)[1]
    assert bound.needs(2, 1) == {i: Interval(0, graph.shape(i)[1]) for i in sorted(graph.to_head)}


def test_a_plan_that_does_not_fit_memory_is_refused(graph: LayerGraph) -> None:
    bound = plan_for(graph).bind(graph)
    roomy = toy_scenario([ToyProfile("a", 0.1, 0.1)] * 2, [10.0, 10.0])
    check_memory(bound, roomy)
    asked = memory_mb(bound, "d1")
    assert asked >= graph.params * 4 / 1e6  # every weight, and the head's
    tight = roomy.model_copy(
        update={"providers": tuple(p.model_copy(update={"memory_mb": asked * 0.99}) for p in roomy.providers)}
    )
    with pytest.raises(PlanError, match="MB on provider 'd1'"):
        check_memory(bound, tight)


def test_memory_of_vgg16_by_hand() -> None:
    """Offloaded: 138,357,544 weights, and conv1_2's input and output, 2 x 64 x 224 x 224 elements; 4 bytes each."""
    graph = load_model("vgg16")
    volume = VolumePlan(layers=graph.names(0, len(graph.layers)), cuts=(0, 7))
    bound = plan_for(graph, providers=("d0",), head_provider="d0", volumes=(volume,)).bind(graph)
    entering, made = 3 * 224 * 224, 64 * 224 * 224
    assert memory_mb(bound, "d0") == pytest.approx((138_357_544 + max(2 * made, entering + made)) * 4 / 1e6)


def test_what_a_later_volume_reads_is_held_meanwhile(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(0), 1, 8, 8)
    early = toy.conv(toy.image, 20, pads=(1, 1, 1, 1), name="early")
    wide = toy.conv(early, 16, pads=(1, 1, 1, 1), name="wide")
    narrow = toy.conv(wide, 2, pads=(1, 1, 1, 1), name="narrow")
    wide = toy.conv(narrow, 16, pads=(1, 1, 1, 1), name="again")
    graph = load_model(save_model(toy.finish(toy.concat([wide, early], name="join")), tmp_path))
    assert graph.cut_points == (0, 1, 3)
    names = [graph.names(a, b) for a, b in ((0, 1), (1, 3), (3, 5))]
    volumes = tuple(VolumePlan(layers=layers, cuts=(0, 8)) for layers in names)
    model = ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape)
    plan = Plan(method="test", model=model, scenario="toy", providers=("d0",), volumes=volumes, head_provider="d0")
    # most at `wide`, since the second volume reads `early` and keeps it; then at `join`
    peak = max(20 + (20 + 16), 16 + 36) * 64
    assert memory_mb(plan.bind(graph), "d0") == pytest.approx((graph.params + peak) * 4 / 1e6)
