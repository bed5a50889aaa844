"""`stablerep adapt-generator` as a user types it."""

import datasets
import pytest
from PIL import Image


@pytest.fixture
def captioned(tmp_path):
    picture = datasets.Image()
    columns = {
        "image": ([Image.new("RGB", (8, 8), color) for color in ("red", "blue")], picture),
        "patchy": ([Image.new("RGB", (8, 8)), None], picture),
        "caption": (["a red thing", "a blue thing"], datasets.Value("string")),
        "blank": (["a red thing", ""], datasets.Value("string")),
        "number": ([3, 4], datasets.Value("int64")),
        "kind": ([0, 1], datasets.ClassLabel(names=["red", "blue"])),
    }
    features = datasets.Features({name: feature for name, (_, feature) in columns.items()})
    rows = datasets.Dataset.from_dict({name: values for name, (values, _) in columns.items()}, features=features)
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    return tmp_path / "data"


def test_captioned_images_become_a_lora(stablerep, pipeline, captioned, tmp_path):
    flags = ["--data", captioned, "--generator", pipeline, "--steps", 1, "--batch_size", 2, "--rank", 2]
    code, out, err = stablerep("adapt-generator", *flags, "--output", tmp_path / "lora")
    assert code == 0, err
    assert f"--lora {tmp_path / 'lora'}" in out
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("flag", "column", "said"),
    [
        ("--caption_column", "number", "The column 'number' of --data"),
        ("--caption_column", "kind", "holds 0, no caption: name another by `--caption-column`"),
        ("--caption_column", "blank", "1 of 2 rows have no caption"),
        ("--caption_column", "text", "but no 'text'"),
        ("--image_column", "caption", "holds 'a red thing', no picture: name another by `--image-column`"),
        ("--image_column", "patchy", "1 of 2 rows have no picture"),
    ],
)
def test_columns_of_something_else_are_refused(stablerep, pipeline, captioned, tmp_path, flag, column, said):
    flags = ["--data", captioned, "--generator", pipeline, "--output", tmp_path / "lora", flag, column]
    code, _, err = stablerep("adapt-generator", *flags)
    assert (code, said in err, err.strip().count("\n")) == (2, True, 0), err
    assert not (tmp_path / "lora").exists()


def test_a_picture_that_cannot_be_read_is_named(stablerep, pipeline, captioned, tmp_path):
    rows = datasets.load_dataset(str(captioned), split="train").cast_column("image", datasets.Image(decode=False))
    rows = rows.map(lambda row, place: {"image": {"bytes": b"no" * place, "path": None}}, with_indices=True)
    rows = rows.select([1])
    rows.to_parquet(captioned / "train.parquet")
    code, _, err = stablerep(
        "adapt-generator", "--data", captioned, "--generator", pipeline, "--output", tmp_path / "o"
    )
    assert (code, "picture of row 0 of --data" in err, err.strip().count("\n")) == (2, True, 0), err
