"""What every request passes: nothing unknown in it, an account that may, a repository that it may see."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from .running import HubDouble
    from .store import Repository

REPOSITORY = "/api/{type}/{namespace}/{name}"


class Refusal(Exception):
    """An answer that is an error: JSON `{"error"}` and the headers that clients tell errors apart by."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        one_line = " ".join(message.encode("ascii", "replace").decode().split())
        self.headers = {"X-Error-Message": one_line, **({"X-Error-Code": code} if code else {}), **headers}

    @staticmethod
    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return JSONResponse({"error": error.message}, error.status, headers=error.headers)


@dataclass(frozen=True)
class Account:
    name: str
    organizations: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.organizations)

    def check_may_write(self, namespace: str) -> None:
        if self.role != "write" or not self.owns(namespace):
            raise Refusal(403, f"You don't have the rights to write to the namespace {namespace!r}")


ACCOUNTS = {
    "hf_alice": Account("alice", ("lab",)),
    "hf_alice_reads": Account("alice", ("lab",), role="read"),
    "hf_bob": Account("bob"),
}


def shape(**fields: Any) -> type[BaseModel]:
    """What a body may be: JSON of these keys, each a type that it must have, or a pair of that and a default."""
    keys = {key: value if isinstance(value, tuple) else (value, ...) for key, value in fields.items()}
    made: type[BaseModel] = create_model("Body", __config__=ConfigDict(extra="forbid", strict=True), **keys)
    return made


def read(shape: type[BaseModel], content: bytes | dict[str, Any]) -> Any:
    """A body of that shape, or a refusal."""
    try:
        return shape.model_validate_json(content) if isinstance(content, bytes) else shape.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass
class Asked:
    """A request that may be answered.

    Attributes:
        request: As it came.
        caller: Whose token it carries; None without one.
        repository: Which its address names; absent where it names none.
        body: What it sends, if its route says in which shape.
    """

    request: Request
    caller: Account | None
    repository: Repository
    body: Any

    @property
    def account(self) -> Account:
        assert self.caller is not None, "its route lets nobody in without a token"
        return self.caller

    @property
    def path(self) -> dict[str, Any]:
        return self.request.path_params

    @property
    def query(self) -> Any:
        return self.request.query_params


Handler = Callable[["HubDouble", Asked], Any]
By = Literal["anyone", "account", "reader", "proposer", "writer"]


@dataclass
class Rule:
    """A route, and what it asks of a request."""

    handler: Handler
    path: str
    method: str
    by: By
    parameters: frozenset[str]
    body: type[BaseModel] | None

    def route(self, hub: HubDouble) -> Route:
        async def endpoint(request: Request) -> Response:
            if unknown := sorted(set(request.query_params) - self.parameters):
                raise Refusal(400, f"unknown parameters: {', '.join(unknown)}")
            caller = _caller(request)
            if caller is None and self.by not in ("anyone", "reader"):
                raise Refusal(401, "Invalid username or password.")
            repository: Any = None
            if self.by in ("reader", "proposer", "writer"):
                repository = _visible(hub, request, caller)
            if self.by == "proposer" and caller is not None and caller.role != "write":
                raise Refusal(403, "This token can only read")
            if self.by == "writer" and caller is not None:
                caller.check_may_write(repository.namespace)
            body = read(self.body, await request.body()) if self.body is not None else None
            answer = self.handler(hub, Asked(request, caller, repository, body))
            if inspect.isawaitable(answer):
                answer = await answer
            return answer if isinstance(answer, Response) else JSONResponse({} if answer is None else answer)

        return Route(self.path, endpoint, methods=[self.method])


RULES: list[Rule] = []


def route(
    method: str, *paths: str, by: By, parameters: str = "", body: type[BaseModel] | None = None
) -> Callable[[Handler], Handler]:
    """Register a handler ``(hub, asked) -> what JSON can say, or a Response``.

    Args:
        method: GET is HEAD too.
        paths: Of starlette.
        by: "anyone"; an "account"; of the repository in the path a "reader", a "proposer" (who may read it, with a
            token that writes) or a "writer".
        parameters: That its query may have, apart by spaces.
        body: Shape of what it sends.
    """

    def register(handler: Handler) -> Handler:
        RULES.extend(Rule(handler, path, method, by, frozenset(parameters.split()), body) for path in paths)
        return handler

    return register


def _caller(request: Request) -> Account | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    if (account := ACCOUNTS.get(header.removeprefix("Bearer "))) is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return account


def _visible(hub: HubDouble, request: Request, caller: Account | None) -> Repository:
    path = request.path_params
    repository = hub.store.repositories.get((path.get("type", "models"), f"{path['namespace']}/{path['name']}"))
    if repository is None or (repository.private and not (caller and caller.owns(repository.namespace))):
        raise Refusal(404 if caller else 401, "Repository not found", "RepoNotFound")
    return repository


# Starlette routes by the decoded path; here "refs%2Fpr%2F1" stays one segment until its parameter is read.
_SLASH = "\x0f"


def routed(raw_path: str) -> str:
    """The decoded path, in which an escaped slash parts nothing."""
    return unquote(re.sub("%2f", "%0F", raw_path, flags=re.IGNORECASE))


class _Escaped(Convertor[str]):
    def __init__(self, regex: str) -> None:
        self.regex = regex

    def convert(self, value: str) -> str:
        return value.replace(_SLASH, "/")

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("escaped", _Escaped("[^/]+"))
register_url_convertor("file", _Escaped(".+"))
