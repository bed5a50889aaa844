"""What goes wrong on the way: each fault waits for a request, strikes and is used up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .protocol import routed


@dataclass
class Fault:
    """One thing to go wrong.

    Attributes:
        method: Of the request it waits for.
        path: Regular expression that the path must contain.
        status: Answer with it instead.
        headers: Of that answer.
        drop_after: Cut the connection once so many bytes of the body have come.
        corrupt: Turn over the first byte of the body.
        lose_answer: Do what was asked, and cut the connection instead of saying so.
        before: Called before the request is served, to change the world.
        times: Requests it strikes.
    """

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    corrupt: bool = False
    lose_answer: bool = False
    before: Callable[[], Any] | None = None
    times: int = 1


class Faults:
    """Middleware around the whole double; also the record of what was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.waiting: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["raw_path"].decode()
        scope["path"] = routed(path)
        fault = self._struck(scope["method"], path)

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.requests.append((scope["method"], path, message["status"]))
            await send(message)

        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.status:
            while (await receive()).get("more_body"):
                pass
            answer = JSONResponse({"error": f"injected {fault.status}"}, fault.status, headers=fault.headers)
            await answer(scope, receive, recorded)
            return
        if fault is not None and fault.lose_answer:
            await self.app(scope, receive, _lost)
            _cut(send)
            return
        await self.app(scope, self._spoiled(fault, receive, send) if fault else receive, recorded)

    def _spoiled(self, fault: Fault, receive: Receive, send: Send) -> Receive:
        received = 0

        async def spoiled() -> Message:
            nonlocal received
            message = await receive()
            body = message.get("body", b"")
            if fault.corrupt and body and received == 0:
                message["body"] = bytes([body[0] ^ 0xFF]) + body[1:]
            received += len(body)
            if fault.drop_after is not None and received >= fault.drop_after:
                _cut(send)
                return {"type": "http.disconnect"}
            return message

        return spoiled

    def _struck(self, method: str, path: str) -> Fault | None:
        for fault in self.waiting:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


async def _lost(message: Message) -> None:
    pass


def _cut(send: Send) -> None:
    send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's own object
