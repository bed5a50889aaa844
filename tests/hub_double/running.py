"""Starting the double, and what a client needs to find it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from . import commits, files, repositories  # noqa: F401  # their routes
from .faults import Fault, Faults
from .large_files import LargeFiles
from .protocol import RULES, Refusal
from .store import Repository, Store
from .xet import Xet


class HubDouble:
    """A running double.

    Attributes:
        endpoint: What HF_ENDPOINT must say.
        store: Its repositories.
        large: Its large files.
        xet: Its Xet stores, if clients shall use them.
        faults: What is to go wrong, and what was asked.
    """

    def __init__(self, folder: Path, port: int, xet: bool = False) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.store = Store(folder)
        self.xet = Xet(folder) if xet else None
        self.large = LargeFiles(self, f"http://localhost:{port}")  # another host, as the Hub's content network is
        routes = [rule.route(self) for rule in RULES]
        self.faults = Faults(Starlette(routes=routes, exception_handlers={Refusal: Refusal.answer}))

    @property
    def with_xet(self) -> Xet:
        if self.xet is None:
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        return self.xet

    def reset(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder)
        self.store = Store(self.folder)
        self.large.uploads.clear()
        self.large.part_size = None
        self.faults.waiting.clear()
        self.faults.requests.clear()

    def repository(self, id: str, type: str = "models") -> Repository:
        return self.store.repositories[type, id]

    def files(self, id: str, type: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Every file of a repository, but `.gitattributes`."""
        tree = self.repository(id, type).find(revision).tree
        return {path: self.store.read(entry) for path, entry in tree.items() if path != ".gitattributes"}

    def fail(self, method: str, path: str, **how: object) -> None:
        """Let the next request that matches go wrong; see `Fault`."""
        self.faults.waiting.append(Fault(method, path, **how))  # type: ignore[arg-type]

    def requests(self, method: str = "", path: str = "") -> list[tuple[str, str, int]]:
        """What was asked and answered: method, path, status."""
        return [r for r in self.faults.requests if r[0].startswith(method) and re.search(path, r[1])]

    def environment(self, home: Path, token: str | None = "hf_alice", **others: str) -> dict[str, str]:
        """The environment of a client in a process of its own, with its caches below `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        kept |= {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        if self.xet is None:
            kept["HF_HUB_DISABLE_XET"] = "1"
        if token is not None:
            kept["HF_TOKEN"] = token
        return kept | others


@contextmanager
def running_hub(folder: Path, xet: bool = False) -> Iterator[HubDouble]:
    """Serve a double from a thread of this process, on a free port, with its state in `folder`."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    hub = HubDouble(folder, listening.getsockname()[1], xet)
    server = uvicorn.Server(uvicorn.Config(hub.faults, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the double did not start")
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
        listening.close()
