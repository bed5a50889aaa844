from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from painters import Painter, picture
from PIL import Image

from stablerep_hf.synthesis import SynthesisPlan
from stablerep_hf.synthesis.drawing import MOST_REDRAWS, draw_shard
from stablerep_hf.synthesis.frames import encode_image, is_black

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

    with pytest.raises(RuntimeError, match="returned 3 images for 4 prompts"):
        draw_shard(plan, plan.captions, Short(), 8)
