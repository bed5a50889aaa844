from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from painters import Painter

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import (
    SynthesisPlan,
    export_parquet,
    export_webdataset,
    image_features,
    synthesize,
)

MakePlan = Callable[..., SynthesisPlan]


@pytest.fixture
def folder(make_plan: MakePlan, tmp_path: Path) -> Path:
    synthesize(make_plan(22), Painter(), tmp_path / "store", progress=False)  # six shards
    return tmp_path / "store"


def bare(path: Path, cache: Path) -> list[dict[str, object]]:
    dataset = datasets.load_dataset(str(path), split="train", cache_dir=str(cache))
    return dataset.cast_column("image", datasets.Image(decode=False)).to_list()


def test_large_shards_hold_the_same_rows(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\na card")
    size = max(path.stat().st_size for path in (folder / "data").iterdir())
    paths = export_parquet(folder, tmp_path / "hub", shard_bytes=2 * size + 1)
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert bare(tmp_path / "hub", tmp_path / "a") == bare(folder, tmp_path / "b")
    assert datasets.Features.from_arrow_schema(pq.read_schema(paths[0])) == image_features()
    manifest = json.loads((tmp_path / "hub/manifest/files.json").read_text())
    assert sum(file["rows"] for file in manifest["files"]) == 44
    for file, path in zip(manifest["files"], paths, strict=True):
        assert (file["name"], file["bytes"]) == (path.name, path.stat().st_size)
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "hub/README.md").exists()
    assert len(export_parquet(folder, tmp_path / "one")) == 1


def test_tars_hold_image_caption_and_columns(folder: Path, tmp_path: Path) -> None:
    paths = export_webdataset(folder, tmp_path / "wds", shard_bytes=8_000)
    assert len(paths) > 1
    rows = datasets.load_dataset(
        "webdataset", data_files={"train": [str(path) for path in paths]}, split="train", cache_dir=str(tmp_path / "a")
    )
    assert rows.num_rows == 44
    expected = bare(folder, tmp_path / "b")
    for row, there in zip(rows.cast_column("jpg", datasets.Image(decode=False)), expected, strict=True):
        assert row["jpg"]["bytes"] == there["image"]["bytes"]  # type: ignore[index]
        assert row["txt"] == there["caption"]
        assert row["json"]["caption_id"] == there["caption_id"]
        assert row["__key__"] == f"{there['caption_id']:019d}-{there['image_index']}"
    again = export_webdataset(folder, tmp_path / "again", shard_bytes=8_000)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_other_engines_read_the_shards(folder: Path, tmp_path: Path) -> None:
    import duckdb
    import pandas
    import polars

    files = str(folder / "data/*.parquet")
    query = f"select caption, count(*) as n, max(octet_length(image.bytes)) as size from '{files}' group by caption"
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == 22
    assert all(number == 2 and size > 100 for _, number, size in rows)
    frame = polars.read_parquet(files)
    assert frame.shape == (44, len(image_features()))
    assert frame["image"].struct.field("bytes")[0][:2] == b"\xff\xd8"
    assert set(pandas.read_parquet(folder / "data")["seed"]) == set(frame["seed"])


def test_exports_that_cannot_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    for write in (export_parquet, export_webdataset):
        with pytest.raises(InputError, match="not an empty folder"):
            write(folder, tmp_path / "full")
        with pytest.raises(InputError, match="shard_bytes is 0"):
            write(folder, tmp_path / "new", shard_bytes=0)
    next((folder / "data").iterdir()).write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of 6 shards .* missing or damaged"):
        export_parquet(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()
