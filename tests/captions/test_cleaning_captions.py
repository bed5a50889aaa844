from __future__ import annotations

from pathlib import Path

import pytest

from stablerep_hf.captions import CaptionSet, CleaningRules, clean_captions, merge_near_duplicates
from stablerep_hf.captions.near_duplicates import shingles, similarity
from stablerep_hf.captions.personal import find_personal_data
from stablerep_hf.captions.terms import TermMatcher, demographic_terms, read_terms, shipped_terms
from stablerep_hf.errors import InputError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe+x@mail.example.org now", "e-mail"),
        ("see https://example.org/a?b=c", "URL"),
        ("by www.photos.net", "URL"),
        ("more at flickr.com/x", "URL"),
        ("photo by @some_one", "handle"),
        ("card 4111 1111 1111 1111", "card number"),
        ("card 4111-1111-1111-1111", "card number"),
        ("call +49 30 1234567", "phone number"),
        ("call (555) 123-4567 today", "phone number"),
        ("call 555-123-4567", "phone number"),
        ("a red ball", None),
        ("a dog at 5 p.m. on 12.05.2021", None),
        ("on 2021-05-12", None),
        ("painted 1888, 1920 x 1080 pixels, no. 12345678", None),
        ("card 4111 1111 1111 1112", None),  # the check digit is wrong
        ("3.5 million people, route 66, 7-eleven", None),
        ("dinner @ home", None),
        ("end of a sentence.Another one", None),
        ("call +15551234567", "phone number"),
        ("44 (0)20 7946 0958", "phone number"),
        ("tel. 1 555 123 4567", "phone number"),
        ("card 378282246310005 or 3782 822463 10005", "card number"),
        ("card 4111111111111111110", "card number"),
        ("no. 411111111117", None),  # right check digits of numbers that are too short and too long
        ("no. 41111111111111111115", None),
        ("card 4222222222222", "card number"),
        ("no. 12 345 678", None),
        ("no. 12 345 6789", "phone number"),
        ("call +12345", None),
        ("call +123456789012345", "phone number"),
        ("call +1234567890123456", None),
        ("a house built in 1984 2001 2005", None),
        ("built in 1992 2004 2008 2019", None),  # with a right check digit
        ("portrait of a man (1888-1945)", None),
        ("built (1984) 2001 2005", None),
        ("a calendar 12.05.2021 14.06.2022", None),
        ("at 48.8584 2.2945, 0.123 0.456 0.789", None),
        ("1 000 000 000 or 100.000.000 stars", None),
        ("sizes 1024 2048 4096", None),
    ],
)
def test_personal_data(text: str, kind: str | None) -> None:
    assert find_personal_data(text) == kind


def test_the_time_to_find_personal_data_grows_with_the_length_alone() -> None:
    for piece in ("a", "a.", "@a", "a-", "1 2 ", "12", "a@a"):
        assert find_personal_data(f". {piece * 100_000}") is None


def test_terms_are_whole_words_of_any_case_and_length() -> None:
    matcher = TermMatcher(["cat", "Polar Bear", "bear", "café"])
    assert matcher.find("A polar BEAR and a category") == ["Polar Bear", "bear"]
    assert matcher.find("the cat's café; Cat!") == ["café", "cat"]
    assert matcher.count(["cat cat", "a cat", "no"]) == {"cat": 2, "Polar Bear": 0, "bear": 0, "café": 0}
    for terms, said in (([], "0 entries"), (["ok", "!?"], "'!\\?' holds no word")):
        with pytest.raises(InputError, match=said):
            TermMatcher(terms)


