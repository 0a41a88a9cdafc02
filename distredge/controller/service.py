"""The controller's HTTP interface: each call is one method of `Core` or `Decider`. Errors are one line, `detail`.

Who may ask, and how much, is decided before: `limits.Gate`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from distredge import __version__
from distredge.config import Frozen
from distredge.control.schema import (
    Beat,
    Decision,
    DecisionRequest,
    DeviceView,
    Event,
    Orders,
    Overview,
    Registration,
    StreamOpened,
    StreamOpening,
    StreamSummary,
    StreamView,
    Telemetry,
    Text,
)
from distredge.controller.auth import needed_roles
from distredge.controller.core import Conflict, Core, NotKnown
from distredge.controller.decisions import Decider
from distredge.controller.library import MAX_NAME
from distredge.controller.metrics import CONTENT_TYPE, Metrics
from distredge.controller.policies import Policies
from distredge.controller.store import PolicyEntry, StoreError
from distredge.controller.strict import StrictRoute, first_problem
from distredge.errors import InputError
from distredge.plans.nodes import NODE_NAME
from distredge.plans.plan import Plan
from distredge.scenario import Scenario

WEB = Path(__file__).with_name("web")

YAML_CHARACTERS = 64 * 1024
"""Of a profile; reading that takes half a second, and JSON a thousandth of that."""

log = logging.getLogger(__name__)

Named = Annotated[str, InPath(pattern=NODE_NAME, max_length=MAX_NAME)]
Stream = Annotated[str, InPath(pattern=NODE_NAME, max_length=100)]
Hash = Annotated[str, InPath(pattern=r"^[0-9a-f]{64}$")]


class Problem(Frozen):
    """What is wrong, and what to do about it."""

    detail: str


class Health(Frozen):
    """The controller serves."""

    status: str
    version: str


class Stored(Frozen):
    """By which hash something is known here."""

    sha256: str


class Why(Frozen):
    """Why an operator intervenes."""

    reason: Text = ""


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": said}
    for code, said in {
        400: "The call is malformed, or meant for another host.",
        401: "A token is needed.",
        403: "The token's role may not do this.",
        404: "There is no such thing here.",
        409: "It does not fit what has happened already.",
        413: "The body is too large.",
        415: "The body is of another kind.",
        422: "A value is wrong.",
        503: "It cannot be stored now; the same may be tried again.",
    }.items()
}


def make_app(core: Core, policies: Policies, metrics: Metrics) -> FastAPI:
    """The application, without what stands before it (`limits.Gate`)."""
    app = FastAPI(
        title="DistrEdge controller", version=__version__, docs_url=None, redoc_url=None, responses=PROBLEMS,
        description="Devices, streams, plans, policies and split decisions. Errors are one line in `detail`.",
        redirect_slashes=False,
    )  # fmt: skip
    app.router.route_class = StrictRoute
    _handle_errors(app)
    _decisions(app, policies.decider, metrics)
    _devices(app, core)
    _streams(app, core, metrics)
    _stored(app, core, policies)
    _described(app, core)
    _looks(app, core, metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _handle_errors(app: FastAPI) -> None:
    def answer(status: int, detail: object, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"detail": " ".join(str(detail).split())[:1000]}, status, headers)

    @app.exception_handler(NotKnown)
    async def unknown(request: Request, exc: NotKnown) -> JSONResponse:
        return answer(404, exc)

    @app.exception_handler(Conflict)
    async def conflicting(request: Request, exc: Conflict) -> JSONResponse:
        return answer(409, exc)

    @app.exception_handler(InputError)
    async def wrong(request: Request, exc: InputError) -> JSONResponse:
        return answer(422, exc)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        return answer(422, first_problem(exc.errors()))

    @app.exception_handler(StoreError)
    async def unstored(request: Request, exc: StoreError) -> JSONResponse:
        log.error("%s", exc)
        return answer(503, exc, {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> JSONResponse:
        if exc.status_code != 405:
            return answer(exc.status_code, exc.detail, exc.headers)
        allowed = _methods(app, request.scope["path"])
        return answer(405, f"{request.method[:20]} is not possible here, but {allowed} is", {"Allow": allowed})

    @app.exception_handler(Exception)
    async def failed(request: Request, exc: Exception) -> JSONResponse:  # uvicorn logs it
        return answer(500, "the controller failed to answer; its log says why")


def _methods(app: FastAPI, path: str) -> str:
    """What can be done at a path; Starlette names the methods of the first route alone."""
    routes = (r for r in app.routes if isinstance(r, APIRoute) and r.path_regex.match(path))
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


def _decisions(app: FastAPI, decider: Decider, metrics: Metrics) -> None:
    @app.post("/v1/decisions", response_model=Decision, tags=["decisions"], summary="Decide cuts for conditions")
    async def decide(request: DecisionRequest) -> Response:
        """Cuts of one volume or of a whole plan, by the policy that is known for the model and the scenario."""
        with metrics.deciding():
            decision = decider.decide(request)
        return Response(decision.model_dump_json(), media_type="application/json")


def _devices(app: FastAPI, core: Core) -> None:
    @app.put("/v1/devices/{name}", tags=["devices"], summary="Register a provider")
    def register(name: Named, registration: Registration) -> DeviceView:
        return core.register_device(name, registration)

    @app.post("/v1/devices/{name}/beat", status_code=204, tags=["devices"], summary="Give a sign of life")
    def beat(name: Named, beat: Beat) -> None:
        core.beat(name, beat)

    @app.get("/v1/devices", tags=["devices"], summary="All that are registered")
    def devices() -> tuple[DeviceView, ...]:
        return core.devices()

    @app.delete("/v1/devices/{name}", status_code=204, tags=["devices"], summary="Forget a provider")
    def remove(name: Named) -> None:
        core.remove_device(name)


def _streams(app: FastAPI, core: Core, metrics: Metrics) -> None:
    @app.post("/v1/streams", tags=["streams"], summary="Begin a stream")
    def open_stream(opening: StreamOpening) -> StreamOpened:
        return core.open_stream(opening)

    @app.post("/v1/streams/{stream}/telemetry", tags=["streams"], summary="Tell what was seen, get orders")
    def tell(stream: Stream, telemetry: Telemetry) -> Orders:
        orders = core.take_telemetry(stream, telemetry)
        metrics.told(stream, telemetry)
        return orders

    @app.delete("/v1/streams/{stream}", status_code=204, tags=["streams"], summary="End a stream")
    def close(stream: Stream) -> None:
        core.close_stream(stream)

    @app.get("/v1/streams", tags=["streams"], summary="Streams, the newest first")
    def streams() -> tuple[StreamSummary, ...]:
        return core.streams()

    @app.get("/v1/streams/{stream}", tags=["streams"], summary="All that is known of a stream")
    def view(stream: Stream) -> StreamView:
        return core.stream_view(stream)

    orders: dict[str, tuple[str, Callable[[str, str], Orders]]] = {
        "pin": ("Keep the plan in force", core.pin),
        "unpin": ("Let plans change again", core.unpin),
        "rollback": ("Go back to the plan before", core.roll_back),
    }
    for word, (said, act) in orders.items():
        app.post(f"/v1/streams/{{stream}}/{word}", tags=["streams"], summary=said, name=word)(_order(act))


def _order(act: Callable[[str, str], Orders]) -> Callable[..., Orders]:
    def order(stream: Stream, why: Why) -> Orders:
        return act(stream, why.reason)

    return order


def _stored(app: FastAPI, core: Core, kept: Policies) -> None:
    @app.put("/v1/plans", tags=["stored"], summary="Store a plan")
    def add_plan(plan: Plan) -> Stored:
        return Stored(sha256=core.add_plan(plan))

    @app.get("/v1/plans/{sha256}", tags=["stored"], summary="A stored plan")
    def plan(sha256: Hash) -> Plan:
        return core.plan(sha256)

    binary = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

    @app.put(
        "/v1/policies", tags=["stored"], summary="Store a policy",
        openapi_extra={"requestBody": {"required": True, **binary}},
    )  # fmt: skip
    async def add_policy(request: Request) -> PolicyEntry:
        """The content of a file that `distredge pretrain` or `distredge train` has written."""
        blob = await request.body()
        return await run_in_threadpool(kept.add, blob)

    @app.get("/v1/policies", tags=["stored"], summary="The stored policies")
    def policies() -> tuple[PolicyEntry, ...]:
        return core.policies()

    @app.get(
        "/v1/policies/{sha256}", tags=["stored"], summary="A policy's file", response_class=Response,
        responses={200: {**binary, "description": "The file."}},
    )  # fmt: skip
    def policy(sha256: Hash) -> Response:
        return Response(core.policy(sha256), media_type="application/octet-stream")


def _described(app: FastAPI, core: Core) -> None:
    text = {"application/json": {"schema": {}}, "application/yaml": {"schema": {"type": "string"}}}

    @app.put(
        "/v1/profiles/{name}", status_code=204, tags=["stored"], summary="Store a device's profile",
        openapi_extra={"requestBody": {"required": True, "content": text}},
    )  # fmt: skip
    async def add_profile(name: Named, request: Request) -> None:
        """The content of a profile's file: JSON of a measured table, or YAML of a calibrated board."""
        try:
            content = (await request.body()).decode()
        except UnicodeDecodeError:
            raise InputError("the profile is no text: send the content of its file") from None
        if len(content) > YAML_CHARACTERS and not content.lstrip().startswith("{"):
            raise HTTPException(413, f"a profile of more than {YAML_CHARACTERS} characters must be JSON")
        await run_in_threadpool(core.add_profile, name, content)

    @app.get("/v1/profiles", tags=["stored"], summary="Names of the stored profiles")
    def profiles() -> tuple[str, ...]:
        return core.profiles()

    @app.get(
        "/v1/profiles/{name}", tags=["stored"], summary="A stored profile", response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Its file."}},
    )  # fmt: skip
    def profile(name: Named) -> Response:
        return Response(core.profile(name), media_type="text/plain; charset=utf-8")

    @app.put("/v1/scenarios/{name}", status_code=204, tags=["stored"], summary="Store a scenario")
    def add_scenario(name: Named, scenario: Scenario) -> None:
        core.add_scenario(name, scenario)

    @app.get("/v1/scenarios", tags=["stored"], summary="Names of the stored scenarios")
    def scenarios() -> tuple[str, ...]:
        return core.scenarios()

    @app.get("/v1/scenarios/{name}", tags=["stored"], summary="A stored scenario")
    def scenario(name: Named) -> Scenario:
        return core.scenario(name)


