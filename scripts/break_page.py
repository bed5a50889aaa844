"""Hostile input against the search page; it must still serve when all of it is done.

    python scripts/break_page.py                # starts the page, attacks it, stops it
    python scripts/break_page.py --url http://127.0.0.1:7860 --users 50

The requests of `break_page_outgoing.py` name foreign addresses on every route that Gradio has. The run fails if an
attack got what it wanted or made the page stumble (an error without a sentence), if a page that was started here asked
for a connection or for the address of a name, if the page does not answer a plain search afterwards, or if its memory
grew by more than half a gigabyte.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from break_page_outgoing import gradio_routes, outgoing_requests, send
from breaking import Tally
from PIL import Image

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'


def picture(size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """A plain red picture."""
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, kind)
    return stream.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of some kilobytes that would decode to gigabytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(width // 8 + 1)) for _ in range(2000)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


class Visitor:
    """Somebody with an address of his own, who talks HTTP and not Gradio's client."""

    def __init__(self, url: str, address: str = "203.0.113.1") -> None:
        self.url = url.rstrip("/")
        self.web = httpx.Client(timeout=120, headers={"X-Forwarded-For": address}, trust_env=False)

    def upload(self, content: bytes, name: str = "picture.png") -> httpx.Response:
        """Put a file there."""
        return self.web.post(f"{self.url}/gradio_api/upload", files={"files": (name, content, "image/png")})

    def call(self, endpoint: str, *data: Any) -> tuple[str, str]:
        """Ask, and wait for the answer: what kind ("complete", "error", or an HTTP status), and its text."""
        asked = self.web.post(f"{self.url}/gradio_api/call/{endpoint}", json={"data": list(data)})
        if asked.status_code != 200:
            return str(asked.status_code), asked.text
        answer = self.web.get(f"{self.url}/gradio_api/call/{endpoint}/{asked.json()['event_id']}").text
        kind = answer.rpartition("event: ")[2].partition("\n")[0]
        return kind, answer.rpartition("data: ")[2].strip()

    def search(self, path: Any) -> tuple[str, str]:
        """Search by a reference to a file."""
        return self.call("search_by_picture", {"path": path, "meta": {"_type": "gradio.FileData"}}, "all", 3)

    def send(self, content: bytes, name: str = "picture.png") -> tuple[str, str]:
        """Upload and search."""
        there = self.upload(content, name)
        return self.search(there.json()[0]) if there.status_code == 200 else (str(there.status_code), there.text)


def refused(answer: tuple[str, str]) -> bool:
    """Whether an answer is a refusal with a sentence, and none that shows the inside."""
    kind, text = answer
    return kind != "complete" and '"error": null' not in text and "Traceback" not in text and "root:" not in text


