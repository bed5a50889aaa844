"""Requests that try to make the search page's server connect to somewhere, and a watch on whether it does.

Part of `break_page.py`, which sends them to a page in a process of its own.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

# An address that belongs to nobody (RFC 5737), a name that nobody can register (RFC 2606), and this machine.
_BAIT = 9  # the port of the discard protocol
TARGETS = ("http://203.0.113.7/b.png", "https://bait.example/b.png", f"http://127.0.0.1:{_BAIT}/b.png")
_LOCAL = ("127.0.0.1", "::1", "localhost")


class Request(NamedTuple):
    """One raw request; the path goes onto the wire as it stands."""

    method: str
    path: str
    body: bytes | None = None


def watch_outgoing(note: Callable[[str], None]) -> None:
    """Report every look-up of a name and every connection of this process, except those to its own machine's servers.

    The hook of Python sees sockets that Python opens, so the server must run on asyncio's own loop, not uvloop's. It
    cannot be taken away again. A reported connection is not made: it raises ConnectionRefusedError.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            host, port = arguments[:2]
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            host, port = arguments[1][:2]
        else:
            return
        name = host.decode() if isinstance(host, bytes) else str(host)
        if host is not None and (name not in _LOCAL or port == _BAIT):
            note(f"{event} {name}")
            raise ConnectionRefusedError(f"this process may not connect to {name}")

    sys.addaudithook(hook)


def gradio_routes() -> list[tuple[str, str]]:
    """Method and path of every route that the installed Gradio serves, the run history's among them."""
    import gradio as gr
    from fastapi.routing import iter_route_contexts
    from gradio.routes import App

    with gr.Blocks(analytics_enabled=False) as empty:
        pass
    routes = iter_route_contexts(App.create_app(empty).routes)
    return sorted({(method, str(route.path)) for route in routes for method in route.methods or ()})


def outgoing_requests(routes: list[tuple[str, str]]) -> Iterator[Request]:
    """Every route with an address in every place that can hold one, in many spellings and in the bodies of POSTs."""
    for (method, template), target in itertools.product(routes, TARGETS):
        plain = _filled(template, target)
        query = "&".join(
            f"{name}={quote(target, safe='')}"
            for name in ("path", "url", "file", "bucket_id", "endpoint", "deep_link", "upload_id", "session_hash")
        )
        if method == "POST":
            reference = {"path": target, "url": target, "meta": {"_type": "gradio.FileData"}}
            for named in (reference, {**reference, "path": None}, {**reference, "is_stream": True}):
                values = {"data": [named, "all", 3], "session_hash": "x", "fn_index": 0, "event_data": named}
                body = {**values, "bucket_id": "me/bucket", "component_id": 1, "fn_name": "x", "picture": named}
                yield Request("POST", plain, json.dumps(body).encode())
            continue
        for path in _spellings(plain):
            yield Request(method, path)
        yield Request(method, f"{plain}?{query}")


def send(url: str, request: Request, timeout: float = 2, address: str = "203.0.113.1") -> int:
    """Status of a raw request; 0 if there was none in time, as of a stream that has nothing to say.

    `address` is the visitor's, for a page that believes X-Forwarded-For.
    """
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port, timeout=timeout)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer hf_none", "X-HF-Bucket-Id": "me/bucket"}
    headers["X-Forwarded-For"] = address
    try:
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(request.body or b""))}.items():
            connection.putheader(name, value)
        connection.endheaders(request.body)
        return connection.getresponse().status
    except (TimeoutError, http.client.HTTPException, ConnectionError):
        return 0
    finally:
        connection.close()


def _filled(template: str, value: str) -> str:
    """A route's path with the same value for each of its parameters; as it stands where it may hold slashes."""
    path = template
    while "{" in path:
        before, _, rest = path.partition("{")
        name, _, after = rest.partition("}")
        path = before + (value if name.endswith(":path") else quote(value, safe="")) + after
    return path


def _spellings(path: str) -> Iterator[str]:
    """Ways to write a path that a server or a proxy may take for the same."""
    yield path
    yield path + "/"
    yield "/" + path
    yield "/." + path
    yield "/x/.." + path
    yield path.replace("://", ":/")
    yield path.upper()
    yield path.replace("/gradio_api/", "/gradio_api//")
    yield path.replace("/gradio_api/", "/gradio_api%2f")
    yield path.replace("/gradio_api/", "/gradio_api/x/../")
    yield quote(path, safe="/")
    yield quote(path, safe="/=:")
    yield quote(quote(path, safe="/"), safe="/")
    yield "/" + quote(path[1:], safe="")
    yield "".join(f"%{ord(letter):02x}" if letter.isalpha() else letter for letter in path)
    yield path.replace("http", "%0ahttp").replace("/gradio_api/", "/gradio_api\\")
    yield "http://203.0.113.7" + path
