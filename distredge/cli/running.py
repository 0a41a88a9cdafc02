"""`distredge provider`, `run`, `up`, `keys`: execute a plan on real devices or on processes of this machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distredge.cli import provider_command
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, progress_bar, table
from distredge.cli.planning import PlanFile, model_of, warn
from distredge.engine.base import FloatRows
from distredge.errors import InputError, VerificationError
from distredge.plans.plan import BoundPlan, Plan
from distredge.runtime.requester import FrameResult
from distredge.runtime.run import WIRES, RunOptions, RunReport, run_here, run_plan, wire_of
from distredge.scenario import NODE_NAME, REQUESTER, Scenario, load_scenario
from distredge.simulate import timeline
from distredge.simulate.memory import check_memory

if TYPE_CHECKING:
    from distredge.runtime.policy import Policy
    from distredge.runtime.requester import Requester

COMPUTED = "FP32"
"""In which providers compute: ONNX Runtime on a processor."""

MAX_DIFFERENCE = 1e-4
"""Of the outputs' largest absolute value: what a distributed result may differ from the undivided one in float32."""

ScenarioOption = Annotated[
    str | None, typer.Option("--scenario", "-s", metavar="SCENARIO", help="By default the plan's.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="The model, if the plan's is not in the zoo.")]
ImagesOption = Annotated[
    str,
    typer.Option(
        "--images", metavar="DIR|N", help="A folder of JPEG, PNG and NPY files, or so many shipped photographs."
    ),
]
Inflight = Annotated[int, typer.Option("--inflight", min=1, max=64, help="Images under way at a time.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare every result with the undivided model's.")]
WireOption = Annotated[
    Literal["float32", "float16", "int8"] | None,
    typer.Option("--wire", help="Precision on the wire; float32 with --verify, else the scenario's."),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="FILE", help="Record when every node did what: for `distredge trace` and ui.perfetto.dev."
    ),
]
ControllerOption = Annotated[
    str | None, typer.Option("--controller", metavar="URL", help="Tell a controller there, and do what it orders.")
]
TokenOption = Annotated[
    Path | None, typer.Option("--token", metavar="FILE", help="Holds a token of the role `device` for it.")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="Certificates by which it is known, besides the system's.")
]
NameOption = Annotated[str, typer.Option("--name", help="What this requester is called there.")]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of each provider's engine.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "provider",
        help=provider_command.SUMMARY,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(provider)
    app.command("run")(run)
    app.command("up")(up)
    app.command("keys")(keys)


def provider(context: typer.Context) -> None:
    """What `distredge provider` does if all commands have been loaded; its own module knows its options."""
    raise typer.Exit(provider_command.run(["provider", *context.args]))