def attacks(url: str) -> Iterator[tuple[str, Callable[[], tuple[str, str]]]]:
    """Name and deed of each; all are to be refused."""
    visitor = Visitor(url)
    pictures = {
        "decompression bomb, 3.6 gigapixels": bomb(),
        "picture of 26 megapixels": picture((5200, 5000)),
        "truncated PNG": picture()[:60],
        "truncated JPEG": picture(kind="JPEG")[:300],
        "header and nothing else": b"\x89PNG\r\n\x1a\n",
        "empty file": b"",
        "text called picture.png": b"hello",
        "SVG": SVG,
        "PDF": b"%PDF-1.7\n1 0 obj\n",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "TIFF": picture(kind="TIFF"),
        "pickle": b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
        "zip": b"PK\x03\x04" + bytes(100),
        "6 MB of noise": os.urandom(6_000_000),
    }
    for name, content in pictures.items():
        yield name, lambda content=content: visitor.send(content)
    yield "SVG by its name", lambda: visitor.send(SVG, "picture.svg")
    for path in (
        "/etc/passwd",
        "../../../../etc/passwd",
        "file:///etc/passwd",
        str(Path(__file__).resolve()),
        "/proc/self/environ",
        "/tmp/gradio/../../etc/passwd",
        "http://127.0.0.1:1/secret",
        "http://169.254.169.254/latest/meta-data/",
        "a" * 5000,
        "x\0y",
        ["/etc/passwd"],
        {"path": "/etc/passwd"},
        7,
    ):
        yield f"path {str(path)[:40]!r}", lambda path=path: visitor.search(path)
    yield (
        "path in a text",
        lambda: visitor.call(
            "search_by_text", {"path": "http://example.com/x", "meta": {"_type": "gradio.FileData"}}, "all", 3
        ),
    )
    for text in ("", "   ", "x" * 201, "x" * 1_000_000, None, 7, ["red"], {"a": 1}):
        yield f"text {str(text)[:20]!r}", lambda text=text: visitor.call("search_by_text", text, "all", 3)
    for source, count in (("everything", 3), (None, 3), (["all"], 3), ("all", "many"), ("all", None), ("all", True)):
        yield (
            f"source {source!r}, {count!r} results",
            lambda s=source, c=count: visitor.call("search_by_text", "red", s, c),
        )
    for place in (
        ("real", -1),
        ("real", 10**9),
        ("real", "0"),
        ("real", 1.5),
        ("secret", 0),
        (None, None),
        ("real", True),
    ):
        yield f"picture {place!r}", lambda place=place: visitor.call("siblings", *place)
    yield "deeply nested JSON", lambda: _raw(visitor, b"[" * 30_000 + b"]" * 30_000)
    yield "no JSON", lambda: _raw(visitor, b"\xff\xfe")
    yield "20 MB of JSON", lambda: _raw(visitor, b'{"data":["' + b"x" * 20_000_000 + b'"]}')
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd",
        f"/gradio_api/file={Path(__file__).resolve()}",
        "/gradio_api/file=http://127.0.0.1:1/secret",
        "/gradio_api/file/http://203.0.113.7/b.png",
        "/gradio_api//file/http://203.0.113.7/b.png",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/run-history/buckets",
        "/gradio_api/queue/status",
        "/gradio_api/proxy=http://127.0.0.1:1/secret",
        "/gradio_api/deep_link?session_hash=x",
        "/static/../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/monitoring",
        "/monitoring/summary",
    ):
        yield f"GET {path}", lambda path=path: _get(visitor, path)
    yield "POST component_server", lambda: _raw(visitor, b"{}", "component_server")
    yield "direct call past the queue", lambda: _raw(visitor, b'{"data":["red","all",3]}', "run/search_by_text")


def crowd(url: str, users: int) -> dict[str, int]:
    """What so many visitors got who all search at once, three times each; nobody may get a broken answer."""

    def visit(number: int) -> list[str]:
        visitor = Visitor(url, f"198.51.100.{number}")
        kinds = [visitor.call("search_by_text", "red", "all", 3)[0], visitor.send(picture())[0]]
        return [*kinds, visitor.call("siblings", "real", number)[0]]

    with concurrent.futures.ThreadPoolExecutor(users) as pool:
        kinds = [kind for answers in pool.map(visit, range(users)) for kind in answers]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def flood(url: str, requests: int) -> int:
    """How many of so many quick requests of one visitor were told to wait."""
    visitor = Visitor(url, "192.0.2.66")
    answers = [
        visitor.web.post(f"{url.rstrip('/')}/gradio_api/call/about", json={"data": []}) for _ in range(requests)
    ]
    return sum(answer.status_code == 429 for answer in answers)


def still_serves(url: str) -> bool:
    """Whether a plain search by words and one by a picture are answered."""
    visitor = Visitor(url, "203.0.113.9")
    answers = [visitor.call("search_by_text", "red", "all", 3), visitor.send(picture())]
    return all(kind == "complete" and len(json.loads(text)[0]) == 3 for kind, text in answers)


