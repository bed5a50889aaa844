from __future__ import annotations

import numpy as np
import pytest
import torch

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import Placement, extract_features, feature_cache, features


@pytest.fixture(autouse=True)
def only_images_of_the_data_are_counted(monkeypatch):
    """Loading an encoder encodes one image twice, to see whether its features stay the same."""
    monkeypatch.setattr("stablerep_hf.evaluation.encoder._check_repeatable", lambda vision: None)


class Counting:
    """An image processor that counts, can say what it does, as transformers' can, and stops at a limit."""

    def __init__(self, image_processor, limit=10**9):
        self.image_processor = image_processor
        self.images = 0
        self.limit = limit

    def __call__(self, images, return_tensors):
        if self.images >= self.limit:
            raise KeyboardInterrupt
        self.images += len(images)
        return self.image_processor(images=images, return_tensors=return_tensors)

    def to_json_string(self):
        return self.image_processor.to_json_string()


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_ROWS", 16)
    monkeypatch.setattr(features, "SHARD_ROWS", 16)


@pytest.fixture
def extract(vit, image_processor, train_world, tmp_path):
    """Extract with a cache: (features, images that were encoded)."""

    def run(model=vit, data=train_world, limit=10**9, **options):
        counting = Counting(image_processor, limit)
        options = {"cache_dir": tmp_path, "batch_size": 8, "progress": False, "columns": ["concept"], **options}
        found = extract_features(model, data, image_processor=counting, **options)
        return found, counting.images

    return run


def test_a_second_extraction_reads_what_the_first_wrote(extract):
    plain, _ = extract(cache_dir=None)
    first, encoded = extract()
    second, again = extract(batch_size=5)  # how it is computed is no part of what it is
    assert (encoded, again) == (72, 0)
    for found in (first, second):
        np.testing.assert_allclose(found.features, plain.features, atol=1e-6)
        np.testing.assert_array_equal(found.columns["concept"], plain.columns["concept"])


def test_an_extraction_that_is_killed_goes_on_behind_its_last_shard(extract):
    with pytest.raises(KeyboardInterrupt):
        extract(limit=40)  # two shards of 16 are written, of the third one batch was encoded
    plain, _ = extract(cache_dir=None)
    found, encoded = extract()
    assert encoded == 72 - 32
    np.testing.assert_allclose(found.features, plain.features, atol=1e-6)


def test_other_weights_data_or_preparation_share_nothing(extract, vit, train_world):
    before, _ = extract()
    with torch.no_grad():
        vit.layernorm.bias += 1
    after, encoded = extract()
    assert encoded == 72
    np.testing.assert_allclose(after.features, before.features + 1, atol=1e-4)
    assert extract(data=train_world.select(range(70)))[1] == 70
    vit.double()
    assert extract()[1] == 72


def test_a_transform_has_a_cache_of_its_own(vit, image_processor, train_world, tmp_path):
    options = {"image_processor": image_processor, "cache_dir": tmp_path, "progress": False}
    plain = extract_features(vit, train_world, **options).features
    for seed in (0, 0, 1):
        moved = extract_features(vit, train_world, transform=Placement(seed=seed), **options).features
        assert not np.allclose(moved, plain)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_shard_is_made_again(extract, tmp_path):
    plain, _ = extract()
    (folder,) = tmp_path.iterdir()
    shards = sorted(folder.glob("*.npz"))
    assert len(shards) == 5
    shards[1].write_bytes(shards[1].read_bytes()[:100])
    shards[3].unlink()
    found, encoded = extract()
    assert encoded == 32
    np.testing.assert_allclose(found.features, plain.features, atol=1e-6)


def test_a_cache_that_was_made_from_something_else_is_refused(extract, tmp_path):
    extract()
    (folder,) = tmp_path.iterdir()
    record = folder / "identity.json"
    record.write_text(record.read_text().replace('"weights": "', '"weights": "0'))
    with pytest.raises(InputError, match=r"made from something else \(weights\)"):
        extract()


def test_bad_images_are_remembered_and_still_counted(vit, image_processor, test_world, tmp_path):
    stored = test_world.cast_column("image", type(test_world.features["image"])(decode=False))
    torn = stored.map(
        lambda row, index: {"image": {"bytes": b"torn", "path": None} if index in (3, 20) else row["image"]},
        with_indices=True,
        features=stored.features,
    ).cast_column("image", test_world.features["image"])
    options = {"image_processor": image_processor, "cache_dir": tmp_path, "progress": False}
    for _ in range(2):
        found = extract_features(vit, torn, max_bad_images=2, **options)
        assert (len(found), found.skipped) == (34, ("row 3", "row 20"))
        with pytest.raises(InputError, match="the last being row 20"):
            extract_features(vit, torn, max_bad_images=1, **options)


def test_a_processor_that_cannot_say_what_it_does_is_not_cached(vit, image_processor, train_world, tmp_path):
    def bare(images, return_tensors):
        return image_processor(images=images, return_tensors=return_tensors)

    with pytest.raises(InputError, match="no to_json_string"):
        extract_features(vit, train_world, image_processor=bare, cache_dir=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
