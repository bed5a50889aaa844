"""How the Hub says no."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Refusal(Exception):
    """An answer that is an error: JSON `{"error"}` and the headers that clients tell errors apart by."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        one_line = " ".join(message.encode("ascii", "replace").decode().split())
        self.headers = {"X-Error-Message": one_line, **headers}
        if code:
            self.headers["X-Error-Code"] = code

    @staticmethod
    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return JSONResponse({"error": error.message}, error.status, headers=error.headers)


def only_keys(value: Any, required: set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    """The value, if it is an object with these keys and no other."""
    if not isinstance(value, dict):
        raise Refusal(400, f"expected an object, got {type(value).__name__}")
    if missing := sorted(required - value.keys()):
        raise Refusal(400, f"missing keys: {', '.join(missing)}")
    if unknown := sorted(value.keys() - required - optional):
        raise Refusal(400, f"unknown keys: {', '.join(unknown)}")
    return value


async def json_body(request: Request, required: set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    try:
        value = await request.json()
    except ValueError as error:
        raise Refusal(400, "the body is not JSON") from error
    return only_keys(value, required, optional)


def only_parameters(request: Request, known: set[str]) -> None:
    if unknown := sorted(set(request.query_params) - known):
        raise Refusal(400, f"unknown parameters: {', '.join(unknown)}")
