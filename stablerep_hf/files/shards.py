"""The files of a data set that this package wrote, and whether they still are what was written.

A folder that was drawn (see `synthesis.store`):

    data/train-00000-of-00012.parquet    what `datasets.load_dataset` loads
    provenance/plan.json                 the plan, with its hash
    provenance/captions.parquet          the captions that it was made for
    provenance/shard-00000.json          of each shard the size, sha256, counts, timings, library versions

and one that was exported has `manifest/files.json` in place of the records.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..errors import InputError
from .atomic import replacing
from .sealing import content_hash, seal, unseal

DATA = "data"
PROVENANCE = "provenance"
PLAN = "plan.json"
CAPTIONS = "captions.parquet"
MANIFEST = "manifest"
FILES = "files.json"
UNFINISHED = "unfinished.json"


def shard_path(folder: Path, shard: int, num_shards: int) -> Path:
    """Where the rows of a shard are."""
    return folder / DATA / f"train-{shard:05d}-of-{num_shards:05d}.parquet"


def record_path(folder: Path, shard: int) -> Path:
    """Where the record of a shard is."""
    return folder / PROVENANCE / f"shard-{shard:05d}.json"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(
    folder: Path, shard: int, num_shards: int, plan_hash: str, digest: Callable[[Path], str] = sha256_of
) -> dict[str, Any]:
    """The record of a shard that is whole: of this plan and this number, with the size and sha256 of the file.

    `digest` gives the sha256 of a file.

    Raises:
        ValueError: The shard or its record is missing or damaged; the message says what was found, as a sentence
            goes on after the shard's name.
        InputError: One of the files cannot be read.
    """
    path = shard_path(folder, shard, num_shards)
    try:
        try:
            record = unseal(record_path(folder, shard).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError("has no record" if path.is_file() else "is missing") from None
        except (IsADirectoryError, ValueError) as error:
            raise ValueError("has a damaged record") from error
        if (record["plan_hash"], record["shard"]) != (plan_hash, shard):
            raise ValueError("has the record of another shard or data set")
        # While scores are filled in, a record names the file that is there and the one that is about to replace it.
        coming = record.pop("coming", None)
        candidates = [record] if coming is None else [record, {**record, **coming}]
        if not path.is_file():
            raise ValueError("is missing")
        size = path.stat().st_size
        fitting = [found for found in candidates if found["bytes"] == size]
        if not fitting:
            raise ValueError(f"has {size:,} bytes where its record says {record['bytes']:,}")
        sha256 = digest(path)
    except (PermissionError, RuntimeError) as error:
        raise InputError(f"The shard {path.name!r} of {str(folder)!r} cannot be read ({error}).") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    for found in fitting:
        if found["sha256"] == sha256:
            return found
    raise ValueError("has other bytes than its record says")


def check_shards(folder: str | Path) -> None:
    """Refuse to read a drawn or exported data set whose files are not those that were written.

    Names and sizes are compared each time, the sha256 of a file when it is read for the first time since it was
    written: what was compared is remembered by size and time stamps, below HF_HOME. Call it before a folder is
    loaded; where it finds no records (somebody else's data, a Hub id), it does nothing.

    Raises:
        InputError: A shard is missing, damaged, exchanged or too many; the message names it and says what to do.
    """
    root = Path(folder)
    known = _Digests(root)
    if any(any((root / PROVENANCE).glob(name)) for name in ("*.json", CAPTIONS)):
        problems = _drawn_problems(root, known)
        remedy = f"`stablerep verify {folder} --repair` draws again what is wrong"
    elif (root / MANIFEST / UNFINISHED).is_file():
        problems = iter([(UNFINISHED, "says that this export was interrupted")])
        remedy = "run the same `stablerep export` again, which goes on with it"
    elif (root / MANIFEST / FILES).is_file():
        problems = _exported_problems(root, known)
        remedy = "export the data set again"
    else:
        return
    first = next(problems, None)
    if first is None:
        known.save()
        return
    number = 1 + sum(1 for _ in problems)
    others = f", and {number - 1} more files are wrong" if number > 1 else ""
    raise InputError(f"The file {first[0]!r} of {str(folder)!r} {first[1]}{others}: {remedy}.")


def _drawn_problems(root: Path, known: _Digests) -> Iterator[tuple[str, str]]:
    """(file name, what is wrong with it)."""
    try:
        plan = unseal((root / PROVENANCE / PLAN).read_bytes())
        num_shards = -(-plan["captions"]["number"] // plan["captions_per_shard"])
    except (OSError, ValueError, KeyError, TypeError):
        yield PLAN, "is missing or damaged, so nothing says which shards there should be"
        return
    plan_hash, expected = content_hash(plan), set()
    for shard in range(num_shards):
        path = shard_path(root, shard, num_shards)
        expected.add(path.name)
        try:
            read_record(root, shard, num_shards, plan_hash, known)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            yield path.name, str(error)
    yield from _extra(root, expected)


def _exported_problems(root: Path, known: _Digests) -> Iterator[tuple[str, str]]:
    try:
        files = json.loads((root / MANIFEST / FILES).read_text("utf-8"))["files"]
        facts = {str(file["name"]): (int(file["bytes"]), str(file["sha256"])) for file in files}
    except (OSError, ValueError, KeyError, TypeError):
        yield FILES, "is damaged, so nothing says which files there should be"
        return
    for name, (size, sha256) in facts.items():
        path = root / DATA / name
        if not path.is_file():
            yield name, "is missing"
        elif path.stat().st_size != size:
            yield name, f"has {path.stat().st_size:,} bytes where {MANIFEST}/{FILES} says {size:,}"
        elif known(path) != sha256:
            yield name, f"has other bytes than {MANIFEST}/{FILES} says"
    yield from _extra(root, set(facts))


def _extra(root: Path, expected: set[str]) -> Iterator[tuple[str, str]]:
    """Files that could be loaded too, though nothing is known of them."""
    for path in sorted((root / DATA).glob("[!.]*")):
        if path.name not in expected:
            yield path.name, "is no shard of this data set"


class _Digests:
    """The sha256 of files, remembered from one process to the next for as long as size and time stamps stay."""

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:32]
        self._file = Path(constants.HF_HOME) / "stablerep" / "checked" / f"{name}.json"
        try:
            self._known: dict[str, list[Any]] = unseal(self._file.read_bytes())
        except (OSError, ValueError):
            self._known = {}
        self._new: dict[str, list[Any]] = {}

    def __call__(self, path: Path) -> str:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(path.name, [])
        sha256 = str(known[-1]) if known[:-1] == stamp else sha256_of(path)
        self._new[path.name] = [*stamp, sha256]
        return sha256

    def save(self) -> None:
        """Write what is known now; where nothing can be written, the next process reads the files again."""
        if self._new == self._known:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as file:
                file.write(seal(self._new).encode())
        except (OSError, InputError):
            return
