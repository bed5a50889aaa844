from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.captions import (
    CaptionSet,
    TermMatcher,
    allocate_images,
    balance_captions,
    caption_groups,
)
from stablerep_hf.errors import InputError


def long_tail() -> tuple[CaptionSet, list[list[str]]]:
    texts = [f"dog number {i}" for i in range(400)] + [f"yak number {i}" for i in range(5)]
    texts += ["a dog and a yak", "nothing of these"]
    captions = CaptionSet.from_texts(texts)
    return captions, caption_groups(captions, TermMatcher(["dog", "yak"]))


def test_a_cap_thins_the_head_and_leaves_the_tail() -> None:
    captions, groups = long_tail()
    kept_of_head = []
    for seed in range(20):
        balanced, dropped = balance_captions(captions, groups, 50, seed=seed)
        kept = balanced.captions
        assert sum("yak" in text for text in kept) == 6  # with the one that also names a dog
        assert "nothing of these" not in kept
        assert dropped == {"no concept": 1, "over the cap": len(captions) - 1 - len(kept)}
        kept_of_head.append(sum(text.startswith("dog") for text in kept))
    assert abs(np.mean(kept_of_head) - 400 * 50 / 401) < 4  # 20 draws of standard deviation 6.6
    assert len(set(kept_of_head)) > 5
    whole, dropped = balance_captions(captions, groups, 1000, keep_unmatched=True)
    assert (whole.captions, dropped) == (captions.captions, {})
    thinned, dropped = balance_captions(captions, groups, 50, keep_unmatched=True)
    assert "nothing of these" in thinned.captions
    assert dropped == {"over the cap": len(captions) - len(thinned)}


def test_the_draw_depends_on_the_caption_not_on_its_place() -> None:
    captions, groups = long_tail()
    backwards = captions.select(range(len(captions) - 1, -1, -1))
    one = balance_captions(captions, groups, 50, seed=3)[0]
    other = balance_captions(backwards, groups[::-1], 50, seed=3)[0]
    assert set(one) == set(other)
    assert set(balance_captions(captions, groups, 50, seed=4)[0]) != set(one)


def test_balancing_refuses_what_leaves_nothing() -> None:
    captions, groups = long_tail()
    with pytest.raises(InputError, match="cap=0"):
        balance_captions(captions, groups, 0)
    with pytest.raises(InputError, match="None of 407 captions names one of the concepts"):
        balance_captions(captions, [[] for _ in groups], 5)
    with pytest.raises(InputError, match="has no labels and no concepts"):
        caption_groups(captions)


GROUPS = [["dog"]] * 90 + [["cat"]] * 9 + [["yak"]]


def totals(images: np.ndarray) -> dict[str, int]:
    return {
        name: sum(int(n) for n, (home,) in zip(images, GROUPS, strict=True) if home == name)
        for name in ("dog", "cat", "yak")
    }


def test_allocations_fill_the_tail() -> None:
    uniform = totals(allocate_images(GROUPS, "uniform", 3, max_images=1000))
    assert sum(uniform.values()) == 300
    assert uniform == {"dog": 100, "cat": 100, "yak": 100}
    root = totals(allocate_images(GROUPS, "sqrt", 4, max_images=1000))
    weights = {name: np.sqrt(number) for name, number in (("dog", 90), ("cat", 9), ("yak", 1))}
    assert sum(root.values()) == 400
    assert all(abs(root[name] - 400 * weight / sum(weights.values())) <= 1 for name, weight in weights.items())
    assert totals(allocate_images(GROUPS, "target", 2, target=60, max_images=60)) == {"dog": 180, "cat": 60, "yak": 60}


def test_images_of_a_concept_are_shared_out_evenly_within_bounds() -> None:
    images = allocate_images(GROUPS, "target", 2, target=60, max_images=5)
    assert set(images[:90]) == {2}
    assert set(images[90:99]) == {5}  # 60 of 9 captions would be 6 or 7
    assert images[99] == 5
    assert set(allocate_images(GROUPS, "uniform", 2, max_images=1)) == {1}
    assert allocate_images(GROUPS, "uniform", 1).min() == 1
    shared = allocate_images(GROUPS, "target", 1, target=20, max_images=100)[90:99]
    assert sorted(shared.tolist()) == [2] * 7 + [3] * 2


def test_a_caption_counts_towards_its_rarest_concept() -> None:
    groups = [["dog"], ["dog"], ["dog", "yak"], []]
    assert allocate_images(groups, "target", 1, target=9, max_images=9).tolist() == [5, 4, 9, 9]


@pytest.mark.parametrize(
    ("allocation", "number", "options", "said"),
    [
        ("square", 4, {}, "allocation=square is unknown: use one of uniform, sqrt, target"),
        ("uniform", 0, {}, "images_per_caption=0"),
        ("uniform", 4, {"target": 3}, "target=3 does not fit allocation=uniform"),
        ("target", 4, {}, "target=None"),
        ("sqrt", 4, {"max_images": 0}, "max_images=0"),
    ],
)
def test_impossible_allocations(allocation: str, number: int, options: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        allocate_images(GROUPS, allocation, number, **options)  # type: ignore[arg-type]