def _looks(app: FastAPI, core: Core, metrics: Metrics) -> None:
    @app.get("/v1/health", tags=["looking"], summary="Whether it serves")
    async def health() -> Health:
        return Health(status="ok", version=__version__)

    @app.get("/v1/overview", tags=["looking"], summary="Devices and streams at a glance")
    def overview(request: Request) -> Overview:
        return core.overview(request.scope["state"]["role"])

    @app.get("/v1/events", tags=["looking"], summary="What has happened, and why")
    def events(
        stream: Annotated[str | None, Query(max_length=200)] = None,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> tuple[Event, ...]:
        """Oldest first, behind the event `after`; with `after` 0 the newest `limit`."""
        return core.events(stream, after, limit)

    @app.get(
        "/metrics", tags=["looking"], summary="For Prometheus", response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Its text format."}},
    )  # fmt: skip
    def scraped() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB), name="web")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with what each call's token must allow."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, calls in made["paths"].items():
            for method, call in calls.items():
                roles = needed_roles(method.upper(), re.sub(r"\{\w+\}", "x", path))
                call["security"] = [{"token": []}] if roles else []
                if roles:
                    call["description"] = f"{call.get('description', '')}\n\nFor: {', '.join(sorted(roles))}.".strip()
        app.openapi_schema = made
    return app.openapi_schema
