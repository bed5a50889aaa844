from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stablerep_hf.captions import (
    CaptionSettings,
    CaptionWriter,
    WritingSettings,
    prepare_captions,
    read_captions,
    write_captions,
)
from stablerep_hf.errors import InputError


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def test_captions_are_prepared_and_saved_with_what_became_of_them(tmp_path: Path) -> None:
    texts = ["a dog runs", "a dog runs", "", "A dog runs!", "me@x.org", "a yak", "x" * 10_001]
    texts += ["z b c d e f g h i j k l m n o p", "???"]
    evaluation = write(tmp_path / "val.txt", ["a yak", "a b c d e f g h i j k l m n o p", "???"])
    settings = CaptionSettings(
        evaluation_sets=[evaluation], drop_overlaps=True, concepts=write(tmp_path / "concepts.txt", ["dog", "yak"])
    )
    prepared = prepare_captions(write(tmp_path / "c.txt", texts), settings)
    assert prepared.captions.captions == ["a dog runs"]
    assert prepared.dropped == {
        "personal: e-mail": 1,
        "near duplicate": 1,
        "in an evaluation set": 2,  # one of them nearly
        "too long": 1,
        "too short": 1,
    }
    assert (prepared.num_read, prepared.num_empty, prepared.num_equal, prepared.missing) == (8, 1, 1, {})
    assert prepared.audit.concepts == {"dog": (2, 1), "yak": (1, 0)}
    history = prepared.captions.history
    assert {name: history[name] for name in ("read", "empty", "equal", "dropped", "allocation")} == {
        "read": 8,
        "empty": 1,
        "equal": 1,
        "dropped": prepared.dropped,
        "allocation": None,
    }
    files = prepared.save(tmp_path / "new" / "c.parquet")
    names = ["c.parquet", "c.audit.md", "c.audit.json", "c.audit.png"]
    assert files == [tmp_path / "new" / name for name in names]
    assert all(file.stat().st_size for file in files)
    assert prepared.save(files[0]) == files  # in place of those that are there
    assert read_captions(files[0]).history == history
    with pytest.raises(InputError, match=r"output=c\.csv is not named \.parquet"):
        prepared.save("c.csv")


def test_captions_are_balanced_and_given_numbers_of_images(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "kind,caption\n" + "".join(f"dog,dog number {n}\n" for n in range(40)) + "yak,a yak\nyak,one yak\n"
    )
    settings = CaptionSettings(
        label_column="kind", near_duplicates=0, cap=10, seed=3, allocation="target", target=30, images_per_caption=2
    )
    prepared = prepare_captions(tmp_path / "c.csv", settings)
    counts = Counter(prepared.captions.labels)
    assert counts["yak"] == 2
    assert 4 <= counts["dog"] <= 16
    assert prepared.dropped == {"over the cap": 40 - counts["dog"]}
    assert prepared.captions.num_images is not None
    assert prepared.captions.num_images[-2:].tolist() == [15, 15]
    assert prepared.captions.history["allocation"] == "target"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classifier": "x"}, r"classifier=x and classifier_labels=None go together"),
        ({"drop_overlaps": True}, r"`drop_overlaps` has nothing to compare .* name `evaluation_sets`"),
        ({"prompt": "x"}, r"prompt=x is what a language model continues: give `language_model`"),
        ({"per_class": 0}, r"per_class=0 writes nothing"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CaptionSettings(**settings)  # type: ignore[arg-type]


def test_one_source_or_classes(tmp_path: Path) -> None:
    file = write(tmp_path / "c.txt", ["dog"])
    with pytest.raises(InputError, match="0 sources were named with classes=None"):
        prepare_captions(None)
    with pytest.raises(InputError, match="1 sources were named with classes="):
        prepare_captions(file, CaptionSettings(classes=file))
    with pytest.raises(InputError, match=r"None of 1 captions stays \(1 too short\)"):
        prepare_captions(file, CaptionSettings(min_words=2))


def test_a_classifier_and_lists_of_words_drop_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def classifier(model: str, labels: list[str]) -> Callable[[Sequence[str]], list[float]]:
        assert (model, labels) == ("judge", ["bad"])
        return lambda texts: [0.7 * ("knife" in text) for text in texts]

    monkeypatch.setattr("stablerep_hf.captions.preparing.text_classifier", classifier)
    file = write(tmp_path / "c.txt", ["a knife", "a nude", "a spoon", "A Spoon!"])
    judged = CaptionSettings(classifier="judge", classifier_labels=["bad"])
    assert prepare_captions(file, judged).dropped == {
        "unsafe (classifier)": 1,
        "blocked word": 1,
        "near duplicate": 1,
    }
    lenient = dataclasses.replace(judged, max_unsafe=0.7, blocked_words="none", near_duplicates=0)
    assert prepare_captions(file, lenient).dropped == {}
    listed = CaptionSettings(blocked_words=write(tmp_path / "blocked.txt", ["spoon"]), repair=False)
    assert prepare_captions(file, listed).captions.captions == ["a knife", "a nude"]


def test_a_caption_of_ten_megabytes_is_dropped_in_seconds(tmp_path: Path) -> None:
    file = write(tmp_path / "c.txt", ["a red heart " * 850_000, "a" * 1_000_000, "a red ball"])
    prepared = prepare_captions(file)
    assert (prepared.captions.captions, prepared.dropped) == (["a red ball"], {"too long": 2})


def test_templates_without_placeholders_give_what_they_can(tmp_path: Path) -> None:
    classes = write(tmp_path / "classes.txt", ["dog", "ape"])
    templates = write(tmp_path / "templates.txt", ["a drawing of a {class}", "a {class}"])
    written = write_captions(WritingSettings(classes=classes, templates=templates))
    orders = {tuple(write_captions(WritingSettings(classes=classes, per_class=2), seed)) for seed in range(4)}
    assert len(orders) == 4
    assert sorted(written.captions) == ["a dog", "a drawing of a dog", "a drawing of an ape", "an ape"]
    with pytest.raises(
        InputError, match=r"per_class=3 asks for more captions of the class 'dog' than the 2 that 2 te"
    ):
        write_captions(WritingSettings(classes=classes, templates=templates, per_class=3))


def test_a_language_model_that_repeats_itself_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(self: CaptionWriter, requests: list[Any]) -> list[str]:
        asked.extend(request.prompt for request in requests)
        numbers = [asked[: len(asked) - len(requests) + place].count("A dog:") for place in range(len(requests))]
        return [
            f"{request.prompt} {'same' if 'ape' in request.prompt else number // 2}"
            for request, number in zip(requests, numbers, strict=True)
        ]

    monkeypatch.setattr(CaptionWriter, "_answer", answer)
    settings = CaptionSettings(
        classes=write(tmp_path / "classes.txt", ["dog", "ape"]),
        prompt=write(tmp_path / "prompt.txt", ["A {class}:"]),
        language_model="gpt2",
        language_model_revision="abc",
        per_class=4,
    )
    prepared = prepare_captions(None, settings, answers=tmp_path / "answers.jsonl")
    assert Counter(prepared.captions.labels) == {"dog": 4, "ape": 1}
    assert prepared.missing == {"ape": 3}
    assert (asked.count("A dog:"), asked.count("An ape:")) == (7, 16)
    assert prepared.captions.history["language_model"] == "gpt2"
    assert prepared.captions.history["revision"] == "abc"
    assert prepare_captions(None, settings, answers=tmp_path / "answers.jsonl").captions.digest == (
        prepared.captions.digest
    )
    assert len(asked) == 23  # all were kept
    assert prepare_captions(None, settings).missing == {"ape": 3}
    assert len(asked) == 45
