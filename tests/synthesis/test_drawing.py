from __future__ import annotations

import itertools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painters import Painter, picture
from PIL import Image

from stablerep_hf.assets import find_encoder
from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import load_encoder
from stablerep_hf.hub import dataset_facts, render_dataset_card
from stablerep_hf.synthesis import SynthesisPlan, read_provenance, siblings, synthesize
from stablerep_hf.synthesis.drawing import MOST_REDRAWS, draw_shard
from stablerep_hf.synthesis.frames import encode_image, is_black, is_blank, perceptual_hash, store_frame
from stablerep_hf.synthesis.labelling import read_label

MakePlan = Callable[..., SynthesisPlan]


def literal_indices(
    plan: SynthesisPlan, caption: str, number: int, bad: Callable[[str, int], bool]
) -> list[int] | None:
    """The first m indices that carry a picture; None after too many that do not."""
    found, failures, index = [], 0, 0
    while len(found) < plan.images_per_caption:
        if bad(plan.prompt(caption, number, index), plan.seed(number, index)):
            failures += 1
            if failures > MOST_REDRAWS:
                return None
        else:
            found.append(index)
        index += 1
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_redrawing_finds_the_same_rows_whatever_the_batches(make_plan: MakePlan, batch_size: int) -> None:
    plan = make_plan(30, images_per_caption=4, prompt_templates=("{caption}", "{caption} in oil"), image_format="png")

    def bad(prompt: str, seed: int) -> bool:
        return seed % 10 < 7 or prompt.startswith("thing 5 ")

    painter = Painter(flag=lambda p, s: bad(p, s) and s % 2 == 0, black=lambda p, s: bad(p, s) and s % 2 == 1)
    told: list[int] = []
    drawn = draw_shard(plan, plan.captions, painter, batch_size, told.append)

    expected, redrawn, failed = [], 0, []
    for text, number in zip(plan.captions, plan.captions.caption_ids.tolist(), strict=True):
        indices = literal_indices(plan, text, number, bad)
        if indices is None:
            failed.append(number)
            redrawn += MOST_REDRAWS
        else:
            expected += [(text, number, index) for index in indices]
            redrawn += indices[-1] + 1 - 4
    assert [(row["caption"], row["caption_id"], row["image_index"]) for row in drawn.rows] == expected
    assert (drawn.num_redrawn, drawn.failed_captions) == (redrawn, failed)
    assert failed
    assert redrawn > 30
    assert sum(told) >= len(expected)
    for row in drawn.rows:
        assert row["seed"] == plan.seed(row["caption_id"], row["image_index"])
        assert row["prompt"] == plan.prompt(row["caption"], row["caption_id"], row["image_index"])
        assert (np.asarray(Image.open(BytesIO(row["image"]["bytes"]))) == picture(row["seed"])).all()


def test_batches_are_full_and_mix_captions(make_plan: MakePlan) -> None:
    plan, painter = make_plan(5, images_per_caption=3), Painter()
    draw_shard(plan, plan.captions, painter, 4)
    assert [len(prompts) for prompts, _ in painter.calls] == [4, 4, 4, 3]
    assert len(set(painter.calls[0][0])) == 2


def distance(one: int, other: int) -> int:
    return bin((one ^ other) % 2**64).count("1")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_near_siblings_are_redrawn_whatever_the_batches(make_plan: MakePlan, batch_size: int) -> None:
    plan = make_plan(12, images_per_caption=4, image_format="png", min_sibling_distance=31)
    black = {plan.seed(number, 1) for number in plan.captions.caption_ids.tolist()[::3]}
    drawn = draw_shard(plan, plan.captions, Painter(black=lambda p, s: s in black), batch_size)

    near, indices = 0, {}
    for number in plan.captions.caption_ids.tolist():
        hashes: list[int] = []
        index = 0
        indices[number] = []
        while len(hashes) < 4:
            bits = perceptual_hash(Image.fromarray(picture(plan.seed(number, index))))
            if plan.seed(number, index) not in black:
                if all(distance(bits, other) >= 31 for other in hashes):
                    hashes.append(bits)
                    indices[number].append(index)
                else:
                    near += 1
            index += 1
    found: dict[int, list[int]] = {}
    for row in drawn.rows:
        found.setdefault(row["caption_id"], []).append(row["image_index"])
    assert found == indices
    assert drawn.num_near == near > 10
    assert drawn.num_redrawn == near + len(black)


