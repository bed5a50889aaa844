"""Xet uploads and downloads, by the real Rust client: its address `local://DIR` is a content store in a folder.

A store has one opener at a time, so each write token gets a copy of the newest store to write to, and each read token
a copy to read from. A commit names files by sha256; which Xet hash that is stands in the shards the client wrote.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .accounts import readable, require_account
from .store import Store

_HEADER = _RECORD = 48
_WITH_VERIFICATION, _WITH_METADATA = 1 << 31, 1 << 30


class Xet:
    """The Xet side of the storage.

    Attributes:
        stores: Written by clients, oldest first; each began as a copy of the one before.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folder = store.folder / "xet"
        self.folder.mkdir(exist_ok=True)
        self.stores = sorted(self.folder.glob("write-*"))

    def routes(self) -> list[Route]:
        one = "/api/{type}/{namespace}/{name}"
        return [
            Route(f"{one}/xet-write-token/{{revision:escaped}}", self.write_token),
            Route(f"{one}/xet-read-token/{{revision:escaped}}", self.read_token),
        ]

    async def write_token(self, request: Request) -> Response:
        require_account(request)
        readable(request, self.store)
        folder = self._copy(f"write-{len(self.stores):05d}")
        self.stores.append(folder)
        return _token(folder)

    async def read_token(self, request: Request) -> Response:
        readable(request, self.store)
        return _token(self._copy(f"read-{time.monotonic_ns()}"))

    def hash_of(self, sha256: str) -> str | None:
        """Xet hash of a file that a client finished uploading; None if it came another way."""
        return next((xet for folder in reversed(self.stores) for sha, xet in _files(folder) if sha == sha256), None)

    def fetch(self, sha256: str, size: int, into: Path) -> bool:
        """Put together a file that a client uploaded; say whether it is there."""
        import hf_xet

        if (xet := self.hash_of(sha256)) is None:
            return False
        copy = self._copy(f"read-{time.monotonic_ns()}")
        with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
            group.start_download_file(hf_xet.XetFileInfo(xet, size), str(into))
        return True

    def stored_bytes(self) -> int:
        """Contents in the newest store: more than was published, if some of it was sent again."""
        return sum(path.stat().st_size for path in self.stores[-1].glob("xet/xorbs/xorbs/default.*"))

    def _copy(self, name: str) -> Path:
        folder = self.folder / name
        if self.stores:
            return Path(shutil.copytree(self.stores[-1], folder, copy_function=_copy_or_link))
        folder.mkdir()
        return folder


def _copy_or_link(source: str, target: str) -> None:
    """Contents are named by their hash and never changed: a second name for them will do."""
    if Path(source).parent.name == "xorbs" and Path(source).name.startswith("default.") and not source.endswith("set"):
        os.link(source, target)
    else:
        shutil.copy(source, target)


def _token(folder: Path) -> Response:
    expiry = int(time.time()) + 3600
    address = f"local://{folder}"
    headers = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
    return JSONResponse({"casUrl": address, "accessToken": "xet", "exp": expiry}, headers=headers)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """(sha256, Xet hash) of every file in the shards of a store (format: `mdb_shard` of xet-core)."""
    for path in folder.glob("xet/xorbs/shards/*.mdb"):
        shard, at = path.read_bytes(), _HEADER
        while (record := shard[at : at + _RECORD])[:32] != b"\xff" * 32:
            flags, segments = (int.from_bytes(record[start : start + 4], "little") for start in (32, 36))
            at += _RECORD * (1 + segments * (2 if flags & _WITH_VERIFICATION else 1))
            if flags & _WITH_METADATA:
                yield _hex(shard[at : at + 32]), _hex(record[:32])
                at += _RECORD


def _hex(value: bytes) -> str:
    """Four 64-bit numbers, little-endian in the file."""
    return "".join(value[start : start + 8][::-1].hex() for start in range(0, 32, 8))
