"""Bodies of requests, taken strictly: what is wrong with one is said in one line."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from inspect import iscoroutinefunction, signature
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from distredge.errors import InputError


class StrictRoute(APIRoute):
    """Takes a body for what its JSON says: no text or truth value for a number, no NaN or Infinity.

    A coroutine of nothing but the body answers at once, by a `Response`: FastAPI's own way would take it as long as a
    decision takes.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`: what FastAPI then validates is a value already."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        adapter = TypeAdapter[Any](self.body_field.field_info.annotation or Any)
        answer, only_body = self.endpoint, len(signature(self.endpoint).parameters) == 1

        async def at_once(request: Request) -> Response:
            found = await answer(read_json(adapter, await request.body()))
            assert isinstance(found, Response)
            return found

        async def strict(request: Request) -> Response:
            return await handle(_Read(request, read_json(adapter, await request.body())))

        return at_once if only_body and iscoroutinefunction(answer) else strict


class _Read(Request):
    """A request whose JSON has become a value."""

    def __init__(self, request: Request, value: object) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def body(self) -> bytes:
        """Anything: it is asked for whether there is one."""
        return b"{}"

    async def json(self) -> Any:
        """The value."""
        return self._value


def read_json(adapter: TypeAdapter[Any], body: bytes) -> object:
    """A value of its JSON; raises `InputError` that names the first field that is wrong."""
    try:
        from_json(body, allow_inf_nan=False)  # fields that no limit keeps finite exist
        return adapter.validate_json(body, strict=True)
    except ValidationError as exc:
        raise InputError(first_problem(exc.errors(include_url=False, include_input=False))) from None
    except ValueError as exc:
        raise InputError(f"the body is no JSON: {exc}") from None


def first_problem(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in words; an unknown key before one that is missing, as it may be that one."""
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])[:200]
    said = str(first["msg"]).removeprefix("Value error, ")
    return f"'{where}': {said}" if where else f"the body: {said}"
