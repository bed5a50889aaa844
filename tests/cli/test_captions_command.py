"""`stablerep captions` as a user types it."""

import json
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest

from stablerep_hf.captions import read_captions


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source.csv"
    rows = [
        *[("dog", f"a dog of kind {i}") for i in range(30)],
        ("yak", "a yak"),
        ("yak", "A YAK!"),
        ("x", "me@x.org"),
    ]
    file.write_text("kind,caption\n" + "".join(f"{kind},{text}\n" for kind, text in rows))
    return file


def test_a_file_becomes_a_clean_balanced_audited_set(stablerep, source, tmp_path):
    (tmp_path / "concepts.txt").write_text("dog\nyak\n")
    (tmp_path / "val.txt").write_text("a yak\n")
    output = tmp_path / "out" / "captions.parquet"
    code, out, err = stablerep(
        "captions", source, "--column", "caption", "--concepts", tmp_path / "concepts.txt", "--cap", 10,
        "--near-duplicates", 1, "--allocation", "target", "--images-per-caption", 2, "--target", 20,
        "--evaluation-sets", tmp_path / "val.txt", "--output", output,
    )  # fmt: skip
    assert code == 0, err
    captions = read_captions(output)
    assert "a yak" in captions.captions
    assert 1 < len(captions) < 31
    images = dict(zip(captions.captions, captions.num_images.tolist(), strict=True))
    assert images["a yak"] == 20
    history = captions.history
    assert history["read"] == 33
    assert history["dropped"]["personal: e-mail"] == 1
    assert history["dropped"]["near duplicate"] == 1
    assert history["audit"]["overlaps"] == [{"name": "val.txt", "equal": 1, "near": 0, "classes_named": 1}]
    assert "personal: e-mail" in out and "--generator REPO" in out
    assert "| yak | 2 | 1 |" in out
    assert all(str(output.with_suffix(f".audit.{kind}")) in out for kind in ("md", "json", "png"))
    assert json.loads(output.with_suffix(".audit.json").read_text())["concepts"]["yak"] == [2, 1]
    assert output.with_suffix(".audit.png").read_bytes().startswith(b"\x89PNG")
    assert pq.read_table(output).column_names == ["caption_id", "caption", "count", "num_images"]


def test_class_names_become_labelled_captions(stablerep, tmp_path):
    (tmp_path / "classes.txt").write_text("dog\nape\n")
    (tmp_path / "places.txt").write_text("a wood\na lake\n")
    flags = ["captions", "--classes", tmp_path / "classes.txt", "--backgrounds", tmp_path / "places.txt"]
    assert stablerep(*flags, "--per-class", 3, "--output", tmp_path / "c.parquet")[0] == 0
    captions = read_captions(tmp_path / "c.parquet")
    assert sorted(captions.labels) == ["ape"] * 3 + ["dog"] * 3
    assert all(label in caption for label, caption in zip(captions.labels, captions.captions, strict=True))


def test_flags_that_cannot_work_write_nothing(stablerep, source, tmp_path):
    output = tmp_path / "o" / "c.parquet"
    for flags, said in (
        ([], "Name one source"),
        ([source, "--output", tmp_path / "o" / "c.csv"], r"not named \.parquet"),
        ([source, "--column", "none", "--output", "/proc/x/c.parquet"], "/proc/x/c.parquet cannot be written"),
        ([source, "--column", "caption", "--drop-overlaps", "--output", output], "evaluation.sets"),
        ([source, "--column", "caption", "--classifier", "x", "--output", output], "classifier.labels"),
        ([source, "--column", "caption", "--min-words", 99, "--output", output], "None of 33 captions stays"),
        ([source, "--column", "caption", "--allocation", "sqrt", "--output", output], "no labels and no concepts"),
        (["--classes", source, "--prompt", "x", "--output", output], "give `--language-model` too"),
    ):
        code, _, err = stablerep("captions", *flags)
        assert (code, bool(re.search(said, err)), err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "o").exists()


def test_what_is_left_out_is_printed(stablerep, tmp_path):
    (tmp_path / "c.txt").write_text("a red ball\n\n\u200b\na red ball\nx@y.org\n")
    code, out, err = stablerep("captions", tmp_path / "c.txt", "--output", tmp_path / "c.parquet")
    assert code == 0, err
    assert [" ".join(line.split()) for line in out.splitlines()[:4]] == [
        "read 3 captions, 1 of them equal to another",
        "dropped 2 empty",
        "dropped 1 personal: e-mail",
        "kept 1",
    ]
    assert "|" not in out  # no table of zeros
    assert f"The audit is in {tmp_path / 'c.audit.md'}, {tmp_path / 'c.audit.json'}.\n" in out
    assert not (tmp_path / "c.audit.png").exists()


