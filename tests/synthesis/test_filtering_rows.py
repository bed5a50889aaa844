from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import filter_rows, filter_stream, parse_filter
from stablerep_hf.synthesis.frames import encode_image

COLUMNS = {
    "alignment": [0.1, 0.3, None, 0.5, float("nan")],
    "nsfw": [0.0, 0.9, 0.1, 0.2, 0.0],
    "is_blank": [False, False, True, None, False],
    "caption": ["a dog", "a dog", "a cat", "a yak", "a yak"],
    "unscored": [None] * 5,
}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("alignment > 0.2", [1, 3]),
        ("alignment > 0.2 and nsfw < 0.5", [3]),
        ("0.2 <= alignment < 0.5", [1]),
        ("not is_blank", [0, 1, 3, 4]),
        ("is_blank or (alignment > .4)", [2, 3]),
        ("not (alignment > 0.2)", [0, 2, 4]),
        ("caption == 'a dog'", [0, 1]),
        ("caption != 'a dog' and nsfw > -1", [2, 3, 4]),
        ("nsfw > alignment", [1]),
        ("is_blank == False", [0, 1, 4]),
        ("-alignment < -0.2", [1, 3]),
        ("-is_blank == -1", [2]),
        ("-nsfw < -0.1 and -1 < alignment", [1, 3]),
        ("alignment", [0, 1, 3]),
        ("not alignment", [2, 4]),
        ("alignment and caption == 'a yak'", [3]),
        ("-(-nsfw) > 0.5", [1]),
        ("caption and nsfw > 0.1", [1, 3]),
    ],
)
def test_conditions_mean_what_they_say_and_what_is_missing_fulfils_none(text: str, kept: list[int]) -> None:
    assert np.flatnonzero(parse_filter(text).mask(COLUMNS)).tolist() == kept


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "alignment.__class__ > 0",
        "alignment + 1 > 0",
        "[alignment]",
        "alignment in (1, 2)",
        "alignment is None",
        "lambda: alignment",
        "alignment > b'x'",
        "(alignment := 3) > 2",
        "f'{alignment}' > '1'",
        "alignment > 1e999j",
        "alignment[0] > 1",
        "~is_blank",
    ],
)
def test_anything_but_comparisons_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="which is not a comparison of columns and constants"):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alignment >", "cannot be read"),
        ("", "cannot be read"),
        ("1 > 0", "names no column"),
        ("colour > 1", "names 'colour', but the columns are"),
        ("unscored > 0", "'unscored', which no row has a value of; leave it out"),
        ("nsfw > 2", "keeps none of 5 rows"),
        ("caption > 3", "compares 'a dog' with 3, which have no order"),
        ("-caption > 3", "negates 'a dog', which is not a number"),
        ("-'a' == caption", "negates 'a', which is not a number"),
        ("(" * 500 + "nsfw" + ")" * 500, "cannot be read"),
    ],
)
def test_conditions_that_cannot_work(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        filter_rows(datasets.Dataset.from_dict(COLUMNS), text)


def test_a_stream_keeps_the_same_rows_and_leaves_images_encoded(tmp_path: Path) -> None:
    features = datasets.Features({"score": datasets.Value("float32"), "image": datasets.Image()})
    images = [
        {"bytes": encode_image(Image.new("RGB", (4, 4), (level, 0, 0)), "png"), "path": None} for level in (9, 99)
    ]
    rows = datasets.Dataset.from_dict({"score": [0.1, 0.5], "image": images}, features)
    rows.to_parquet(tmp_path / "rows.parquet")
    stream = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", streaming=True)
    (row,) = filter_stream(stream, "-score < -0.2")
    assert datasets.Image().decode_example(row["image"]).getpixel((0, 0)) == (99, 0, 0)
    assert filter_rows(rows, "-score < -0.2")[0]["score"][:] == [row["score"]]


def test_a_score_that_was_never_measured_says_how_to_measure_it() -> None:
    with pytest.raises(InputError, match="`stablerep score` measures it"):
        filter_rows(datasets.Dataset.from_dict({"alignment": [None]}), "alignment > 0")


def test_what_goes_is_counted_by_concept() -> None:
    kept, report = filter_rows(datasets.Dataset.from_dict(COLUMNS), "alignment > 0.2", ["dog", "cat", "yak", "emu"])
    assert kept["caption"][:] == ["a dog", "a yak"]
    assert (report.num_kept, report.num_dropped, report.num_captions_lost) == (2, 3, 1)
    assert list(report.by_concept.items()) == [("cat", (1, 1)), ("dog", (1, 2)), ("yak", (1, 2))]
    assert "cat: dropped 1 of 1" in str(report)
