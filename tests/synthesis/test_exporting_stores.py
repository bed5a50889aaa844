from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from painters import Painter

from stablerep_hf.errors import InputError
from stablerep_hf.files.shards import check_shards
from stablerep_hf.synthesis import (
    SynthesisPlan,
    export as exporting,
    export_parquet,
    export_webdataset,
    image_features,
    synthesize,
)
from stablerep_hf.synthesis.schema import write_rows

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


@pytest.mark.parametrize(("export", "writer"), [(export_parquet, "_write_parquet"), (export_webdataset, "_write_tar")])
@pytest.mark.parametrize("ending", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_was_interrupted_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Any, writer: str, ending: BaseException
) -> None:
    whole = export(folder, tmp_path / "whole", shard_bytes=1)
    write, written = getattr(exporting, writer), []

    def write_three(file: Any, store: Any, group: Any) -> None:
        if len(written) == 3:
            file.write(b"begun")
            raise ending
        written.append(group)
        write(file, store, group)

    with monkeypatch.context() as patch, pytest.raises((InputError, KeyboardInterrupt)) as caught:
        patch.setattr(exporting, writer, write_three)
        export(folder, tmp_path / "out", shard_bytes=1)
    if isinstance(ending, OSError):
        assert re.search(
            r"takes about 0\.0 MB while .* are free: free some and run the same command", str(caught.value)
        )
    with pytest.raises(InputError, match=r"unfinished.json.*interrupted: run the same `stablerep export` again"):
        check_shards(tmp_path / "out")
    with pytest.raises(InputError, match="holds no part of this export"):
        export(folder, tmp_path / "out", shard_bytes=2)
    (tmp_path / "out/data/.left.tmp").touch()  # what a kill leaves
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/data").glob("train*")}
    assert len(kept) == 3
    paths = export(folder, tmp_path / "out", shard_bytes=1)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "whole", tmp_path / "out")
    ]
    assert files[0] == files[1] and len(paths) == len(whole) == 6
    check_shards(tmp_path / "out")
    (tmp_path / "out/README.md").write_text("mine")
    times = {path: path.stat().st_mtime_ns for path in paths}
    assert export(folder, tmp_path / "out", shard_bytes=1) == paths, "a finished one is found finished"
    assert {path: path.stat().st_mtime_ns for path in paths} == times
    assert (tmp_path / "out/README.md").read_text() == "mine"
    paths[1].write_bytes(b"damaged")
    export(folder, tmp_path / "out", shard_bytes=1)
    check_shards(tmp_path / "out")


def test_a_failing_write_of_parquet_is_an_error_and_no_abort() -> None:
    class Full(BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    row = dict.fromkeys(image_features()) | {"image": {"bytes": b"x" * 2_000_000, "path": "x"}}
    with pytest.raises(OSError, match="No space left"):
        write_rows(Full(), [row])


def test_exports_that_cannot_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    for write in (export_parquet, export_webdataset):
        with pytest.raises(InputError, match="is not empty and holds no part of this export"):
            write(folder, tmp_path / "full")
        with pytest.raises(InputError, match="shard_bytes=0 holds"):
            write(folder, tmp_path / "new", shard_bytes=0)
    next((folder / "data").iterdir()).write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of 6 shards .* missing or damaged"):
        export_parquet(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()
