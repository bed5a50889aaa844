"""What stands between the network and Gradio: a list of open routes, and limits on what is sent to them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_UPLOAD, _FILE = "/gradio_api/upload", "/gradio_api/file={file:path}"
# What a browser and gradio_client ask for. Everything else that Gradio serves is closed, a later version's routes too.
OPEN_ROUTES = {
    "/": ("GET", "HEAD"),
    "/assets/{path:path}": ("GET",),
    "/static/{path:path}": ("GET",),
    "/theme.css": ("GET",),
    "/favicon.ico": ("GET",),
    "/manifest.json": ("GET",),
    "/robots.txt": ("GET",),
    "/config": ("GET",),
    "/gradio_api/info": ("GET",),
    "/gradio_api/info/": ("GET",),
    "/gradio_api/startup-events": ("GET",),
    "/gradio_api/heartbeat/{session}": ("GET",),
    "/gradio_api/queue/join": ("POST",),
    "/gradio_api/queue/data": ("GET",),
    "/gradio_api/call/{name}": ("POST",),
    "/gradio_api/call/{name}/{event}": ("GET",),
    "/gradio_api/cancel": ("POST",),
    "/gradio_api/reset": ("POST",),
    "/gradio_api/upload_progress": ("GET",),
    _UPLOAD: ("POST",),
    _FILE: ("GET",),
}
_MOST_JSON = 64 * 1024  # bytes; the page's own requests have a few hundred
_MULTIPART = 16 * 1024  # bytes that the headers of an upload may have beside the file
_READS_PER_POST = 30  # one page load is about 75 GETs; the default rate allows 48 loads a minute


class Guard:
    """ASGI middleware: passes on the routes of `OPEN_ROUTES`, within limits, and refuses everything else.

    Paths are matched by Starlette's own `Route`, on the scope that Gradio gets: the root path is removed and percent
    encodings are decoded. A path with empty, "." or ".." parts is refused.

    Gradio takes files by reference: a dict with a path, which it opens, or an address, which it fetches, in any input
    of any kind. Here every reference must name a file in the folder of uploads, in a body as in an address.
    """

    def __init__(
        self, app: Application, *, uploads: str, most_upload: int, requests_per_minute: int, behind_proxy: bool
    ) -> None:
        """Wrap an application.

        Args:
            app: Gradio's.
            uploads: Folder of uploads.
            most_upload: Bytes of an uploaded file.
            requests_per_minute: POSTs of one visitor; of other requests 30 times as many.
            behind_proxy: Tell visitors apart by the first address of X-Forwarded-For. Somebody who sends that header
                himself can pass for many visitors; then the queue is the limit.
        """
        self._app = app
        self._routes = [Route(path, _no_endpoint, methods=methods) for path, methods in OPEN_ROUTES.items()]
        self._uploads = Path(uploads).resolve()
        self._most_upload = most_upload + _MULTIPART
        self._behind_proxy = behind_proxy
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._posts = parse(f"{requests_per_minute}/minute")
        self._reads = parse(f"{_READS_PER_POST * requests_per_minute}/minute")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        app, receive = await self._admit(scope, receive)
        await app(scope, receive, send)

    async def _admit(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[Application, Receive]:
        """What answers a request, the application or a refusal, and what that reads."""
        posted = scope["method"] == "POST"
        if not self._limiter.hit(self._posts if posted else self._reads, str(posted), self._visitor(scope)):
            return _refusal(429, "Too many requests in a minute: wait a little.", {"retry-after": "20"}), receive
        route = self._route(scope)
        if route is None:
            return _refusal(403, "This page does not offer that."), receive
        if not posted:
            return self._app, receive
        upload = route == _UPLOAD
        body = await _read(receive, self._most_upload if upload else _MOST_JSON)
        if body is None:
            return _refusal(413, "The request is larger than this page takes."), receive
        if not upload and (problem := self._problem(body)):
            return _refusal(400, problem), receive
        return self._app, _replay(body, receive)

    def _route(self, scope: MutableMapping[str, Any]) -> str | None:
        """The open route that a request is for; None if there is none."""
        parts = scope["path"].split("/")[1:]
        if any(part in (".", "..") for part in parts) or "" in parts[:-1]:
            return None
        for route in self._routes:
            match, found = route.matches(scope)
            # Starlette adds HEAD to GET, and Gradio does not
            if match is Match.FULL and scope["method"] in OPEN_ROUTES[route.path]:
                is_file = route.path == _FILE
                return None if is_file and not self._is_upload(found["path_params"]["file"]) else route.path
        return None

    def _visitor(self, scope: MutableMapping[str, Any]) -> str:
        if self._behind_proxy:
            for name, value in scope["headers"]:
                if name == b"x-forwarded-for" and value.strip():
                    return str(value.decode("latin-1").split(",")[0].strip())
        client = scope.get("client")
        return str(client[0]) if client else "unknown"

    def _problem(self, body: bytes) -> str | None:
        """Why the JSON of a request is not passed on; None if it is."""
        if not body:
            return None
        try:
            waiting = [json.loads(body)]
        except (ValueError, RecursionError):
            return "The request is not JSON."
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if value.get("path") is not None and not self._is_upload(value["path"]):
                    return "A file must be uploaded before it is named."
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
        return None

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path or len(path) > 1024:
            return False
        place = Path(path)
        return place.is_absolute() and ".." not in place.parts and place.resolve().is_relative_to(self._uploads)


async def _no_endpoint(_: Any) -> None:
    """Routes here decide and do not answer."""


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body of a request, None as soon as it is too long."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # when the visitor goes away
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status, headers)
