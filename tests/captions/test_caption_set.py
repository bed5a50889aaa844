from __future__ import annotations

import errno
import json
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stablerep_hf.captions import CaptionSet, caption_id, caption_set, normalize_caption, read_captions, read_history
from stablerep_hf.errors import InputError


def test_duplicates_merge_into_their_first_place_with_counts() -> None:
    rng = np.random.default_rng(0)
    texts = [f"  thing   {i}" if i % 3 else f"thing {i}" for i in rng.integers(0, 300, 1000)]
    captions = CaptionSet.from_texts(iter(texts))

    counts = Counter(map(normalize_caption, texts))  # a Counter keeps the order of first occurrence
    assert captions.captions == list(captions) == list(counts)
    assert captions.table.column("count").to_pylist() == list(counts.values())
    assert captions.caption_ids.tolist() == [caption_id(text) for text in counts]
    assert captions.num_merged == 1000 - len(counts) > 0


def test_merging_works_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a", "b", "", "a", "c", "b", "d", "a"]
    whole = CaptionSet.from_texts(texts)
    monkeypatch.setattr(caption_set, "_BLOCK", 3)
    assert CaptionSet.from_texts(texts).table.equals(whole.table)
    assert whole.table.column("count").to_pylist() == [3, 2, 1, 1]
    empty = ["", "a", None, " ", "\u200b", "b", ""]  # in every block of three
    assert CaptionSet.from_texts(empty).num_empty == 5
    assert CaptionSet.from_labelled((text, "x") for text in empty).num_empty == 5


def test_empty_captions_are_left_out_and_counted() -> None:
    captions = CaptionSet.from_texts(["", "a", None, " \t"])
    assert (captions.captions, captions.num_empty, captions.num_merged) == (["a"], 3, 0)
    nothing = CaptionSet.from_texts([])
    assert (len(nothing), nothing.num_merged) == (0, 0)


def test_the_digest_follows_content_and_order_alone() -> None:
    digest = CaptionSet.from_texts(["a", "b"]).digest
    assert CaptionSet.from_texts([" a", "b", "a"]).digest == digest
    assert CaptionSet.from_texts(["b", "a"]).digest != digest
    assert CaptionSet.from_texts(["a"]).digest != digest


def test_parts_of_a_set() -> None:
    captions = CaptionSet.from_texts("abcdefg")
    assert captions.head(3).captions == ["a", "b", "c"]
    assert captions.slice(5, 99).captions == ["f", "g"]
    assert len(captions.slice(99, 100)) == 0
    assert captions.select(np.array([4, 0])).captions == ["e", "a"]
    assert captions.select([4, 0]).caption_ids.tolist() == [caption_id("e"), caption_id("a")]
    with pytest.raises(InputError, match="Place 7 is not in a set of 7 captions"):
        captions.select([7])
    with pytest.raises(InputError, match="selected twice"):
        captions.select([1, 1])


def test_a_set_cannot_be_changed() -> None:
    captions = CaptionSet.from_texts(["a"])
    with pytest.raises(ValueError, match="read-only"):
        captions.caption_ids[0] = 3
    with pytest.raises(AttributeError):
        captions.table = None  # type: ignore[misc]


def test_parquet_round_trip_keeps_the_counts(tmp_path: Path) -> None:
    captions = CaptionSet.from_texts(["b", "a", "b"])
    captions.write_parquet(tmp_path / "captions.parquet")
    assert read_captions(tmp_path / "captions.parquet").table.equals(captions.table)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"caption": ["a"]}, "lacks caption_id, count"),
        ({"caption_id": [1], "caption": ["a"], "count": [1]}, "the caption_id of row 0 is not its caption's"),
        ({"caption_id": [caption_id("a")] * 2, "caption": ["a", "a"], "count": [1, 1]}, "occurs twice"),
        ({"caption_id": ["x"], "caption": ["a"], "count": [1]}, "must have the types"),
        ({"caption_id": [caption_id("a b")], "caption": ["a  b"], "count": [1]}, "the caption of row 0 is 'a  b'"),
        ({"caption_id": [caption_id("")], "caption": [""], "count": [1]}, "the caption of row 0 is '', not"),
        ({"caption_id": [caption_id("")], "caption": pa.array([None], pa.string()), "count": [1]}, "of row 0 is None"),
        ({"caption_id": [caption_id("a")], "caption": ["a"], "count": [0]}, "some count is below 1 or missing"),
        ({"caption_id": [caption_id("a")], "caption": ["a"], "count": [None]}, "some count is below 1 or missing"),
    ],
)
def test_a_table_that_would_group_images_wrongly_is_refused(columns: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=f"^[^(]*{said}"):  # not as what another sentence quotes
        CaptionSet.from_table(pa.table(columns))


