from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from stablerep_hf.captions import CaptionSet, TermMatcher, audit_captions, fill_templates
from stablerep_hf.errors import InputError

BEFORE = CaptionSet.from_texts(
    ["a woman with a dog", "a man", "a red dog runs over the wet grass", "Two dogs", "a cat"]
)


def test_terms_are_counted_before_and_after_and_overlaps_named() -> None:
    after = BEFORE.select([0, 2, 4])
    evaluation = CaptionSet.from_texts(["a cat", "dog", "a red dog runs over wet grass", "zebra"])
    audit = audit_captions(
        BEFORE, after, concepts=TermMatcher(["dog", "cat", "yak"]), evaluation_sets={"val.txt": evaluation},
        near_duplicates=0.6,
    )  # fmt: skip
    assert audit.num_captions == (5, 3)
    assert audit.concepts == {"dog": (2, 2), "cat": (1, 1), "yak": (0, 0)}
    assert audit.demographics["gender: women"] == (1, 1)
    assert audit.demographics["gender: men"] == (1, 0)
    (overlap,) = audit.overlaps
    assert overlap.equal == ("a cat",)
    assert overlap.near == ("a red dog runs over the wet grass",)
    assert dict(overlap.naming) == {"dog": 2, "a cat": 1}
    json.dumps(audit.to_dict())
    assert audit.summary()["overlaps"] == [{"name": "val.txt", "equal": 1, "near": 1, "classes_named": 2}]

    text = audit.to_markdown()
    assert "| dog | 2 | 2 |" in text
    assert "not who is in a picture" in text
    assert "1 captions are in it word for word, 1 nearly, 3 name one of 2" in text
    assert "No caption names 1 of 3 concepts." in text
    for zeros in ("yak", "religion"):  # nobody reads rows of zeros
        assert zeros not in text
        assert zeros not in str(audit.summary())
    buffer = io.BytesIO()
    audit.write_plot(buffer)
    assert Image.open(buffer).size[0] > 1000


def test_an_audit_that_found_nothing_is_left_out() -> None:
    captions = CaptionSet.from_texts(["a red ball", "a tree"])
    audit = audit_captions(
        captions, captions, concepts=TermMatcher(["yak"]), evaluation_sets={"val": CaptionSet.from_texts(["zebra"])}
    )
    assert not audit.has_counts
    assert audit.to_markdown() == (
        "2 captions before, 2 after.\n\nNo caption names 1 of 1 concepts.\n\n**Overlap with val**: none.\n"
    )
    assert audit_captions(BEFORE, BEFORE).has_counts


def test_the_forty_most_frequent_concepts_are_shown() -> None:
    words = [f"w{number}" for number in range(45)]
    captions = CaptionSet.from_texts([f"{word} {'x' * k}" for number, word in enumerate(words) for k in range(number)])
    audit = audit_captions(captions, captions, concepts=TermMatcher(words))
    text = audit.to_markdown()
    assert [row.split()[1] for row in text.splitlines() if row.startswith("| w")] == words[:4:-1]
    assert "4 rarer concepts are not shown." in text
    assert next(iter(audit.summary()["concepts"].items())) == ("w44", [44, 44])
    assert len(audit.summary()["concepts"]) == 40


def test_a_larger_evaluation_set_finds_no_less() -> None:
    there = ["a b c d e f g h i j", "a b c d e f g h i k"]  # near one another, and the caption near the second alone
    captions = CaptionSet.from_texts(["z b c d e f g h i k", "nothing like it"])
    for texts in (there[1:], there):
        evaluation = {"val": CaptionSet.from_texts(texts)}
        (overlap,) = audit_captions(captions, captions, evaluation_sets=evaluation, near_duplicates=0.7).overlaps
        assert overlap.near == ("z b c d e f g h i k",)


def test_lines_without_a_word_in_an_evaluation_set_name_nothing() -> None:
    evaluation = {"val": CaptionSet.from_texts(["???", "\N{PARTY POPPER}", "dog"])}
    (overlap,) = audit_captions(BEFORE, BEFORE, evaluation_sets=evaluation).overlaps
    assert overlap.naming == (("dog", 2),)


def test_templates_fill_each_class_without_repeats_and_apart_from_the_others() -> None:
    options = {"backgrounds": ["a wood", "a lake"], "relations": ["next to a bench"], "per_class": 6}
    rows = list(fill_templates(["ape", "dog"], **options))  # type: ignore[arg-type]
    apes = [caption for caption, name in rows if name == "ape"]
    assert sorted(apes) == [
        "a photo of an ape",
        "an ape in a lake",
        "an ape in a wood",
        "an ape next to a bench",
        "an ape next to a bench in a lake",
        "an ape next to a bench in a wood",
    ]
    assert [row for row in rows if row[1] == "dog"] == list(fill_templates(["dog"], **options))  # type: ignore[arg-type]
    three = [caption for caption, _ in fill_templates(["ape"], **{**options, "per_class": 3})]  # type: ignore[arg-type]
    assert three == apes[:3]
    others = {tuple(c for c, _ in fill_templates(["ape"], **{**options, "seed": s})) for s in range(5)}  # type: ignore[arg-type]
    assert len(others) > 1
    assert list(fill_templates(["cow"], per_class=9)) == [("a photo of a cow", "cow")]


def test_the_article_before_a_filled_in_word_alone_is_changed() -> None:
    template = "A {class}, a {class} {relation}, from A up to Z:"
    (row,) = fill_templates(["elm of grade a or b"], [template], relations=["on a hill"], per_class=1)
    assert row[0] == "An elm of grade a or b, an elm of grade a or b on a hill, from A up to Z:"
    assert next(fill_templates(["yak of plan a"], ["a {class} {relation}"], relations=["in grass"], per_class=1)) == (
        "a yak of plan a in grass",
        "yak of plan a",
    )


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (["a photo"], "'a photo' must hold {class}"),
        (["{class} at {time}"], "nothing else in braces"),
        (["{class} in {background}"], "None of 1 templates can be filled"),
    ],
)
def test_templates_that_cannot_be_filled(templates: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(fill_templates(["dog"], templates, per_class=2))
    with pytest.raises(InputError, match="per_class=0"):
        fill_templates(["dog"], per_class=0)
