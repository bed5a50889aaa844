"""`stablerep retrieve`: which images, what is left out, in what form, and that it goes on after an interruption."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from stablerep_hf import cli
from stablerep_hf.assets import dual_encoder_path
from stablerep_hf.captions import caption_id
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features, load_encoder
from stablerep_hf.retrieval.siblings import find_siblings, near_duplicates
from stablerep_hf.runs import retrieval
from stablerep_hf.runs.picture_hashes import hash_encoder
from stablerep_hf.runs.retrieval import RetrievalSettings, retrieve
from stablerep_hf.synthesis import verify_store
from stablerep_hf.synthesis.frames import perceptual_hash
from stablerep_hf.synthesis.store import ShardStore
from stablerep_hf.training import GroupedImages, load_caption_groups
from stablerep_hf.training.augmentation import RECIPES

CAPTIONS = ["a red circle", "a blue square", "a green tree", "a yellow sun", "a house"]


def picture(seed: int) -> Image.Image:
    """Coarse random colours: no two are near in hash or look."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((40, 48), Image.Resampling.NEAREST)


def png(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def save(folder, images, split="train"):
    data = datasets.Dataset.from_dict({"image": [png(image) for image in images]})
    data.cast_column("image", datasets.Image()).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    pictures = [picture(seed) for seed in range(40)]
    pictures[7] = pictures[6].resize((80, 96))  # near duplicates of one another
    save(root / "photos", pictures)
    save(root / "benchmark", [pictures[3].rotate(1), picture(99)], "test")
    (root / "captions.txt").write_text("\n".join(CAPTIONS))
    return root


def settings_for(world, output, **changes):
    own = {"captions": str(world / "captions.txt"), "data": str(world / "photos"), "cache": str(world / "cache")}
    return RetrievalSettings(**{**own, "output": str(output), "per_caption": 3, "captions_per_shard": 2, **changes})


def similarities(world):
    """(5, 40), by hand."""
    dual = load_encoder(dual_encoder_path())
    images = extract_features(dual, datasets.load_dataset(str(world / "photos"), split="train"), progress=False).embeds
    texts = dual.embed_texts(CAPTIONS).numpy()
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (texts, images)]
    return unit[0] @ unit[1].T


def rows_of(folder):
    table = pq.read_table(folder / "provenance" / "hits.parquet")
    found = {}
    for caption, row in zip(table["caption"].to_pylist(), table["row"].to_pylist(), strict=True):
        found.setdefault(caption, []).append(row)
    return found


def test_the_nearest_images_are_written_in_the_form_of_a_drawn_set(world, tmp_path):
    found = retrieve(settings_for(world, tmp_path / "out"))
    assert (found.num_captions, found.num_images, found.num_fewer, found.num_without) == (5, 15, 0, 0)
    cosines = similarities(world)
    for caption, rows in rows_of(tmp_path / "out").items():
        ranked = [row for row in np.argsort(-cosines[caption], kind="stable") if row != 7 or 6 not in rows]
        assert rows == ranked[:3]
    images = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert images["caption"][:] == [caption for caption in CAPTIONS for _ in range(3)]
    assert images["caption_id"][::3] == [caption_id(caption) for caption in CAPTIONS]
    assert images["image_index"][:] == [0, 1, 2] * 5
    first = rows_of(tmp_path / "out")[0][0]
    assert images["alignment"][0] == pytest.approx(cosines[0, first], abs=1e-5)
    difference = np.abs(np.asarray(images["image"][0], float) - np.asarray(picture(first), float))
    assert difference.mean() < 3, "the picture itself, as a JPEG"
    report = verify_store(tmp_path / "out", progress=False)
    assert report.problems == () and report.num_images == 15
    card = (tmp_path / "out" / "README.md").read_text()
    assert "real ones that a dual encoder found" in card and "images are synthetic" not in card
    assert "- synthetic" not in card and "drawn" not in card.partition("## Made with")[0]


def test_no_image_file_claims_to_be_drawn(world, tmp_path):
    retrieve(settings_for(world, tmp_path / "out", image_format="png", stored_size=20))
    stored = datasets.load_dataset(str(tmp_path / "out"), split="train")
    for row in stored.cast_column("image", datasets.Image(decode=False)):
        assert b"trainedAlgorithmicMedia" not in row["image"]["bytes"]
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (20, 24)


def test_near_duplicates_of_evaluation_sets_are_dropped_and_counted(world, tmp_path):
    everything = {"per_caption": 40, "near_bits": 6}
    free = retrieve(settings_for(world, tmp_path / "free", **everything))
    assert free.num_excluded == {} and 3 in rows_of(tmp_path / "free")[0]
    found = retrieve(settings_for(world, tmp_path / "out", exclude=[str(world / "benchmark")], **everything))
    assert found.num_excluded == {"benchmark": 1}
    for rows in rows_of(tmp_path / "out").values():
        assert 3 not in rows and len({6, 7} & set(rows)) == 1 and len(rows) == 38
    assert found.num_fewer == 5
    assert "benchmark 1" in (tmp_path / "out" / "README.md").read_text()


