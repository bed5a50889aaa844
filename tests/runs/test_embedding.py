"""Features of a data set in a file, and of pictures that are none."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stablerep_hf import cli, evaluation
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features, feature_cache, features, pixel_encoder
from stablerep_hf.evaluation.images import load_images
from stablerep_hf.runs.embedding import EmbeddingSettings, embed_dataset


@pytest.fixture
def photos(tmp_path):
    """Two dozen pictures with labels and lists of captions, one of them torn."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = {"image": [], "label": [], "captions": [], "raw": []}
    for row in range(24):
        rows["image"].append(Image.fromarray(generator.integers(0, 255, (9, 9, 3)).astype(np.uint8)))
        rows["label"].append(row % 3)
        rows["captions"].append([f"picture {row}", "a picture"])
        rows["raw"].append(b"large")
    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["x", "y", "z"]),
        "captions": datasets.List(datasets.Value("string")),
        "raw": datasets.Value("binary"),
    }
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    stored = data.cast_column("image", datasets.Image(decode=False))
    torn = stored.map(
        lambda row, index: {
            "image": {"bytes": row["image"]["bytes"][:40], "path": None} if index == 7 else row["image"]
        },
        with_indices=True,
        features=stored.features,
    )
    torn.to_parquet(folder / "train.parquet")
    return folder


def settings_for(photos, **changes):
    own = {"data": str(photos), "output": str(photos.parent / "out" / "features.parquet"), "cache": "none"}
    return EmbeddingSettings(**{**own, "max_bad_images": 1, **changes})


def test_the_file_holds_features_and_small_columns(photos, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 10)
    found = embed_dataset(pixel_encoder(), settings_for(photos))
    assert (found.count, found.dimensions, found.skipped) == (23, 192, 1)
    loaded = datasets.load_dataset("parquet", data_files=str(found.path), split="train")
    assert loaded.column_names == ["row", "label", "captions", "features"]
    assert loaded.features["label"].names == ["x", "y", "z"]
    assert loaded.features["features"] == datasets.List(datasets.Value("float32"), length=192)
    assert loaded["row"][:] == [row for row in range(24) if row != 7]
    assert loaded[7]["captions"] == ["picture 8", "a picture"]
    data = datasets.load_dataset(str(photos), split="train")
    expected = extract_features(pixel_encoder(), data, max_bad_images=1, progress=False).features
    assert np.array_equal(loaded.with_format("numpy")["features"][:], expected)
    assert pq.ParquetFile(found.path).num_row_groups == 3, "a shard at a time"


def test_half_precision_and_chosen_columns(photos):
    found = embed_dataset(pixel_encoder(), settings_for(photos, float16=True, columns=["label"]))
    table = pq.read_table(found.path)
    assert table.column_names == ["row", "label", "features"]
    assert str(
        table.schema.field("features").type
    ) == "fixed_size_list<element: halffloat>[192]" or "halffloat" in str(table.schema.field("features").type)
    for column in ("image", "features", "nothing"):
        with pytest.raises(
            InputError, match=f"The column '{column}' of columns= cannot be kept: name some of captions"
        ):
            embed_dataset(pixel_encoder(), settings_for(photos, columns=[column]))


def test_too_many_torn_images_leave_no_file(photos):
    settings = settings_for(photos, max_bad_images=0)
    with pytest.raises(InputError, match="1 of the images in column 'image' cannot be decoded, the last being row 7"):
        embed_dataset(pixel_encoder(), settings)
    assert list((photos.parent / "out").iterdir()) == []


def test_a_killed_embedding_goes_on(photos, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 5)
    monkeypatch.setattr(feature_cache, "SHARD_ROWS", 5)
    settings = settings_for(photos, cache=str(photos.parent / "cache"))
    encode, calls = features._encode, []

    def until(count):
        def counted(*arguments):
            if len(calls) == count:
                raise KeyboardInterrupt
            calls.append(1)
            return encode(*arguments)

        return counted

    monkeypatch.setattr(features, "_encode", until(2))
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(pixel_encoder(), settings)
    assert not (photos.parent / "out" / "features.parquet").exists()
    monkeypatch.setattr(features, "_encode", until(99))
    embed_dataset(pixel_encoder(), settings)
    assert len(calls) == 5, "the two shards that stood were read"


def test_the_command_says_what_it_wrote(photos, capsys):
    out = photos.parent / "f.parquet"
    flags = ["--data", str(photos), "--output", str(out), "--max_bad_images", "1", "--cache", "none"]
    assert cli.main(["embed", "embedded", *flags]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 23 x " in said and "1 images that cannot be decoded left out" in said
    table = pq.read_table(out)
    assert table.column_names == ["row", "label", "captions", "features", "embeds"]
    assert cli.main(["embed", *flags]) == 2


def test_pictures_that_are_no_data_set_are_encoded_as_in_one(photos, tmp_path):
    data = load_images(photos, "train").select(range(5))
    expected = extract_features(pixel_encoder(), data, progress=False).features
    pictures = data.cast_column("image", datasets.Image())["image"][:]
    pictures[1].save(tmp_path / "one.png")
    given = [pictures[0], tmp_path / "one.png", (tmp_path / "one.png").read_bytes(), pictures[3], pictures[4]]
    found = evaluation.embed_images(pixel_encoder(), given, batch_size=2)
    assert np.array_equal(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
    assert np.array_equal(found[2], expected[1])
    with pytest.raises(InputError, match="Image 1 cannot be decoded"):
        evaluation.embed_images(pixel_encoder(), [pictures[0], b"none"])
    with pytest.raises(InputError, match="There are 0 images"):
        evaluation.embed_images(pixel_encoder(), [])


def test_the_line_that_loads_the_file_can_be_run(photos, tmp_path, capsys):
    output = tmp_path / "d[1]" / "features*.parquet"
    flags = ["--data", str(photos), "--cache", "none", "--max_bad_images", "1", "--output", str(output)]
    assert cli.main(["embed", "embedded", *flags]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert len(eval(line, {"datasets": datasets})) == len(pq.read_table(output))
