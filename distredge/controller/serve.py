"""`distredge controller`: opens the state file, starts what runs in the background, and serves until interrupted."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import uvicorn

from distredge.controller.auth import Auth
from distredge.controller.core import Core
from distredge.controller.decisions import Decider
from distredge.controller.limits import CONNECTIONS, Connection, Gate
from distredge.controller.metrics import Metrics
from distredge.controller.models import Models
from distredge.controller.policies import Policies
from distredge.controller.replanning import BackgroundReplanner
from distredge.controller.service import make_app
from distredge.controller.store import Store
from distredge.errors import DistrEdgeError, InputError
from distredge.runtime.transport import is_loopback, parse_address

TICK_S = 0.5

GRACE_S = 3
"""That requests which are being answered have when the controller ends."""

BACKLOG = 1024

SWITCH_S = 0.0005
"""A call waits so long at most for the thread that ticks to let go of the interpreter."""

SWITCH_S = 0.0005
"""After which a thread that computes lets the one that answers requests go first; Python's usual 5 ms are many."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How the controller is started."""

    listen: str
    """HOST:PORT; port 0 is any free one."""
    state: Path
    models: Path | None = None
    """Folder of .onnx files, for models that the zoo has not."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    host_names: tuple[str, ...] = ()
    """By which it may be called besides this machine's name and its addresses."""


def serve(settings: Settings, started: Callable[[str, bool], None]) -> None:
    """Serve until SIGINT or SIGTERM. `started` is told the URL, and whether everybody may do everything.

    Raises `InputError` for an address, a certificate or a state file that cannot be used, and for an address that
    others than this machine can reach without TLS and tokens.
    """
    host, port = parse_address(settings.listen)
    host = host.strip("[]")
    certificate = _checked_certificate(settings)
    if not is_loopback(host) and certificate is None:
        raise InputError(f"others can reach {host}: give --tls-cert and --tls-key, or listen at 127.0.0.1")
    with closing(Store(settings.state)) as store:
        if not is_loopback(host) and not store.tokens():
            raise InputError(
                f"others can reach {host}, and there are no tokens: make some with"
                f" distredge token add NAME --role operator --state {settings.state}"
            )
        with _listening(host, port) as listener, closing(BackgroundReplanner(settings.models)) as replanner:
            core = Core(store, replanner, models=settings.models)
            service = Service(core, Decider(Models(settings.models).graph), is_loopback(host), settings.host_names)
            shown = f"[{host}]" if ":" in host else host
            url = f"{'https' if certificate else 'http'}://{shown}:{listener.getsockname()[1]}"
            with service.ticking():
                started(url, service.auth.is_open)
                _run(service, listener, certificate)


class Service:
    """The application with all that stands before it and beside it; `app` is what a server runs."""

    def __init__(self, core: Core, decider: Decider, loopback: bool, host_names: tuple[str, ...] = ()) -> None:
        self._core, self._policies = core, Policies(core, decider)
        self.auth, self.metrics = Auth(core.store, loopback), Metrics(core)
        self.app = Gate(make_app(core, self._policies, self.metrics), self.auth, host_names, self.metrics.failed)
        self._problems: dict[str, str] = {}
        self.tick()

    def tick(self) -> None:
        """What is to be done twice a second; what cannot be done now is logged, once, and tried again."""
        for what in (self._core.tick, self.auth.refresh, self.metrics.follow, self._policies.refresh):
            name, problem = what.__qualname__, ""
            try:
                what()
            except DistrEdgeError as exc:
                problem = str(exc)
            except Exception:
                log.exception("%s has failed", name)
            if problem and problem != self._problems.get(name):
                log.error("%s", problem)
            self._problems[name] = problem

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """`tick` is called by a thread of its own while the block runs."""
        over = Event()

        def loop() -> None:
            while not over.wait(TICK_S):
                self.tick()

        thread = Thread(target=loop, name="ticking", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise InputError(f"cannot listen at {host}:{port}: {exc.strerror or exc}: choose another one") from exc
    with listener:
        yield listener


def _checked_certificate(settings: Settings) -> tuple[Path, Path] | None:
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise InputError("give --tls-cert and --tls-key together")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ssl.SSLError) as exc:
        raise InputError(
            f"cannot use the certificate '{settings.tls_cert}' with the key '{settings.tls_key}': {exc.strerror or exc}"
        ) from exc
    return settings.tls_cert, settings.tls_key


def configured(service: Service, certificate: tuple[Path, Path] | None = None) -> uvicorn.Config:
    """How uvicorn serves it; its log goes where all logs go, and no line is written for each request."""
    return uvicorn.Config(
        service.app,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=certificate[0] if certificate else None,
        ssl_keyfile=certificate[1] if certificate else None,
    )


def _run(service: Service, listener: socket.socket, certificate: tuple[Path, Path] | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended)  # uvicorn raises what it was ended by again, when all is done
    gc.freeze()  # of what is there now nothing will be garbage: collections, in which requests wait, leave it out
    sys.setswitchinterval(SWITCH_S)
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()  # what is loaded stays: no collection need look at it again while somebody waits
    uvicorn.Server(configured(service, certificate)).run(sockets=[listener])


def _ended(number: int, frame: object) -> None:
    log.info("ended by %s", signal.Signals(number).name)