def test_as_many_captions_of_each_class_are_written_as_were_asked_for(stablerep, tmp_path):
    (tmp_path / "classes.txt").write_text("dog\nice cream\ndog\n")
    flags = ["captions", "--classes", tmp_path / "classes.txt", "--output", tmp_path / "c.parquet"]
    for number in (1, 16, 100):
        code, out, err = stablerep(*flags, "--per-class", number)
        assert code == 0, err
        assert Counter(read_captions(tmp_path / "c.parquet").labels) == {"dog": number, "ice cream": number}
        assert "missing" not in out
    code, _, err = stablerep(*flags, "--per-class", 10_000)
    assert (code, "class 'dog' than the 425 that 4 templates give" in err) == (2, True), err
    code, out, err = stablerep(*flags, "--per-class", 5, "--max-words", 8)
    assert (code, "of 5 captions of the class 'dog'" in out) == (0, True), err


def test_captions_near_any_text_of_an_evaluation_set_are_dropped(stablerep, tmp_path):
    (tmp_path / "c.txt").write_text("z b c d e f g h i k\nnothing like it\n")
    (tmp_path / "val.txt").write_text("a b c d e f g h i j\na b c d e f g h i k\n")
    flags = ["--evaluation-sets", tmp_path / "val.txt", "--drop-overlaps", "--near-duplicates", 0.7]
    assert stablerep("captions", tmp_path / "c.txt", *flags, "--output", tmp_path / "c.parquet")[0] == 0
    assert read_captions(tmp_path / "c.parquet").captions == ["nothing like it"]


def test_every_evaluation_set_is_looked_for(stablerep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, text in (("a", "a dog"), ("b", "a cat")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.txt").write_text(f"{text}\n")
    (tmp_path / "b" / "validation.txt").write_text("a yak\n")
    (tmp_path / "c.txt").write_text("a dog\na cat\na yak\nan ape\n")
    for sets, names, kept in (
        (["a/test.txt"], ["test.txt"], ["a cat", "a yak", "an ape"]),
        (["a/test.txt", "b/test.txt"], ["a/test.txt", "b/test.txt"], ["a yak", "an ape"]),
        (["a", "b:validation"], ["a", "b:validation"], ["a cat", "an ape"]),
    ):
        flags = ["--evaluation-sets", *sets, "--drop-overlaps", "--output", tmp_path / "c.parquet"]
        code, _, err = stablerep("captions", tmp_path / "c.txt", *flags)
        assert code == 0, err
        captions = read_captions(tmp_path / "c.parquet")
        assert captions.captions == kept
        assert [overlap["name"] for overlap in captions.history["audit"]["overlaps"]] == names
    code, _, err = stablerep("captions", tmp_path / "c.txt", "--evaluation-sets", "a:train")
    assert (code, "split 'train'" in err, "['test']" in err) == (2, True, True)


def test_a_set_that_is_cleaned_once_more_keeps_its_numbers_of_images(stablerep, source, tmp_path):
    flags = ["--column", "caption", "--label-column", "kind", "--allocation", "sqrt", "--near-duplicates", 1]
    assert stablerep("captions", source, *flags, "--output", tmp_path / "once.parquet")[0] == 0
    code, out, err = stablerep("captions", tmp_path / "once.parquet", "--output", tmp_path / "twice.parquet")
    assert code == 0, err
    once, twice = (read_captions(tmp_path / f"{name}.parquet") for name in ("once", "twice"))
    assert twice.num_images.sum() == once.num_images.sum()
    assert f"{once.num_images.sum()} by sqrt" in out


def test_a_language_model_writes_as_many_captions_of_each_class_as_are_asked_for(stablerep, tmp_path, monkeypatch):
    asked = []

    def answer(self, requests):
        asked.extend(request.prompt for request in requests)
        return [f"{request.prompt} number {len(asked) - place}" for place, request in enumerate(requests)]

    monkeypatch.setattr("stablerep_hf.captions.CaptionWriter._answer", answer)
    (tmp_path / "classes.txt").write_text("dog\nape\n")
    (tmp_path / "places.txt").write_text("a wood\na lake\na street\n")
    (tmp_path / "prompt.txt").write_text("A {class} in {background}:\n")
    flags = ["--classes", tmp_path / "classes.txt", "--backgrounds", tmp_path / "places.txt", "--per-class", 4]
    flags += ["--language-model", "gpt2", "--prompt", tmp_path / "prompt.txt", "--near-duplicates", 0]
    code, _, err = stablerep("captions", *flags, "--output", tmp_path / "c.parquet")
    assert code == 0, err
    assert sorted(read_captions(tmp_path / "c.parquet").labels) == ["ape"] * 4 + ["dog"] * 4
    assert len(asked) == 8
    assert len(set(asked)) == 6
