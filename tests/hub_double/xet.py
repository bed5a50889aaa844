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
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from .commits import check_may_change
from .protocol import REPOSITORY, Asked, route
from .store import Repository

if TYPE_CHECKING:
    from .running import HubDouble

_HEADER = _RECORD = 48
_WITH_VERIFICATION, _WITH_METADATA = 1 << 31, 1 << 30


class Xet:
    """The Xet side of the storage.

    Attributes:
        stores: Written by clients, oldest first; each began as a copy of its repository's one before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "xet"
        self.stores = sorted(self.folder.glob("*/*/*/write-*"), key=lambda path: path.name)

    def write(self, repository: Repository) -> Path:
        """A store to write to."""
        self.stores.append(self._copy(repository, f"write-{len(self.stores):05d}"))
        return self.stores[-1]

    def read(self, repository: Repository) -> Path:
        """A store to read from."""
        return self._copy(repository, f"read-{time.monotonic_ns()}")

    def hash_of(self, repository: Repository, sha256: str) -> str | None:
        """Xet hash of a file that a client finished uploading; None if it came another way."""
        folders = reversed(self._of(repository))
        return next((xet for folder in folders for sha, xet in _files(folder) if sha == sha256), None)

    def fetch(self, repository: Repository, sha256: str, size: int, into: Path) -> bool:
        """Put together a file that a client uploaded; say whether it is there."""
        import hf_xet

        if (xet := self.hash_of(repository, sha256)) is None:
            return False
        with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{self.read(repository)}") as group:
            group.start_download_file(hf_xet.XetFileInfo(xet, size), str(into))
        return True

    def stored_bytes(self) -> int:
        """Contents in the newest store: more than was published, if some of it was sent again."""
        return sum(path.stat().st_size for path in self.stores[-1].glob("xet/xorbs/xorbs/default.*"))

    def _of(self, repository: Repository) -> list[Path]:
        return [folder for folder in self.stores if folder.parent == self.folder / repository.type / repository.id]

    def _copy(self, repository: Repository, name: str) -> Path:
        folder = self.folder / repository.type / repository.id / name
        if stores := self._of(repository):
            return Path(shutil.copytree(stores[-1], folder, copy_function=_copy_or_link))
        folder.mkdir(parents=True)
        return folder


@route("GET", f"{REPOSITORY}/xet-write-token/{{revision:escaped}}", by="proposer", parameters="create_pr")
def write_token(hub: HubDouble, asked: Asked) -> Response:
    check_may_change(asked, asked.path["revision"])
    return _token(hub.with_xet.write(asked.repository))


@route("GET", f"{REPOSITORY}/xet-read-token/{{revision:escaped}}", by="reader")
def read_token(hub: HubDouble, asked: Asked) -> Response:
    return _token(hub.with_xet.read(asked.repository))


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