def test_two_captions_of_one_id_are_refused_rather_than_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_set, "id_of_normalized", lambda caption: len(caption))
    with pytest.raises(InputError, match="'cat' and 'dog' differ but share one caption_id"):
        CaptionSet.from_texts(["cat", "horse", "cat", "dog"])


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="3 is of type int, not text"):
        CaptionSet.from_texts(["a", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="lone surrogate"):
        CaptionSet.from_texts(["a \ud800"])
    with pytest.raises(InputError, match=r"The label .* holds a lone surrogate"):
        CaptionSet.from_labelled([("a", "x \ud800")])


def test_labels_numbers_of_images_and_history_travel_in_the_file(tmp_path: Path) -> None:
    captions = CaptionSet.from_labelled([("a", "x"), ("b", None), ("a", "y"), ("c", "z")])
    assert captions.labels == ["x", None, "z"]
    assert captions.num_images is None
    asked = captions.with_num_images([3, 0, 1]).with_history(read=4)
    assert (asked.captions, asked.labels, asked.num_images.tolist()) == (["a", "c"], ["x", "z"], [3, 1])
    asked.write_parquet(tmp_path / "captions.parquet")
    back = read_captions(tmp_path / "captions.parquet")
    assert back.table.equals(asked.table)
    assert dict(back.history) == {"read": 4}
    assert back.slice(1, 2).num_images.tolist() == [1]
    assert back.digest == asked.digest != captions.select([0, 2]).digest
    assert asked.with_num_images([3, 2]).digest != asked.digest
    table = asked.table.set_column(4, "num_images", pa.array([0, 1], pa.int32()))
    with pytest.raises(InputError, match="some num_images is below 1"):
        CaptionSet.from_table(table)


def test_a_malformed_history_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "captions.parquet"
    table = CaptionSet.from_texts(["a"]).table
    audit = {"num_captions": [1, 1], "concepts": {}, "demographics": {}, "overlaps": []}
    good = [b"{}", b'{"read": 1, "dropped": {"too short": 2}, "own": [3]}', json.dumps({"audit": audit}).encode()]
    for content in good:
        pq.write_table(table.replace_schema_metadata({b"stablerep.history": content}), file)
        assert read_history(file) == read_captions(file).history == json.loads(content)
    wrong_audits = [{**audit, name: wrong} for name in audit for wrong in (7, None, {"x": 1}, [{"name": "x"}])]
    for content, said in [
        (b"{", "Expecting"),
        (b"[" * 100_000, "recursion"),
        (b"\xff", "codec"),
        (b"[1]", r"\[1\] instead of an object"),
        (b'{"read": "many"}', "'read' has the wrong type"),
        (b'{"empty": null, "equal": 1.5}', "'empty' has the wrong type, 'equal' has the wrong type"),
        (b'{"dropped": ["too short"]}', "'dropped' has"),
        (b'{"dropped": {"too short": "1"}}', "'dropped' has"),
        (b'{"allocation": 3}', "'allocation' has"),
        *((json.dumps({"audit": wrong}).encode(), "'audit' has") for wrong in [3, [1], *wrong_audits]),
    ]:
        pq.write_table(table.replace_schema_metadata({b"stablerep.history": content}), file)
        for read in (read_history, read_captions):
            with pytest.raises(InputError, match=f"history of the caption set is malformed .*{said}") as caught:
                read(file)
            assert "\n" not in str(caught.value)
    assert read_history(tmp_path / "none.parquet") == {}


def test_a_large_set_is_in_a_file_and_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = [f"thing {i * 7 % 50}" for i in range(400)] + ["a", None, "b"]
    labelled = [(text, f"label {place}") for place, text in enumerate(texts)]
    small, small_labelled = CaptionSet.from_texts(texts), CaptionSet.from_labelled(labelled)
    monkeypatch.setattr("stablerep_hf.captions.spool._IN_MEMORY", 0)
    monkeypatch.setattr(caption_set, "_BLOCK", 16)
    large, large_labelled = CaptionSet.from_texts(texts), CaptionSet.from_labelled(labelled)
    assert small.mapping is None
    assert large.mapping is not None
    assert large.table.equals(small.table)
    assert large_labelled.table.equals(small_labelled.table)
    assert (large.num_merged, large.num_empty, large.digest) == (350, 1, small.digest)
    assert list(large) == small.captions
    assert large.slice(3, 5).captions == small.captions[3:5]
    places = np.random.default_rng(0).permutation(len(small))[:40]
    assert large.select(places).table.equals(small.select(places).table)
    assert large.select(places).captions == [small.captions[place] for place in places]
    assert large.select(places).mapping is not None
    large.write_parquet(tmp_path / "captions.parquet")
    back = read_captions(tmp_path / "captions.parquet")
    assert back.mapping is not None
    assert back.table.equals(small.table)
    assert CaptionSet.from_texts(["x", "y"]).captions == ["x", "y"]  # without a repeated one


def test_captions_are_chosen_from_more_text_than_an_arrow_string_holds() -> None:
    room = pa.allocate_buffer(2**29)  # bytes; never touched but for the first ones, so it takes no memory
    np.frombuffer(room, np.uint8)[:3] = list(b"dog")
    texts = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 3, 2**29], np.int32)), room])
    batches = [
        pa.record_batch([np.array([2 * k, 2 * k + 1]), texts, np.array([1, 1])], schema=caption_set.SCHEMA)
        for k in range(5)
    ]
    captions = CaptionSet(pa.Table.from_batches(batches)).select([8, 0, 4])
    assert (captions.captions, captions.caption_ids.tolist()) == (["dog"] * 3, [8, 0, 4])


@pytest.mark.parametrize("method", ["write", "flush"])
def test_a_full_temporary_folder_is_one_sentence(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stablerep_hf.captions.spool._IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", type("Full", (BytesIO,), {method: fail}))
    with pytest.raises(InputError, match=r"do not fit into the temporary folder .*No space left.*TMPDIR"):
        CaptionSet.from_texts(["a"])
