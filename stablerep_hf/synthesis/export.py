"""A finished store in the forms in which others take it: large parquet shards for the Hub, WebDataset tars."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..errors import InputError
from ..files.atomic import readable_disk_errors, remove_leftovers, replacing, write_file
from ..files.locks import lock_folder
from ..files.places import check_apart
from ..files.sealing import content_hash, seal, unseal
from ..files.shards import CAPTIONS, DATA, FILES, MANIFEST, PLAN, PROVENANCE, UNFINISHED, sha256_of
from .schema import parquet_writer
from .store import ShardStore
from .verification import open_store

HUB_SHARD_BYTES = 500_000_000  # what `datasets` makes; the Hub wants files far below 20 GB and few of them
_COPIED = ("README.md", "grid.png", "scores.png", "audit.png")
Records = list[dict[str, Any]]


def export_parquet(folder: str | Path, output_dir: str | Path, *, shard_bytes: int = HUB_SHARD_BYTES) -> list[Path]:
    """Join the small shards of a store, which are units of work, into large ones, which the Hub prefers.

    Besides `data/train-00000-of-0000N.parquet` the folder gets the card, and in `manifest/` the plan, its captions and
    size, rows and sha256 of every file. An export that was interrupted goes on: files that are whole are kept.

    Args:
        folder: A finished store.
        output_dir: A folder that is empty, does not exist, or holds this export or a part of it.
        shard_bytes: About how large the files are to be.

    Returns:
        The files of images.

    Raises:
        InputError: The store is not whole, the output lies in it or holds something else, another process writes to
            it, or the disk is full.
    """
    with _exporting(folder, output_dir, shard_bytes, "parquet") as export:
        total = len(export.groups)
        for number, group in enumerate(export.groups):
            export.write(f"train-{number:05d}-of-{total:05d}.parquet", group, _write_parquet)
        return export.finish(*_COPIED)


def export_webdataset(folder: str | Path, output_dir: str | Path, *, shard_bytes: int = HUB_SHARD_BYTES) -> list[Path]:
    """Write tars that webdataset, open_clip and `datasets` read: of each row an image, its caption and its columns.

    `data/train-00000.tar` ...: `<caption_id>-<image_index>.jpg` (or png, webp), `.txt` with the caption, `.json` with
    all columns but the image. Siblings are adjacent. The bytes depend on the store alone. Arguments, errors and what
    else is written are those of `export_parquet`.

    Returns:
        The tars.
    """
    with _exporting(folder, output_dir, shard_bytes, "webdataset") as export:
        for number, group in enumerate(export.groups):
            export.write(f"train-{number:05d}.tar", group, _write_tar)
        return export.finish(*_COPIED[1:])  # the card tells of parquet


@contextmanager
def _exporting(folder: str | Path, output_dir: str | Path, shard_bytes: int, kind: str) -> Iterator[_Export]:
    """An export of a store that is whole, into a folder that is locked."""
    if shard_bytes < 1:
        raise InputError(f"shard_bytes={shard_bytes} holds no image: give 1 or more.")
    check_apart(output_dir, folder)
    store = open_store(folder)
    found = [store.find_record(shard) for shard in range(store.plan.num_shards)]
    records = [record for record in found if record is not None]
    if len(records) < len(found):
        raise InputError(
            f"{len(found) - len(records)} of {len(found)} shards of {str(folder)!r} are missing or damaged: "
            "finish or repair the folder first."
        )
    with lock_folder(output_dir):
        yield _Export(store, _group(records, shard_bytes), Path(output_dir), shard_bytes, kind)


class _Export:
    """The output folder of one export; what is finished of it is written down file by file."""

    def __init__(self, store: ShardStore, groups: list[Records], output: Path, shard_bytes: int, kind: str) -> None:
        """Read what an interrupted export finished, or begin one; `InputError` if the folder holds something else."""
        self.store, self.groups, self.output = store, groups, output
        self._settings = {"plan_hash": store.plan.hash, "format": kind, "shard_bytes": shard_bytes}
        self._done: dict[str, dict[str, Any]] = {}
        self._is_finished = False  # whether it was finished before
        unfinished = self.output / MANIFEST / UNFINISHED
        visible = [path for path in self.output.rglob("[!.]*") if path.is_file()]
        try:
            begun = unseal(unfinished.read_bytes())
            self._done = begun.pop("files")
        except (OSError, ValueError, KeyError):
            begun = self._finished()
            self._is_finished = bool(begun)
        if visible and begun != self._settings:
            raise InputError(
                f"The output {str(self.output)!r} is not empty and holds no part of this export: name another folder."
            )
        for name in (MANIFEST, DATA):
            with readable_disk_errors(self.output / name):
                (self.output / name).mkdir(parents=True, exist_ok=True)
                remove_leftovers(self.output / name, even_fresh=True)
        if not self._is_finished:
            self._save()

    def _finished(self) -> dict[str, Any]:
        """The settings of the finished export that is here, {} if there is none."""
        try:
            finished = json.loads((self.output / MANIFEST / FILES).read_text("utf-8"))
            self._done = {fact["name"]: fact for fact in finished["files"]}
            return {name: finished[name] for name in self._settings}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def write(self, name: str, group: Records, write: Callable[[BufferedRandom, ShardStore, Records], None]) -> None:
        """Write one file, unless it is whole already."""
        path, sources = self.output / DATA / name, content_hash({"sha256": [record["sha256"] for record in group]})
        known = self._done.get(name)
        if known and known.get("sources") == sources and path.is_file() and sha256_of(path) == known.get("sha256"):
            return
        if self._is_finished:  # except for this file
            self._is_finished = False
            self._save()
        with replacing(path, sum(record["bytes"] for record in group)) as file:
            write(file, self.store, group)
            size = file.seek(0, 2)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        rows = sum(record["rows"] for record in group)
        self._done[name] = {"name": name, "bytes": size, "sha256": sha256, "rows": rows, "sources": sources}
        self._save()

    def _save(self) -> None:
        sealed = seal({**self._settings, "files": self._done})
        write_file(self.output / MANIFEST / UNFINISHED, sealed.encode())

    def finish(self, *copied: str) -> list[Path]:
        """Write what goes beside the files of images, and give these."""
        paths = [self.output / DATA / name for name in self._done]
        if self._is_finished:
            return paths
        store, manifest = self.store, self.output / MANIFEST
        pairs = [(store.folder / PROVENANCE / name, manifest / name) for name in (PLAN, CAPTIONS)]
        pairs += [(store.folder / name, self.output / name) for name in copied if (store.folder / name).exists()]
        for source, target in pairs:
            with replacing(target, source.stat().st_size) as file, source.open("rb") as content:
                shutil.copyfileobj(content, file)
        facts = {**self._settings, "files": list(self._done.values())}
        write_file(manifest / FILES, (json.dumps(facts, indent=2) + "\n").encode())
        (manifest / UNFINISHED).unlink()
        return paths


def _write_parquet(file: BufferedRandom, store: ShardStore, group: Records) -> None:
    with parquet_writer(file) as writer:
        for record in group:
            with pq.ParquetFile(store.shard_path(record["shard"])) as shard:
                for row_group in range(shard.num_row_groups):
                    writer.write_table(shard.read_row_group(row_group).cast(writer.schema))


def _write_tar(file: BufferedRandom, store: ShardStore, group: Records) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in (row for record in group for row in _rows(store.shard_path(record["shard"]))):
            image = row.pop("image")
            stem, _, suffix = image["path"].rpartition(".")
            _add(tar, f"{stem}.{suffix}", image["bytes"])
            _add(tar, f"{stem}.txt", row["caption"].encode())
            _add(tar, f"{stem}.json", json.dumps(row, ensure_ascii=False).encode())


def _group(records: Records, shard_bytes: int) -> list[Records]:
    """Neighbouring shards joined until the next one would make a file larger than asked for."""
    groups: list[Records] = []
    size = 0
    for record in records:
        if not groups or size + record["bytes"] > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(record)
        size += record["bytes"]
    return groups


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as shard:
        for batch in shard.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner and time stay zero
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
