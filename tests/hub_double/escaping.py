"""Slashes within a segment of an address: `refs%2Fpr%2F1` is one revision, not three folders."""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

_MARK = "\x0f"


class _Escaped(Convertor[str]):
    def __init__(self, regex: str) -> None:
        self.regex = regex

    def convert(self, value: str) -> str:
        return value.replace(_MARK, "/")

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("escaped", _Escaped("[^/]+"))
register_url_convertor("file", _Escaped(".+"))


class EscapedSlashes:
    """Starlette routes by the decoded path; here an escaped slash stays apart until its parameter is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = unquote(re.sub("%2f", "%0F", scope["raw_path"].decode(), flags=re.IGNORECASE))
        await self.app(scope, receive, send)