def run(
    plan_file: PlanFile,
    scenario: ScenarioOption = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="NAME=HOST:PORT", help="Where a provider listens; else the scenario's address."),
    ] = None,
    images: ImagesOption = "10",
    inflight: Inflight = 1,
    verify: Verify = False,
    wire: WireOption = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys", metavar="DIR", help="Folder with the requester's key pair and the providers' public keys."
        ),
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where results come to; by default found out.")
    ] = None,
    threads: Threads = 1,
    hold: Annotated[
        bool,
        typer.Option("--hold", help="Hold each split-part for its profiled time, compute nothing; the links are real."),
    ] = False,
    keep_plan: Annotated[
        bool,
        typer.Option("--keep-plan", help="Change it only when a provider is lost; send as fast as the scenario says."),
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="AGENT", help="A file of `distredge pretrain`: it decides as links change."),
    ] = None,
    controller: ControllerOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    name: NameOption = REQUESTER,
    deadline_ms: Annotated[
        float | None, typer.Option("--deadline-ms", min=0.1, help="Images that take longer are counted there.")
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option("--log-format", help="Plain lines, or a JSON object a line, on stderr.")
    ] = "text",
    trace: TraceOption = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames", metavar="FILE", help="Write a JSON line for each image as soon as its result is there."
        ),
    ] = None,
    model: ModelOption = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Run a plan on providers that are already there; it goes on when some of them fail, or links change.

    Links are taken to be as the scenario says until the stream shows otherwise. Providers of the scenario that have no
    part in the plan step in when others are lost, if their addresses are known.

    Example: distredge run plan.json --at xavier-0=192.168.1.20:5701 --at nano-0=192.168.1.21:5701 --keys keys --verify
    """
    from distredge.logs import start_logging
    from distredge.runtime.images import load_images
    from distredge.runtime.keys import Keys

    if keep_plan and (policy or controller):
        raise InputError("--keep-plan leaves nothing to a policy or a controller: leave one of them out")
    if log_format == "json":
        start_logging("info", log_format)
    bound, chosen = _bound(plan_file, scenario, model)
    addresses = {p.name: p.address for p in chosen.providers if p.address} | dict(
        _address(item, chosen.provider_names) for item in at or []
    )
    options = RunOptions(
        inflight=inflight, verify=verify, wire=wire, threads=threads, hold=hold, paced=True, trace=trace,
        follow=not keep_plan, deadline_ms=deadline_ms, shown=controller is not None,
    )  # fmt: skip
    decider = _policy(policy, bound, chosen) if policy else None
    controlled = _controlled(controller, token, ca, name, chosen, policy)
    shown = load_images(_image_source(images), bound.graph)
    with progress_bar("running") as progress, frame_file(frames) as note:

        def tell(result: FrameResult) -> None:
            progress((result.index + 1) / len(shown), result.latency_ms)
            note(result)

        report = run_plan(
            bound, chosen, addresses, shown, options, keys=Keys.load(keys, REQUESTER) if keys else None, listen=listen,
            policy=decider, controlled=controlled, progress=tell,
        )  # fmt: skip
    _finish(as_json, bound, report_data(bound, chosen, report, options))
    _warn_of_precision(bound, chosen)


def up(
    plan_file: PlanFile,
    scenario: ScenarioOption = None,
    images: ImagesOption = "10",
    inflight: Inflight = 1,
    verify: Verify = False,
    wire: WireOption = None,
    emulate: Annotated[
        bool,
        typer.Option(
            "--emulate", help="Hold each split-part for its profiled time and shape each link to its bandwidth."
        ),
    ] = False,
    threads: Threads = 1,
    controller: ControllerOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    name: NameOption = REQUESTER,
    trace: TraceOption = None,
    model: ModelOption = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Start a plan's providers as processes of this machine and run it on them.

    With --emulate the providers stand in for the boards: times and rates are the scenario's, nothing is computed; with
    --verify as well, a first pass computes and compares, a second one is timed.

    Example: distredge up plan.json --verify --images 5
    """
    from distredge.runtime.images import load_images

    bound, chosen = _bound(plan_file, scenario, model)
    shown = load_images(_image_source(images), bound.graph)
    options = RunOptions(
        inflight=inflight, verify=verify, wire=wire, emulate=emulate, threads=threads, trace=trace,
        shown=controller is not None,
    )  # fmt: skip
    data = run_up(bound, chosen, shown, options, _controlled(controller, token, ca, name, chosen, None))
    _finish(as_json, bound, data)
    if not emulate:
        _warn_of_precision(bound, chosen)


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the keys are written.")],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Providers; the requester gets a key as well.")],
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Make a key pair for the requester and for each provider.

    Give every node the folder's public part, and of the private part its own file only.

    Example: distredge keys keys xavier-0 nano-0
    """
    from distredge.runtime.keys import create_keys

    wrong = [n for n in names if not re.fullmatch(NODE_NAME, n)]
    if wrong:
        raise InputError(f"'{wrong[0]}' cannot name a provider: use letters, digits, '.', '_' and '-'")
    made = [REQUESTER, *(n for n in names if n != REQUESTER)]
    taken = [n for n in made if (folder / "private" / f"{n}.key_secret").exists()]
    if taken:
        raise InputError(f"'{folder}' already holds a key of '{taken[0]}': remove it first, or choose another folder")
    create_keys(folder, made)
    emit(
        as_json,
        {"folder": str(folder), "names": made},
        lambda: console.print(f"wrote keys of {', '.join(made)} to {folder}"),
    )


@contextmanager
def frame_file(path: Path | None) -> Iterator[Callable[[FrameResult], None]]:
    """Notes each result as a line of JSON in a file, at once; without a file it notes nothing."""
    if path is None:
        yield lambda result: None
        return
    with path.open("w", buffering=1) as file:

        def note(result: FrameResult) -> None:
            line = {"index": result.index, "epoch": result.epoch, "latency_ms": result.latency_ms, "t_s": result.done_s}
            file.write(json.dumps(line) + "\n")

        yield note


def run_up(
    bound: BoundPlan,
    scenario: Scenario,
    images: Sequence[FloatRows],
    options: RunOptions,
    controlled: Callable[[Requester], AbstractContextManager[object]] = lambda requester: nullcontext(),
) -> dict[str, object]:
    """What `up` reports; with `emulate` and `verify`, a computing pass gives the difference, an emulated the rest.

    The last pass is `controlled`.
    """

    def one_pass(title: str, chosen: RunOptions, tied: bool = True) -> dict[str, object]:
        with progress_bar(title) as progress:

            def tell(result: FrameResult) -> None:
                progress((result.index + 1) / len(images), result.latency_ms)

            tie = controlled if tied else lambda requester: nullcontext()
            report = run_here(bound, scenario, images, chosen, controlled=tie, progress=tell)
            return report_data(bound, scenario, report, chosen)

    if not (options.emulate and options.verify):
        return one_pass("running", options)
    verified = one_pass("verifying", replace(options, emulate=False, trace=None), tied=False)
    timed = one_pass("timing", replace(options, verify=False))
    return {**timed, "max_abs_diff": verified["max_abs_diff"], "verified_wire": verified["wire"]}


def report_data(bound: BoundPlan, scenario: Scenario, report: RunReport, options: RunOptions) -> dict[str, object]:
    """A report as JSON-ready data; for an emulated run with what the simulator predicts for the same wire."""
    wire = wire_of(options, scenario)
    data: dict[str, object] = {**asdict(report), "wire": wire, "emulated": options.emulate or options.hold}
    if options.emulate or options.hold:
        predicted = timeline.trace(bound, scenario, element_bytes=WIRES[wire]).latency_ms
        data["predicted_ms"] = predicted
        data["prediction_error"] = (predicted - report.latency_ms.p50) / report.latency_ms.p50
    return data


def _policy(path: Path, bound: BoundPlan, scenario: Scenario) -> Policy:
    from distredge.agents.moving.file import load_agent
    from distredge.runtime.policy import Policy

    return Policy(load_agent(path), bound.graph, scenario)


def _controlled(
    url: str | None, token: Path | None, ca: Path | None, name: str, scenario: Scenario, policy: Path | None
) -> Callable[[Requester], AbstractContextManager[object]]:
    """What ties a stream to a controller, if there is one."""
    if url is None:
        if token or ca:
            raise InputError("--token and --ca are for a controller: say where it is with --controller")
        return lambda requester: nullcontext()
    if not re.fullmatch(NODE_NAME, name):
        raise InputError(f"'{name}' cannot name a requester: use letters, digits, '.', '_' and '-'")
    from distredge.control.client import Api
    from distredge.runtime.controlled import Controlled, upload_policy, upload_profiles

    api = Api(url, token, ca)
    upload_profiles(api, scenario)
    sha256 = upload_policy(api, policy) if policy else None
    return lambda requester: Controlled(api, requester, name, scenario, sha256)


def _bound(plan_file: Path, scenario: str | None, model: str | None) -> tuple[BoundPlan, Scenario]:
    made = Plan.load(plan_file)
    chosen = load_scenario(scenario or made.scenario)
    bound = made.bind(model_of(made, model))
    missing = [n for n in made.providers if n not in chosen.provider_names]
    if missing:
        raise InputError(
            f"the plan's provider '{missing[0]}' is not in scenario '{chosen.name}':"
            " name the plan's own with --scenario"
        )
    check_memory(bound, chosen)
    warn(chosen, bound.graph)
    return bound, chosen


def _warn_of_precision(bound: BoundPlan, scenario: Scenario) -> None:
    """Providers compute in FP32; a prediction for another precision is not to be compared with what they take."""
    used = [
        p for name, p in zip(scenario.provider_names, scenario.profiles, strict=True) if name in bound.plan.providers
    ]
    others = sorted({f"{p.name} ({p.precision})" for p in used if p.precision != COMPUTED})
    if others:
        errors.print(
            f"warning: these providers compute in {COMPUTED}, the prediction is for {', '.join(others)}:"
            " measured and predicted times are not comparable"
        )


def _address(item: str, known: Sequence[str]) -> tuple[str, str]:
    name, _, address = item.partition("=")
    if name not in known or not address:
        raise InputError(f"--at '{item}': give NAME=HOST:PORT, NAME one of {', '.join(known)}")
    return name, address


def _image_source(text: str) -> Path | int:
    return int(text) if text.isdecimal() else Path(text)


def check_difference(data: dict[str, object]) -> None:
    """Raise `VerificationError` if a verified run's result is not the undivided model's.

    Over a coarser wire than float32 only a result that is none is refused: the difference is that wire's price.
    """
    difference = data["max_abs_diff"]
    if not isinstance(difference, float):
        return
    if not math.isfinite(difference):
        raise VerificationError("the distributed result has another shape than the undivided model's, or is no number")
    if data.get("verified_wire", data["wire"]) == "float32" and difference > MAX_DIFFERENCE:
        raise VerificationError(
            f"the distributed result differs from the undivided model's by {difference:.2e} of its scale,"
            f" {MAX_DIFFERENCE:.0e} are allowed"
        )


def _finish(as_json: bool, bound: BoundPlan, data: dict[str, object]) -> None:
    difference = data["max_abs_diff"]
    if not isinstance(difference, float) or math.isfinite(difference):  # JSON has no infinity
        emit(as_json, data, lambda: _show(bound, data))
    check_difference(data)


def _show(bound: BoundPlan, data: dict[str, object]) -> None:
    per_provider, latency = data["per_provider"], data["latency_ms"]
    assert isinstance(per_provider, dict)
    assert isinstance(latency, dict)
    rows = [
        [name, t["rows"], t["compute_ms"], t["bytes_in"] / 1000, t["bytes_out"] / 1000]
        for name, t in per_provider.items()
    ]
    title = f"{bound.graph.name} by {bound.plan.method} on {len(per_provider)} providers, an image"
    table(title, ["provider", "rows", "compute ms", "kB in", "kB out"], rows)
    console.print(
        f"{data['images']} images, {data['ips']:.2f} a second; latency p50 {latency['p50']:.2f},"
        f" p90 {latency['p90']:.2f}, p99 {latency['p99']:.2f} ms; {data['wire']} on the wire"
    )
    if "predicted_ms" in data:
        console.print(
            f"predicted {data['predicted_ms']:.2f} ms, {100 * _number(data['prediction_error']):+.1f} % from the"
            " measured p50 (emulated: board times are held, links shaped)"
        )
    epochs = data["epochs"]
    assert isinstance(epochs, tuple)
    if len(epochs) > 1:
        changes = [[e.first_image, e.reason, ", ".join(e.providers)] for e in epochs]
        table("plans", ["from image", "because", "providers"], changes)
        console.print(f"the longest pause between two results was {_number(data['longest_pause_ms']):.0f} ms")
    if data["max_abs_diff"] is not None:
        console.print(
            f"largest difference from the undivided model: {_number(data['max_abs_diff']):.2e} of its output's scale"
        )


def _number(value: object) -> float:
    assert isinstance(value, float)
    return value
