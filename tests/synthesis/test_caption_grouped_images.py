from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import CaptionGroupedImages, DiffusersGenerator, image_features, read_provenance


@pytest.fixture
def make_builder(tmp_path: Path, tiny_pipeline: Path) -> Any:
    (tmp_path / "captions.txt").write_text("a dog\na cat\na house\na dog\n")

    def make(**settings: Any) -> CaptionGroupedImages:
        return CaptionGroupedImages(
            **{
                "cache_dir": str(tmp_path / "cache"),
                "captions": str(tmp_path / "captions.txt"),
                "store": str(tmp_path / "store"),
                "generator": str(tiny_pipeline),
                "num_inference_steps": 2,
                "images_per_caption": 3,
                "captions_per_shard": 2,
                **settings,
            }
        )

    return make


def test_preparing_draws_and_serves_the_shards(
    make_builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = make_builder()
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset(split="train")
    assert (builder.name, rows.features) == ("caption_grouped_images", image_features())
    assert Counter(rows["caption"]) == {"a dog": 3, "a cat": 3, "a house": 3}
    plain = datasets.load_dataset(str(tmp_path / "store"), split="train", cache_dir=str(tmp_path / "cache"))
    bare = [data.cast_column("image", datasets.Image(decode=False)).to_list() for data in (plain, rows)]
    assert bare[0] == bare[1]
    assert len(read_provenance(tmp_path / "store").shards) == 2

    # Prepared again, even by another process with another cache, nothing is drawn.
    monkeypatch.setattr(DiffusersGenerator, "__call__", None)
    again = make_builder(cache_dir=str(tmp_path / "other cache"))
    again.download_and_prepare()
    assert again.as_dataset(split="train").num_rows == 9
    assert [row["caption"] for row in make_builder().as_streaming_dataset(split="train")] == plain["caption"][:]


def test_the_cache_follows_what_is_drawn_not_how_it_is_spelled(make_builder: Any, tmp_path: Path) -> None:
    builder = make_builder()
    assert make_builder(batch_size=2, store=str(tmp_path / "x")).cache_dir == builder.cache_dir
    assert make_builder(base_seed=1).cache_dir != builder.cache_dir
    (tmp_path / "captions.txt").write_text("a dog\na bird\n")  # same file name, other captions
    assert make_builder().cache_dir != builder.cache_dir


def test_a_missing_piece_gets_one_sentence(make_builder: Any) -> None:
    with pytest.raises(InputError, match="given no captions; pass captions="):
        make_builder(captions=None)
    with pytest.raises(InputError, match="given no store"):
        make_builder(store=None)
    with pytest.raises(TypeError, match="images_per_captoin"):
        make_builder(images_per_captoin=3)
