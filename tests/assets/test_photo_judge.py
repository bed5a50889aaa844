"""What drawn photos are judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from embedded_generator import drawing, looking, measures
from embedded_generator.captioned import HeldOut
from embedded_generator.imagenet_judge import ImageNetJudge, recognised
from PIL import Image


def test_the_kernel_distance_is_zero_within_one_distribution_and_the_mean_s_between_two() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(600, 8, generator=generator) for _ in range(2))
    same, deviation = measures.kernel_distance(one, other, size=200)
    assert abs(same) < 0.05 and deviation > 0
    # Against points at m along one axis: E k = (x . y / D + 1)^3 in closed form for constants.
    still, moved = torch.zeros(50, 2), torch.tensor([[2.0, 0.0]]).expand(50, 2)
    distance, deviation = measures.kernel_distance(still, moved)
    assert distance == pytest.approx(1 + 27 - 2) and deviation == pytest.approx(0)


def test_only_classes_that_can_occur_are_guessed() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0], [9.0, 3.0, 2.0, 0.0], [9.0, 0.0, 1.0, 2.0]])
    classes = {"cat": 1, "dog": 2, "emu": 3}
    labels = ["dog", "dog", "unknown"]
    assert recognised(logits, labels, classes) == pytest.approx(0.5)
    assert recognised(logits, labels, classes, top=2) == pytest.approx(1.0)


def test_spread_and_nearest_give_distances() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert measures.spread(features, 2) == pytest.approx(0.5)  # one pair at right angles, one equal
    white, black = torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    distance, index = measures.nearest(torch.cat([white, white * 0.8]), measures.halved(torch.cat([black, white])))
    assert distance.tolist() == pytest.approx([0.0, 0.1]) and index.tolist() == [1, 1]


class Drawn:
    """Stands for a pipeline that draws one flat colour."""

    def __call__(self, prompts: list[str], **asked: object) -> object:
        assert asked["guidance_scale"] == 3.0 and asked["num_inference_steps"] == 2
        return type("Output", (), {"images": torch.full((len(prompts), 3, 32, 32), 0.5)})()


def test_the_judge_knows_classes_by_any_of_their_names_and_compares_with_real_photos() -> None:
    judge = ImageNetJudge()
    names = ["goldfish, Carassius auratus", "tench", "chain saw", "crane", "unicorn"]
    # two of ImageNet's classes are called crane
    assert judge.classes(names) == {names[0]: 1, "tench": 0, "chain saw": 491}
    photos = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features, logits = judge.look(photos)
    assert features.shape == (6, 1280) and logits.shape == (6, 1000)
    held = HeldOut(photos, [f"photo {i}" for i in range(6)], ["tench"] * 3 + ["goldfish"] * 3)
    values = looking.Judge(held)(Drawn(), 4, guidance=3.0, steps=2)
    assert values["kid"] > 0.1  # noise is not grey
    assert values["recognised_real"] in (0, 0.25, 0.5, 0.75, 1)
    assert set(values) == {
        "kid", "kid_deviation", "recognised_drawn", "recognised_in_5_drawn", "recognised_real", "recognised_in_5_real",
    }  # fmt: skip


def test_held_out_photos_are_thinned_evenly() -> None:
    held = HeldOut(torch.arange(10.0).view(10, 1, 1, 1), [str(i) for i in range(10)], None)
    assert held.spread(3).prompts == ["0", "3", "6"] and held.spread(3).pictures.flatten().tolist() == [0, 3, 6]
    assert held.spread(99).prompts == held.prompts


def test_a_grid_of_one_row_and_of_three_is_saved(tmp_path: Path) -> None:
    white = torch.ones(6, 3, 4, 4)
    drawing.save_grid(white[:2], 2, tmp_path / "one.png")
    drawing.save_grid(-white, 2, tmp_path / "three.png")
    assert Image.open(tmp_path / "one.png").size == (16, 8)
    grid = np.asarray(Image.open(tmp_path / "three.png"))
    assert grid.shape == (16, 48, 3)  # two rows, a gap, and one row above an empty place
    assert grid[:, :16].max() == 0 and grid[:, 16:32].min() == 255
    assert grid[:8, 32:].max() == 0 and grid[8:, 32:].min() == 255