def test_a_distance_that_nothing_meets_is_one_sentence(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(5, captions_per_shard=1, min_sibling_distance=64)
    said = (
        r"1 of the captions .* \(17 frames withheld or black, or nearer to a sibling than min_sibling_distance=64\), "
        r"such as 'thing 0' .* allow siblings to be nearer"
    )
    with pytest.raises(InputError, match=said):
        synthesize(plan, Painter(), tmp_path, progress=False)
    for wrong in (0, 65):
        with pytest.raises(InputError, match=f"min_sibling_distance={wrong} is not a distance"):
            make_plan(5, min_sibling_distance=wrong)
    # Nothing was lost: a distance that can be met goes on in the same folder, with any number of workers.
    plan = make_plan(12, min_sibling_distance=31)
    synthesize(plan, Painter(), tmp_path, rank=1, world_size=3, progress=False)
    synthesize(plan, Painter(), tmp_path, batch_size=3, progress=False)
    synthesize(plan, Painter(), tmp_path / "at-once", batch_size=5, progress=False)
    files = [sorted((folder / "data").iterdir()) for folder in (tmp_path, tmp_path / "at-once")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    provenance = read_provenance(tmp_path)
    assert provenance.num_near_siblings == provenance.num_redrawn > 0
    assert "| frames drawn again because they resembled a sibling |" in str(
        render_dataset_card(dataset_facts(tmp_path, name="x", license="mit"))
    )


def test_only_black_is_no_picture() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert is_black(Image.fromarray(pixels))
    assert is_black(Image.new("L", (4, 4)))
    assert is_black(Image.new("RGBA", (4, 4), (0, 0, 0, 255)))
    pixels[3, 2, 1] = 1
    assert not is_black(Image.fromarray(pixels))
    assert not is_black(Image.new("RGB", (4, 4), "white"))


def test_images_are_stored_in_the_format_of_the_plan() -> None:
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    for image_format, error in (("jpeg", 4), ("png", 0), ("webp", 8)):
        stored = Image.open(BytesIO(encode_image(Image.fromarray(smooth).convert("RGBA"), image_format)))
        assert (stored.format, stored.mode, stored.size) == (image_format.upper(), "RGB", (32, 32))
        assert np.abs(np.asarray(stored).astype(int) - smooth).max() <= error


def test_large_frames_are_stored_small_and_small_ones_as_they_are() -> None:
    image = Image.fromarray(np.full((64, 32, 3), 200, np.uint8))
    for size, expected in ((16, (16, 32)), (None, (32, 64)), (100, (32, 64))):
        frame = store_frame(image, "png", size, b"")
        assert Image.open(BytesIO(frame.encoded)).size == expected
        assert frame.is_blank


def test_blank_frames_are_flat_whatever_the_colour() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    assert is_blank(Image.fromarray(white))
    white[0, 0, 1] = 240
    assert not is_blank(Image.fromarray(white))


def test_perceptual_hashes_are_near_for_pictures_that_are_alike() -> None:
    def distance(one: Image.Image, other: Image.Image) -> int:
        return ((perceptual_hash(one) ^ perceptual_hash(other)) & (2**64 - 1)).bit_count()

    coarse = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
    recoded = Image.open(BytesIO(encode_image(image, "jpeg")))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert -(2**63) <= perceptual_hash(image) < 2**63
    assert distance(image, image) == 0
    assert distance(image, recoded) <= 6
    assert distance(image, recoded.resize((48, 48))) <= 8
    assert distance(image, noise) > 16
    assert distance(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 16


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_every_file_says_that_it_is_synthetic_and_what_drew_it(make_plan: MakePlan, image_format: str) -> None:
    captions = CaptionSet.from_texts(['<a> "quoted" & Öl\x01'])
    plan = make_plan(captions=captions, image_format=image_format, images_per_caption=1)
    (row,) = draw_shard(plan, captions, Painter(), 4).rows
    label = read_label(row["image"]["bytes"])
    assert label["DigitalSourceType"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert label["CreatorTool"] == "stablerep_hf, painter"
    assert label["prompt"] == '<a> "quoted" & Öl'
    assert {name: int(label[name]) for name in ("caption_id", "image_index", "seed")} == {
        name: row[name] for name in ("caption_id", "image_index", "seed")
    }
    with pytest.raises(InputError, match="holds no XMP"):
        read_label(encode_image(Image.new("RGB", (8, 8)), image_format))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not an image that can be read"):
        read_label(b"nothing")


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("text", ["x", "\"'&", "\U0001f600"])  # as it is, escaped, four bytes
def test_a_very_long_prompt_is_cut_in_the_label_alone(make_plan: MakePlan, image_format: str, text: str) -> None:
    captions = CaptionSet.from_texts([text * 70_000])
    plan = make_plan(captions=captions, image_format=image_format, images_per_caption=1)
    (row,) = draw_shard(plan, captions, Painter(), 4).rows
    assert row["prompt"] == text * 70_000
    assert read_label(row["image"]["bytes"])["prompt"] == (text * 10_000)[:10_000] + "..."


def test_jpeg_keeps_the_colour_of_single_pixels() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)
    pixels[:, 1::2] = (0, 0, 255)
    stored = np.asarray(Image.open(BytesIO(encode_image(Image.fromarray(pixels), "jpeg")))).astype(int)
    assert np.abs(stored - pixels).max() < 40  # subsampled chroma would make every pixel purple


def test_a_generator_that_miscounts_is_an_error(make_plan: MakePlan) -> None:
    plan = make_plan(2)

    class Short(Painter):
        def __call__(self, prompts, seeds):  # type: ignore[no-untyped-def]
            return super().__call__(prompts, seeds)[1:]

    with pytest.raises(InputError, match="returned 3 images for 4 prompts"):
        draw_shard(plan, plan.captions, Short(), 8)


def test_siblings_that_an_encoder_finds_alike_are_redrawn_whatever_the_batches(make_plan: MakePlan) -> None:
    settings = {"images_per_caption": 3, "image_format": "png", "sibling_encoder": "embedded-stablerep"}
    encoder = load_encoder(find_encoder("embedded-stablerep"), device="cpu")

    def unit(seed: int) -> Any:
        image = Image.fromarray(picture(seed))
        with torch.inference_mode():
            pixels = encoder.image_processor(images=[image], return_tensors="pt")["pixel_values"]
            return torch.nn.functional.normalize(encoder.encode(pixels)[0][0].double(), dim=0)

    plan = make_plan(6, max_sibling_similarity=0.5, **settings)
    features = {n: [unit(plan.seed(n, index)) for index in range(6)] for n in plan.captions.caption_ids.tolist()}
    cosines = [float(one @ other) for own in features.values() for one, other in itertools.combinations(own, 2)]
    limit = sorted(cosines)[len(cosines) * 2 // 3]  # a third is too near
    plan = make_plan(6, max_sibling_similarity=limit, **settings)
    shards = [draw_shard(plan, plan.captions, Painter(), batch_size) for batch_size in (1, 5)]
    assert [row["image"] for row in shards[0].rows] == [row["image"] for row in shards[1].rows]
    assert shards[0].num_near == shards[0].num_redrawn > 2
    for number in features:
        rows = [row for row in shards[0].rows if row["caption_id"] == number]
        taken = [unit(row["seed"]) for row in rows]
        assert max(float(one @ other) for one, other in itertools.combinations(taken, 2)) <= limit
        assert features[number][0] is not None and rows[0]["image_index"] == 0
    assert plan.settings["sibling_encoder"]["name"] == "embedded-stablerep"
    assert SynthesisPlan.from_json(plan.to_json(), plan.captions).hash == plan.hash
    assert "sibling_encoder" not in make_plan(6).settings, "older plans keep their hash"


def test_an_encoder_of_siblings_that_cannot_serve_is_one_sentence(make_plan: MakePlan, tmp_path: Path) -> None:
    for settings, said in (
        ({"max_sibling_similarity": 0.9}, "give both, or neither"),
        ({"sibling_encoder": "embedded"}, "give both, or neither"),
        ({"max_sibling_similarity": 1.0, "sibling_encoder": "embedded"}, "give a number from -1 to below 1"),
        (
            {"max_sibling_similarity": 0.9, "sibling_encoder": str(tmp_path)},
            "is a folder, and a plan names",
        ),
    ):
        with pytest.raises(InputError, match=said):
            make_plan(5, **settings)
    other = {"name": "embedded", "revision": "another"}
    plan = make_plan(5, max_sibling_similarity=0.9, sibling_encoder=other)
    with pytest.raises(InputError, match="is not the one of the plan any more"):
        draw_shard(plan, plan.captions, Painter(), 4)
    plan = make_plan(5, captions_per_shard=1, max_sibling_similarity=-1.0, sibling_encoder="embedded")
    with pytest.raises(InputError, match=r"nearer to a sibling than max_sibling_similarity=-1\.0"):
        synthesize(plan, Painter(), tmp_path / "out", progress=False)


def test_an_encoder_of_the_hub_is_the_same_for_every_run_of_a_plan(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, loaded = ["1" * 40, "2" * 40], []

    def download(name: str, file: str) -> str:
        return f"/cache/{name}/snapshots/{heads.pop(0)}/{file}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("stablerep_hf.evaluation.load_encoder", lambda *given, **how: loaded.append((given, how)))
    plan = make_plan(3, max_sibling_similarity=0.9, sibling_encoder="me/encoder")
    again = SynthesisPlan.from_json(plan.to_json(), plan.captions)  # the repository has a new commit meanwhile
    assert again.hash == plan.hash
    siblings._encoder.__wrapped__(**again.sibling_encoder)
    assert loaded == [(("me/encoder",), {"revision": "1" * 40, "device": "cpu"})]
    assert make_plan(3, max_sibling_similarity=0.9, sibling_encoder="me/encoder").hash != plan.hash
    with pytest.raises(InputError, match="sibling_encoder=not an id cannot be found"):
        monkeypatch.undo()
        make_plan(3, max_sibling_similarity=0.9, sibling_encoder="not an id")
