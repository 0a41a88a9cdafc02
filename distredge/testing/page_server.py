"""A stand-in for the controller, for tests and screenshots of its page: no controller runs behind it.

It serves the page's folder and answers the interface with values that are made up, but not the figures in them: plans
are those of the planners, latencies and timelines the simulator's under conditions that change as a story tells.

    python -m distredge.testing.page_server --port 8080
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from distredge.control.schema import Event, Orders, Overview, Role, StreamView
from distredge.testing.page_story import full_story, tick

WEB = Path(__file__).resolve().parent.parent / "controller" / "web"

CONTENT_SECURITY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass
class World:
    """What the stand-in answers; tests change it while it serves.

    Without `tokens` everybody has `role`. `posts` are the operators' orders that came: stream, action, reason.
    `refusal` is what orders are refused with (409).
    """

    overview: Overview
    views: dict[str, StreamView] = field(default_factory=dict)
    role: Role = "operator"
    tokens: dict[str, Role] = field(default_factory=dict)
    posts: list[tuple[str, str, str]] = field(default_factory=list)
    refusal: str | None = None

    def show(self, overview: Overview, *views: StreamView) -> None:
        """Answer this from now on."""
        self.overview, self.views = overview, {view.summary.stream: view for view in views}

    def tick(self) -> None:
        """Let a second pass in all streams."""
        now_s = self.overview.now_s + 1.0
        views = [tick(view, now_s) for view in self.views.values()]
        devices = tuple(
            d if d.health == "down" else d.model_copy(update={"heard_s": now_s - 0.4}) for d in self.overview.devices
        )
        streams = tuple(view.summary for view in views)
        self.show(self.overview.model_copy(update={"now_s": now_s, "devices": devices, "streams": streams}), *views)

    def happens(self, stream: str, kind: str, reason: str, node: str | None = None) -> None:
        """An event more."""
        view = self.views[stream]
        at = max((event.id for event in view.events), default=0) + 1
        event = Event(id=at, at_s=self.overview.now_s, kind=kind, stream=stream, node=node, reason=reason, data={})
        self.views[stream] = view.model_copy(update={"events": (*view.events, event)})

    def order(self, stream: str, action: str, reason: str) -> Orders:
        """Do as an operator says."""
        self.posts.append((stream, action, reason))
        view = self.views[stream]
        before = view.summary.orders
        orders = before.model_copy(
            update={
                "version": before.version + 1,
                "plan_sha256": view.summary.plan_sha256,
                "pinned": action == "pin",
                "reason": reason,
            }
        )
        summary = view.summary.model_copy(update={"orders": orders})
        self.views[stream] = view.model_copy(update={"summary": summary})
        streams = tuple(summary if s.stream == stream else s for s in self.overview.streams)
        self.overview = self.overview.model_copy(update={"streams": streams})
        kinds = {"pin": "pinned", "unpin": "unpinned", "rollback": "operator_rolled_back"}
        self.happens(stream, kinds[action], reason)
        return orders


def full_world(seed: int = 0) -> World:
    """Two streams, one of which has a past with drift, re-plans and a roll-back."""
    overview, views = full_story(seed)
    return World(overview, {view.summary.stream: view for view in views})


class Reason(BaseModel):
    """The body of an order."""

    reason: str = Field(min_length=1, max_length=500)


def _world(request: Request) -> World:
    world: World = request.app.state.world
    return world


def _role(world: Annotated[World, Depends(_world)], authorization: Annotated[str, Header()] = "") -> Role:
    if not world.tokens:
        return world.role
    known = world.tokens.get(authorization.removeprefix("Bearer "))
    if known is None:
        raise HTTPException(401, "unknown token" if authorization else "a token is needed")
    return known


def _view(stream: str, world: Annotated[World, Depends(_world)]) -> StreamView:
    if stream not in world.views:
        raise HTTPException(404, f"there is no stream '{stream}'")
    return world.views[stream]


_Asked = Annotated[World, Depends(_world)]
_Asking = Annotated[Role, Depends(_role)]


def stand_in(world: World) -> FastAPI:
    """The application."""
    app = FastAPI(title="stand-in for the controller", docs_url=None, redoc_url=None)
    app.state.world = world

    @app.get("/v1/overview")
    def overview(world: _Asked, asking: _Asking) -> Overview:
        return world.overview.model_copy(update={"role": asking})

    @app.get("/v1/streams/{stream}", dependencies=[Depends(_role)])
    def stream_view(view: Annotated[StreamView, Depends(_view)]) -> StreamView:
        return view

    @app.post("/v1/streams/{stream}/{action}", dependencies=[Depends(_view)])
    def order(stream: str, action: str, reason: Reason, world: _Asked, asking: _Asking) -> Orders:
        if asking != "operator":
            raise HTTPException(403, "operators only")
        if world.refusal:
            raise HTTPException(409, world.refusal)
        return world.order(stream, action, reason.reason)

    _serve_page(app)
    return app


def _serve_page(app: FastAPI) -> None:
    """The files, with the same rule about what they may load as the controller gives."""

    @app.middleware("http")
    async def rule(request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB))


@contextmanager
def serving(world: World, port: int = 0) -> Iterator[str]:
    """Serve on loopback while the block runs; gives the page's address. Raises `OSError` if the port is taken."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(stand_in(world), log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def main(port: int = 8080, seed: int = 0, tokens: bool = False) -> None:
    """Serve until interrupted; with `--tokens` only those who have one of three."""
    world = full_world(seed)
    if tokens:
        world.tokens = {secrets.token_urlsafe(8): role for role in ("operator", "device", "reader")}
        typer.echo(f"tokens: {world.tokens}")
    with serving(world, port) as address:
        typer.echo(f"a stand-in for the controller: {address}")
        while True:
            time.sleep(1.0)
            world.tick()


if __name__ == "__main__":
    typer.run(main)