def test_lists_of_terms(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("# a comment\nred ball\n\n dog \n")
    assert read_terms(tmp_path / "t.txt") == ["red ball", "dog"]
    assert TermMatcher(shipped_terms("unsafe")).find("an erotic drawing") == ["erotic"]
    assert "woman" in demographic_terms()["gender: women"]
    (tmp_path / "e.txt").write_text("#\n")
    for name, said in (("e.txt", "holds no term"), ("none.txt", "cannot be read")):
        with pytest.raises(InputError, match=said):
            read_terms(tmp_path / name)


def test_every_drop_is_counted_by_its_reason() -> None:
    texts = [
        "schÃ¶ne Katze",
        "schöne Katze",
        "schöne Katze",
        "a",
        "one two three four five six seven",
        "mail me@example.org please",
        "a nude study",
        "a  big dog",
        "!!",
    ]
    captions = CaptionSet.from_texts(texts)
    rules = CleaningRules(min_words=2, max_words=6, blocked_words=("nude",))
    cleaned, dropped = clean_captions(captions, rules)
    assert cleaned.captions == ["schöne Katze", "a big dog"]
    assert cleaned.table["count"].to_pylist() == [3, 1]
    assert dropped == {
        "blocked word": 1,
        "personal: e-mail": 1,
        "same after repair": 1,
        "too long": 1,
        "too short": 2,
    }
    assert sum(dropped.values()) + len(cleaned) == len(captions)
    assert clean_captions(captions, CleaningRules(repair=False, keep_personal=True))[0].captions[0] == "schÃ¶ne Katze"


def test_captions_of_ten_thousand_characters_are_the_longest() -> None:
    captions = CaptionSet.from_texts(["x" * 10_000, "y" * 10_001])
    cleaned, dropped = clean_captions(captions, CleaningRules())
    assert (cleaned.captions, dropped) == (["x" * 10_000], {"too long": 1})


def test_labels_survive_and_a_classifier_has_the_last_word() -> None:
    captions = CaptionSet.from_labelled([("a knife", "k"), ("a spoon", None), ("a fork", "f")])
    asked: list[str] = []

    def classifier(texts: list[str]) -> list[float]:
        asked.extend(texts)
        return [0.9 if "knife" in text else 0.5 for text in texts]

    cleaned, dropped = clean_captions(captions, CleaningRules(blocked_words=("fork",)), classifier)
    assert asked == ["a knife", "a spoon"]
    assert dropped == {"blocked word": 1, "unsafe (classifier)": 1}
    assert (cleaned.captions, cleaned.labels) == (["a spoon"], [None])


def test_languages_are_dropped_only_when_sure() -> None:
    texts = ["ein roter Ball auf dem Rasen", "a red ball on the lawn", "a dog", "犬が走る", "Ein Hund"]
    cleaned, dropped = clean_captions(CaptionSet.from_texts(texts), CleaningRules(languages=("en",)))
    assert cleaned.captions == ["a red ball on the lawn", "a dog", "Ein Hund"]  # two words are too few to be sure
    assert dropped == {"language: de": 1, "language: ja": 1}
    with pytest.raises(InputError, match="'xx' is not supported"):
        CleaningRules(languages=("xx",))


def test_near_duplicates_merge_into_the_first_without_chains() -> None:
    long = [f"w{i}" for i in range(20)]
    texts = [
        " ".join(long),
        "A red ball.",
        " ".join([*long[:-1], "x"]),
        "a RED ball",
        "a blue ball",
        " ".join(["y", *long[1:-1], "x"]),
        "a red ball",
    ]
    captions = CaptionSet.from_texts(texts)
    merged, places = merge_near_duplicates(captions, 0.85)
    # The sixth nearly equals the third but not the first, which is kept for it: it stays.
    assert (
        similarity(shingles(texts[2]), shingles(texts[5])) >= 0.85 > similarity(shingles(texts[0]), shingles(texts[5]))
    )
    assert places.tolist() == [0, 1, 0, 1, 4, 5, 1]
    assert merged.captions == [texts[0], "A red ball.", "a blue ball", texts[5]]
    assert merged.table["count"].to_pylist() == [2, 3, 1, 1]
    exact = [texts[0], "A red ball.", texts[2], "a blue ball", texts[5]]
    assert merge_near_duplicates(captions, 1.0)[0].captions == exact


def test_merging_agrees_with_comparing_all_pairs() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(12)]
    texts = list(dict.fromkeys(" ".join(rng.choice(words, 8)) for _ in range(150)))
    texts += [f"{text} {extra}" for text in texts[:40] for extra in ("w0", "w1")]
    captions = CaptionSet.from_texts(dict.fromkeys(texts))
    expected: list[int] = []
    for place, text in enumerate(captions):
        kept = (
            other
            for other in sorted(set(expected))
            if similarity(shingles(text), shingles(captions.captions[other])) >= 0.75
        )
        expected.append(next(kept, place))
    found = merge_near_duplicates(captions, 0.75)[1].tolist()
    missed = sum(one != other for one, other in zip(found, expected, strict=True))
    assert len(set(expected)) < len(captions) - 40
    assert missed <= 0.03 * len(captions)  # LSH may miss pairs at the threshold
    for place, other in enumerate(found):  # and it merges nothing that is not alike
        assert similarity(shingles(captions.captions[place]), shingles(captions.captions[other])) >= 0.75


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_words": 0}, "min_words=0"),
        ({"min_words": 3, "max_words": 2}, "max_words=2"),
        ({"max_unsafe": 2}, "max_unsafe=2"),
    ],
)
def test_impossible_rules(settings: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CleaningRules(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"near_duplicates=1\.5 is not a similarity"):
        merge_near_duplicates(CaptionSet.from_texts(["a"]), 1.5)


def test_the_numbers_of_images_of_captions_that_are_merged_add_up() -> None:
    texts = ["a dog", "a cat &amp; a hat", "me@x.org", "a cat & a hat", "A DOG!", "a yak"]
    captions = CaptionSet.from_texts(texts).with_num_images([1, 2, 4, 8, 16, 32])
    cleaned, _ = clean_captions(captions, CleaningRules(near_duplicates=0.8))
    assert cleaned.num_images is not None
    assert dict(zip(cleaned, cleaned.num_images.tolist(), strict=True)) == {
        "a dog": 17,
        "a cat & a hat": 10,
        "a yak": 32,
    }
    assert cleaned.table["count"].to_pylist() == [2, 2, 1]
