"""A server of OpenAI's kind on loopback that paints or writes, fails in any way asked of it, and counts."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


class PaintingServer(ThreadingHTTPServer):
    """Paints the seed of a request (or another picture each time), and answers chats by their prompt and seed.

    `fault(request, number)` says how the number-th request of this content (from 0) fails: None, "429", "500",
    "cut", "wrong", "garbled", "url", "drop", "slow", or a pair of a status and a JSON body.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fault: Callable[[dict[str, Any], int], Any] = lambda request, number: None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault, self.lock = fault, threading.Lock()
        self.asked: Counter[str] = Counter()  # by content, however it was answered
        self.answered: Counter[str] = Counter()  # by content, when the last byte was sent
        self.repeated: list[str] = []  # what was asked for after it was answered
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.under_way = self.most_at_once = 0
        self.times: list[float] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed leave; that is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: PaintingServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._json(200, {"data": [{"id": "painter-1"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, name = self.server, json.dumps(request, sort_keys=True)
        with server.lock:
            number = server.asked[name]
            server.asked[name] += 1
            server.repeated += [name] if server.answered[name] else []
            server.requests.append(request)
            server.keys.add(self.headers.get("Authorization"))
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_at_once = max(server.most_at_once, server.under_way)
        try:
            self._answer(request, server.fault(request, number), name)
        finally:
            with server.lock:
                server.under_way -= 1

    def _answer(self, request: dict[str, Any], fault: Any, name: str) -> None:
        if fault == "429":
            return self._json(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.2"})
        if fault == "500":
            return self._json(500, {"error": {"message": "out of paint"}})
        if isinstance(fault, tuple):
            return self._json(*fault)
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(4)
        if "chat" in self.path:
            number = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
            content: dict[str, Any] = {"choices": [{"message": {"content": f"a picture of thing {number}\nand more"}}]}
        elif fault == "url":
            content = {"data": [{"url": f"{self.server.address}/secret"}]}
        else:
            image = b"no image" if fault == "wrong" else painted(request.get("seed", len(self.server.requests)))
            content = {"data": [{"b64_json": base64.b64encode(image).decode()}]}
        if fault == "garbled":
            content = {"data": "nothing"}
        self._json(200, content, cut=fault == "cut")
        if fault not in ("cut", "wrong", "garbled", "url"):
            with self.server.lock:
                self.server.answered[name] += 1

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        if cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def painted(seed: int) -> bytes:
    """The PNG that the server paints of a seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def serving(fault: Callable[[dict[str, Any], int], Any] = lambda request, number: None) -> Iterator[PaintingServer]:
    with PaintingServer(fault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
