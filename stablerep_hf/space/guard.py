"""What stands between the network and Gradio: bounds on every request, before anything of it is believed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_MOST_JSON = 64 * 1024  # bytes; the page's own requests have some hundreds
_MULTIPART = 16 * 1024  # what an upload's headers may have beside the file
# Gradio's, with effects on the disk, the network or other servers that this page has no use for.
_CLOSED = ("/gradio_api/deep_link", "/gradio_api/proxy=", "/gradio_api/file=http", "/gradio_api/stream/")
_CLOSED_POSTS = ("/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/vibe-")


class Guard:
    """ASGI middleware: closed routes, requests a minute, bytes of a request, and no path but an upload's.

    Gradio takes files by reference: a dict with a path, which it opens, or an address, which it fetches, in any input
    whatever its kind. Here every such reference must name a file below the folder of uploads.
    """

    def __init__(
        self, app: Application, *, uploads: str, most_upload: int, requests_per_minute: int, behind_proxy: bool
    ) -> None:
        """Wrap an application.

        Args:
            app: Gradio's.
            uploads: Folder of uploads.
            most_upload: Bytes of an uploaded file.
            requests_per_minute: POSTs of one visitor.
            behind_proxy: Tell visitors apart by the first address of X-Forwarded-For. Whoever sends that header
                himself passes for many; what then bounds him is the queue.
        """
        self._app = app
        self._uploads = Path(uploads).resolve()
        self._most_upload = most_upload + _MULTIPART
        self._behind_proxy = behind_proxy
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rate = parse(f"{requests_per_minute}/minute")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if path.startswith(_CLOSED) or (method == "POST" and path.startswith(_CLOSED_POSTS)):
            await _refuse(send, 403, "This page does not offer that.")
            return
        if method != "POST":
            await self._app(scope, receive, send)
            return
        if not self._limiter.hit(self._rate, self._visitor(scope)):
            await _refuse(send, 429, "Too many requests in a minute: wait a little.")
            return
        upload = path.rstrip("/").endswith("/upload")
        body = await _read(receive, self._most_upload if upload else _MOST_JSON)
        if body is None:
            await _refuse(send, 413, "The request is larger than this page takes.")
            return
        if not upload and (problem := self._problem(body)):
            await _refuse(send, 400, problem)
            return
        await self._app(scope, _replay(body, receive), send)

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
            return "The request is no JSON."
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


async def _refuse(send: Send, status: int, sentence: str) -> None:
    content = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if status == 429:
        headers.append((b"retry-after", b"20"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
