"""A finished store in the forms in which others take it: large parquet shards for the Hub, WebDataset tars."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..errors import InputError
from ..files.atomic import explaining, replacing
from ..files.shards import CAPTIONS, DATA, FILES, MANIFEST, PLAN, PROVENANCE
from .schema import image_features
from .store import ShardStore
from .verification import open_store

HUB_SHARD_BYTES = 500_000_000  # what `datasets` makes; the Hub wants files far below 20 GB and few of them
_COPIED = ("README.md", "grid.png", "scores.png", "audit.png")


def export_parquet(folder: str | Path, output_dir: str | Path, *, shard_bytes: int = HUB_SHARD_BYTES) -> list[Path]:
    """Join the small shards of a store, which are units of work, into large ones, which the Hub prefers.

    Besides `data/train-00000-of-0000N.parquet` the folder gets the card, and in `manifest/` the plan, its captions and
    size, rows and sha256 of every file.

    Args:
        folder: A finished store.
        output_dir: A folder that is empty or does not exist.
        shard_bytes: About how large the files are to be.

    Returns:
        The files of images.

    Raises:
        InputError: If the store is not whole, the output folder holds something, or the disk is full.
    """
    store, records, output = _prepare(folder, output_dir, shard_bytes)
    groups = _group(records, shard_bytes)
    schema = image_features().arrow_schema
    facts, paths = [], []
    for number, group in enumerate(groups):
        path = output / DATA / f"train-{number:05d}-of-{len(groups):05d}.parquet"
        with replacing(path) as file:
            with pq.ParquetWriter(file, schema, use_content_defined_chunking=True, write_page_index=True) as writer:
                for record in group:
                    with pq.ParquetFile(store.shard_path(record["shard"])) as shard:
                        for row_group in range(shard.num_row_groups):
                            writer.write_table(shard.read_row_group(row_group).cast(schema))
            facts.append(_describe(path, file, group))
        paths.append(path)
    _finish(store, output, facts)
    return paths


def export_webdataset(folder: str | Path, output_dir: str | Path, *, shard_bytes: int = HUB_SHARD_BYTES) -> list[Path]:
    """Write tars that webdataset, open_clip and `datasets` read: of each row an image, its caption and its columns.

    `data/train-00000.tar` ...: `<caption_id>-<image_index>.jpg` (or png, webp), `.txt` with the caption, `.json` with
    all columns but the image. Siblings stand together. The bytes depend on the store alone.

    Args:
        folder: A finished store.
        output_dir: A folder that is empty or does not exist.
        shard_bytes: About how large the files are to be.

    Returns:
        The tars.

    Raises:
        InputError: As `export_parquet`.
    """
    store, records, output = _prepare(folder, output_dir, shard_bytes)
    facts, paths = [], []
    for number, group in enumerate(_group(records, shard_bytes)):
        path = output / DATA / f"train-{number:05d}.tar"
        with replacing(path) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for row in _rows(store, group):
                    image = row.pop("image")
                    stem, _, suffix = image["path"].rpartition(".")
                    _add(tar, f"{stem}.{suffix}", image["bytes"])
                    _add(tar, f"{stem}.txt", row["caption"].encode())
                    _add(tar, f"{stem}.json", json.dumps(row, ensure_ascii=False).encode())
            facts.append(_describe(path, file, group))
        paths.append(path)
    _finish(store, output, facts)
    (output / "README.md").unlink(missing_ok=True)  # it tells of parquet
    return paths


def _prepare(
    folder: str | Path, output_dir: str | Path, shard_bytes: int
) -> tuple[ShardStore, list[dict[str, Any]], Path]:
    if shard_bytes < 1:
        raise InputError(f"shard_bytes is {shard_bytes}, which holds no image; set it to 1 or more.")
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"The output {str(output_dir)!r} is there and not an empty folder; name another.")
    store = open_store(folder)
    found = [store.find_record(shard) for shard in range(store.plan.num_shards)]
    records = [record for record in found if record is not None]
    if len(records) < len(found):
        raise InputError(
            f"{len(found) - len(records)} of {len(found)} shards of {str(folder)!r} are missing or damaged; finish or "
            "repair the folder first."
        )
    for name in (DATA, MANIFEST):
        with explaining(output / name):
            (output / name).mkdir(parents=True, exist_ok=True)
    return store, records, output


def _group(records: list[dict[str, Any]], shard_bytes: int) -> list[list[dict[str, Any]]]:
    """Neighbouring shards joined until the next one would make a file larger than asked for."""
    groups: list[list[dict[str, Any]]] = []
    size = 0
    for record in records:
        if not groups or size + record["bytes"] > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(record)
        size += record["bytes"]
    return groups


def _rows(store: ShardStore, group: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in group:
        with pq.ParquetFile(store.shard_path(record["shard"])) as shard:
            for batch in shard.iter_batches(batch_size=256):
                yield from batch.to_pylist()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner and time stay zero
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _describe(path: Path, file: io.BufferedRandom, group: list[dict[str, Any]]) -> dict[str, Any]:
    size = file.seek(0, 2)
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": size, "sha256": sha256, "rows": sum(record["rows"] for record in group)}


def _finish(store: ShardStore, output: Path, facts: list[dict[str, Any]]) -> None:
    with replacing(output / MANIFEST / FILES) as file:
        file.write((json.dumps({"plan_hash": store.plan.hash, "files": facts}, indent=2) + "\n").encode())
    for name in (PLAN, CAPTIONS):
        shutil.copyfile(store.folder / PROVENANCE / name, output / MANIFEST / name)
    for name in _COPIED:
        if (store.folder / name).exists():
            shutil.copyfile(store.folder / name, output / name)