def test_captions_without_enough_near_images_get_fewer_and_are_counted(world, tmp_path, capsys):
    cosines = similarities(world)
    least = float(np.sort(cosines.ravel())[-9]) - 1e-6  # nine hits in all
    words = ["--captions", world / "captions.txt", "--data", world / "photos", "--cache", world / "cache"]
    words += ["--per-caption", 3, "--output", tmp_path / "out", "--min-similarity", least]
    assert cli.main(["retrieve", *map(str, words)]) == 0
    counts = (cosines >= least).sum(1)
    out = capsys.readouterr().out
    fewer, none = int(((counts > 0) & (counts < 3)).sum()), int((counts == 0).sum())
    assert f"{fewer} captions have fewer than 3, and {none} have none and were left out." in out
    assert {caption: len(rows) for caption, rows in rows_of(tmp_path / "out").items()} == {
        caption: min(3, count) for caption, count in enumerate(counts.tolist()) if count
    }


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(world, tmp_path, monkeypatch):
    whole, broken = settings_for(world, tmp_path / "whole"), settings_for(world, tmp_path / "broken")
    retrieve(whole)
    written: list[int] = []
    write = ShardStore.write_shard
    most = 1

    def counting(self, shard, *arguments):
        if len(written) == most:
            raise KeyboardInterrupt
        written.append(shard)
        return write(self, shard, *arguments)

    monkeypatch.setattr(ShardStore, "write_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        retrieve(broken)
    assert not (tmp_path / "broken" / "README.md").exists()
    most = 3
    monkeypatch.setattr(retrieval, "_find", None)  # the hits that were found are kept
    assert retrieve(broken).is_complete
    assert written == [0, 1, 2], "no shard was written twice"
    for path in sorted((tmp_path / "whole" / "data").iterdir()):
        assert path.read_bytes() == (tmp_path / "broken" / "data" / path.name).read_bytes()


def test_processes_write_their_shards_and_the_last_one_the_card(world, tmp_path, monkeypatch):
    retrieve(settings_for(world, tmp_path / "one"))
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        found = retrieve(settings_for(world, tmp_path / "two"))
        assert found.is_complete == (rank == 0) == (tmp_path / "two" / "README.md").exists()
    for path in sorted((tmp_path / "one" / "data").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / "data" / path.name).read_bytes()


def test_retrieved_images_join_a_drawn_set_of_the_same_captions(world, tmp_path):
    retrieve(settings_for(world, tmp_path / "real"))
    drawn = datasets.Dataset.from_dict(
        {"image": [png(picture(seed)) for seed in range(100, 110)], "caption": [c for c in CAPTIONS for _ in range(2)]}
    )
    drawn.cast_column("image", datasets.Image()).to_parquet(tmp_path / "drawn" / "train.parquet")
    groups = GroupedImages(
        load_caption_groups([tmp_path / "drawn", tmp_path / "real"]),
        images_per_caption=4,
        crops_per_image=1,
        image_size=16,
        recipe=RECIPES["weak"],
        seed=0,
        source_weights=[1, 1],
    )
    assert groups.source_sizes.tolist() == [[2, 3]] * 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": "embedded-stablerep"}, "has no text tower"),
        ({"min_similarity": 0.9999}, "min_similarity=0.9999 is more than any image has to any caption"),
        ({"per_caption": 0}, "per_caption=0 and near_bits=6 find nothing"),
        ({"exclude": ["PHOTOS"]}, "Each of the 40 images resembles one of an evaluation set"),
        ({"license": "other"}, "licen"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_writes_nothing(world, tmp_path, changes, sentence):
    if changes.get("exclude"):
        changes = {"exclude": [str(world / "photos")]}
    with pytest.raises(InputError, match=sentence):
        retrieve(settings_for(world, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_names_are_checked_before_images_are_encoded(world, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr("stablerep_hf.evaluation.features.encode_shards", never)
    plain = datasets.Dataset.from_dict({"text": ["no image"]})
    plain.to_parquet(tmp_path / "texts" / "train.parquet")
    with pytest.raises(InputError, match=r"exclude=.* has no column of images"):
        retrieve(settings_for(world, tmp_path / "out", exclude=[str(tmp_path / "texts")]))
    assert not (tmp_path / "out").exists()


def test_another_search_in_the_same_folder_is_refused(world, tmp_path):
    retrieve(settings_for(world, tmp_path / "out"))
    files = [tmp_path / "out" / "provenance" / name for name in ("plan.json", "hits.parquet")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(InputError, match="holds images of another plan"):
        retrieve(settings_for(world, tmp_path / "out", per_caption=2))
    assert [file.read_bytes() for file in files] == before
    retrieve(settings_for(world, tmp_path / "out"))
    assert cli.main(["regenerate", str(tmp_path / "out"), "--caption", CAPTIONS[0]]) == 2


def test_hashes_are_those_of_the_store_and_distances_are_exact():
    pictures = [picture(seed) for seed in range(6)]
    data = datasets.Dataset.from_dict({"image": [png(image) for image in pictures]})
    found = extract_features(hash_encoder(), data.cast_column("image", datasets.Image()), progress=False).features
    assert found.shape == (6, 64) and set(np.unique(found)) == {-1.0, 1.0}
    ours = [int(np.packbits(bits > 0).view(">i8")[0]) for bits in found]
    assert ours == [perceptual_hash(image) for image in pictures]
    other = found.copy()
    for row in range(6):
        other[row, :row] *= -1  # row bits apart
    for bits in range(6):
        assert near_duplicates(found, other, bits).tolist() == [row <= bits for row in range(6)]


def test_a_caption_gets_one_of_near_duplicates():
    images = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]] + 0.1
    hashes = np.ones((4, 64), np.float32)
    hashes[2:, :32] = -1
    hashes[3, 32:] = -1
    hits = find_siblings(torch.tensor([[1.0, 0.5, 0, 0]]), images, hashes, 3, near_bits=4)
    assert hits.image.tolist() == [0, 2, 3] and hits.num_near == 1
    assert find_siblings(torch.tensor([[1.0, 0.5, 0, 0]]), images, hashes, 3, near_bits=0).image.tolist() == [0, 2, 3]
