"""The shipped pictograms and captions: what the splits promise, row by row."""

from __future__ import annotations

import collections
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, load_dataset

from stablerep_hf import assets
from stablerep_hf.captions import caption_id, normalize_caption

LICENSES = {"Apache-2.0", "MIT", "CC-BY-4.0"}


@pytest.fixture(scope="module")
def pictograms(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    cache = tmp_path_factory.mktemp("datasets")
    return load_dataset(str(assets.pictograms_path()), cache_dir=str(cache))


def test_a_stock_load_gives_the_three_splits(pictograms: DatasetDict) -> None:
    assert set(pictograms) == {"train", "held_out_concepts", "held_out_artist"}
    assert min(len(split) for split in pictograms.values()) > 1000


def test_no_concept_crosses_to_the_held_out_concepts(pictograms: DatasetDict) -> None:
    held_out = set(pictograms["held_out_concepts"]["concept"])
    assert not held_out & set(pictograms["train"]["concept"])
    assert not held_out & set(pictograms["held_out_artist"]["concept"])
    assert 0.15 < len(held_out) / (len(held_out) + len(set(pictograms["train"]["concept"]))) < 0.25


def test_the_held_out_artist_drew_nothing_in_training(pictograms: DatasetDict) -> None:
    assert set(pictograms["held_out_artist"]["artist"]) == {"twemoji"}
    assert "twemoji" not in pictograms["train"]["artist"]
    assert set(pictograms["held_out_artist"]["concept"]) <= set(pictograms["train"]["concept"])


def test_both_fluent_sets_are_one_artist(pictograms: DatasetDict) -> None:
    styles = zip(pictograms["train"]["style"], pictograms["train"]["artist"], strict=True)
    assert {artist for style, artist in styles if style.startswith("fluent")} == {"fluent"}


def test_siblings_lie_together_and_are_numbered(pictograms: DatasetDict) -> None:
    for split in pictograms.values():
        ids = split["caption_id"]
        runs = [ids[i] for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
        assert len(runs) == len(set(runs))
    keys = [key for s in pictograms.values() for key in zip(s["caption_id"], s["image_index"], strict=True)]
    assert len(keys) == len(set(keys))


def test_each_caption_is_normal_and_has_its_id(pictograms: DatasetDict) -> None:
    for split in pictograms.values():
        for caption, identity in zip(split["caption"], split["caption_id"], strict=True):
            assert caption == normalize_caption(caption)
            assert identity == caption_id(caption)


def test_each_row_names_its_licence_and_source(pictograms: DatasetDict) -> None:
    for split in pictograms.values():
        assert set(split["license"]) <= LICENSES
        assert all(source.startswith("@iconify-json/") and "@" in source[1:] for source in split["source"])
    rows = pictograms["train"].select_columns(["style", "license"]).to_list()
    # The package of this set is tagged Apache-2.0; the art is not.
    assert {row["license"] for row in rows if row["style"] == "fxemoji"} == {"CC-BY-4.0"}


def test_no_flags_and_no_skin_tones(pictograms: DatasetDict) -> None:
    for split in pictograms.values():
        assert not {"flags", "component"} & set(split["group"])
        assert not any("skin tone" in caption for caption in split["caption"])


def test_images_decode_to_64_pixels_with_white_corners_and_ink(pictograms: DatasetDict) -> None:
    for split in pictograms.values():
        for image in split.select(range(0, len(split), 97))["image"]:
            assert image.size == (64, 64)
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            assert image.convert("L").getextrema()[0] < 250


def test_most_training_concepts_have_several_hands(pictograms: DatasetDict) -> None:
    counts = collections.Counter(pictograms["train"]["caption_id"])
    assert sum(count >= 4 for count in counts.values()) > 0.6 * len(counts)


def test_the_captions_match_the_splits(pictograms: DatasetDict) -> None:
    for name, split in (("train", "train"), ("held_out", "held_out_concepts")):
        table = pq.read_table(assets.captions_path(name)).to_pydict()
        assert set(table["concept"]) == set(pictograms[split]["concept"])
        assert table["caption_id"] == [caption_id(caption) for caption in table["caption"]]
    ids = [set(pq.read_table(assets.captions_path(name))["caption_id"].to_pylist()) for name in ("train", "held_out")]
    assert not ids[0] & ids[1]


def test_the_files_stay_small() -> None:
    size = sum(path.stat().st_size for path in Path(assets.pictograms_path()).rglob("*") if path.is_file())
    assert size < 20e6