def _raw(visitor: Visitor, body: bytes, endpoint: str = "call/search_by_text") -> tuple[str, str]:
    answer = visitor.web.post(
        f"{visitor.url}/gradio_api/{endpoint}", content=body, headers={"Content-Type": "application/json"}
    )
    return ("complete" if answer.status_code == 200 else str(answer.status_code)), answer.text


def _get(visitor: Visitor, path: str) -> tuple[str, str]:
    answer = visitor.web.get(visitor.url + path)
    return ("complete" if answer.status_code == 200 else str(answer.status_code)), answer.text


# Run with the page's file, the log and this folder: the page on asyncio's loop, with every connection noted.
_WATCHED = """
import runpy, sys
app, log, folder = sys.argv[1:]
sys.modules["uvloop"] = None
sys.path.insert(0, folder)
from break_page_outgoing import watch_outgoing
with open(log, "a", buffering=1) as file:
    watch_outgoing(lambda attempt: file.write(attempt + chr(10)))
    runpy.run_path(app, run_name="__main__")
"""


@contextmanager
def _page() -> Iterator[tuple[str, int, Path]]:
    """The page in a process of its own, told to believe X-Forwarded-For: address, process id, log of connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"BEHIND_PROXY": "true", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "connections"
        log.touch()
        arguments = [str(here.parent / "spaces" / "retrieval" / "app.py"), str(log), str(here)]
        process = subprocess.Popen([sys.executable, "-c", _WATCHED, *arguments], env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 600
            while True:
                try:
                    httpx.get(url + "/gradio_api/info", timeout=5, trust_env=False)
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit("The page did not start.") from None
                    time.sleep(0.5)
            yield url, process.pid, log
        finally:
            process.terminate()
            process.wait()


def _memory(pid: int | None) -> float:
    """Resident megabytes; 0 where there is no /proc or no process of ours."""
    status = Path(f"/proc/{pid}/status")
    if pid is None or not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def run(url: str, users: int, pid: int | None = None, log: Path | None = None) -> None:
    """Do all of it, and say what it got."""
    if not still_serves(url):
        raise SystemExit("The page does not answer a plain search to begin with.")
    tally, before = Tally(), _memory(pid)
    for name, attack in attacks(url):
        answer = attack()
        got = f"{answer[0]} {' '.join(answer[1].split())[:200]}"
        tally.note("attacks refused", name, None if refused(answer) else f"got {got}")
    requests = list(dict.fromkeys(outgoing_requests(gradio_routes())))
    for number, request in enumerate(requests):
        attempts = len(log.read_text()) if log else 0
        send(url, request, 0.5, f"198.51.100.{number % 100}")  # visitors enough that no limit stops one
        asked = log.read_text()[attempts:] if log else ""
        tally.note("requests with foreign addresses", f"{request.method} {request.path[:90]}", asked or None)
    if log is None:
        print("whether the page connects to anywhere is seen only if it is started here, without --url")
    begin = time.perf_counter()
    got = crowd(url, users)
    print(f"{users} visitors at once, {3 * users} requests in {time.perf_counter() - begin:.1f} s: {got}")
    fine = set(got) <= {"complete", "error"} and got.get("complete", 0) > 0
    tally.note("crowds and floods", f"{users} visitors at once", None if fine else str(got))
    waited, grown = flood(url, 300), _memory(pid) - before
    tally.note("crowds and floods", "300 requests of one visitor", None if waited else "none was told to wait")
    print(f"{waited} of 300 requests of one visitor told to wait; memory grew by {grown:.0f} MB")
    tally.note("afterwards", "memory", None if grown < 512 else f"grew by {grown:.0f} MB")
    tally.note("afterwards", "a plain search", None if still_serves(url) else "is not answered")
    tally.finish()


def main() -> None:
    """Attack a page that runs, or one started for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a page that runs; one is started if not given")
    parser.add_argument("--users", type=int, default=50)
    arguments = parser.parse_args()
    if arguments.url:
        run(arguments.url, arguments.users)
    else:
        with _page() as (url, pid, log):
            run(url, arguments.users, pid, log)


if __name__ == "__main__":
    main()
