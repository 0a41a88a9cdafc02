"""Who may do what: bearer tokens, of which the state file keeps the SHA-256 and the role.

They are held in memory and read again by `refresh`, which the service calls twice a second: a token that is added or
removed while it runs counts from then on, and no request waits for the disk.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from typing import TypeAlias

from starlette.exceptions import HTTPException

from distredge.control.schema import Role
from distredge.controller.library import check_name
from distredge.controller.store import Store, Token

Roles: TypeAlias = frozenset[Role]

LOOK: Roles = frozenset({"reader", "operator"})
TELL: Roles = frozenset({"device", "operator"})
FETCH: Roles = frozenset({"reader", "device", "operator"})
ORDER: Roles = frozenset({"operator"})

OPEN = re.compile(r"/|/web(/.*)?|/openapi\.json|/v1/health")
"""What everybody may get."""

_STORED = r"/v1/(plans|policies|profiles|scenarios)(/[^/]+)?"

RULES: tuple[tuple[str, re.Pattern[str], Roles], ...] = (
    ("POST", re.compile(r"/v1/decisions"), FETCH),
    ("POST", re.compile(r"/v1/streams(/[^/]+/telemetry)?|/v1/devices/[^/]+/beat"), TELL),
    ("PUT", re.compile(rf"/v1/devices/[^/]+|{_STORED}"), TELL),
    ("DELETE", re.compile(r"/v1/streams/[^/]+"), TELL),
    ("GET", re.compile(_STORED), FETCH),
    ("GET", re.compile(r"/v1/.+|/metrics"), LOOK),
)
"""Method, path and who may; the first that fits counts. What is not here is for operators."""

MAX_HEADER = 500
"""Characters of an `Authorization` that is looked at."""


def needed_roles(method: str, path: str) -> Roles | None:
    """The roles of which one is needed; None: none is."""
    if method == "GET" and OPEN.fullmatch(path):
        return None
    return next((roles for at, what, roles in RULES if at == method and what.fullmatch(path)), ORDER)


class Auth:
    """The tokens of a store. As long as it has none, everybody is an operator if `open_without_tokens`."""

    def __init__(self, store: Store, open_without_tokens: bool) -> None:
        self._store, self._open = store, open_without_tokens
        self._roles: dict[str, Role] = {}
        self.refresh()

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._open and not self._roles

    def refresh(self) -> None:
        """Read the tokens again; raises `StoreError`, and then those known so far go on to count."""
        self._roles = {token.sha256: token.role for token in self._store.tokens()}

    def role(self, authorization: str | None) -> Role:
        """The role of who sends this `Authorization`; raises 401."""
        if self.is_open:
            return "operator"
        if authorization is None:
            raise _unknown("give a token: `Authorization: Bearer TOKEN`")
        scheme, _, secret = authorization[:MAX_HEADER].partition(" ")
        # Found by its hash: how long that takes tells nothing of tokens that are nearly right.
        found = self._roles.get(_sha256(secret.strip())) if scheme.lower() == "bearer" else None
        if found is None:
            raise _unknown("this token is not known here: `distredge token add` makes one")
        return found

    def check(self, method: str, path: str, authorization: str | None) -> Role:
        """The role of who asks, if it may; raises 401 or 403. Who asks for what is open to all is a reader."""
        needed = needed_roles(method, path)
        if needed is None:
            return "reader"
        role = self.role(authorization)
        if role not in needed:
            words = " or ".join(f"'{r}'" for r in sorted(needed))
            raise HTTPException(403, f"this needs a token of the role {words}, and yours has '{role}'")
        return role


def new_token(store: Store, name: str, role: Role) -> str:
    """Store a new token's hash; gives the token itself, which is kept nowhere. Raises `InputError` for its name."""
    check_name("token", name)
    secret = secrets.token_urlsafe(32)
    store.add_token(Token(sha256=_sha256(secret), name=name, role=role, created_s=time.time()))
    return secret


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _unknown(detail: str) -> HTTPException:
    return HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
