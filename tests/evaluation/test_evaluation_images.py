from __future__ import annotations

import datasets
import pytest
import yaml
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.images import load_images

PARQUET = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
FOLDERS = "---\nconfigs:\n- config_name: default\n  data_dir: .\n---\n"


def write_parquet(folder, colour):
    (folder / "data").mkdir(exist_ok=True)
    rows = {"image": [Image.new("RGB", (8, 8), colour)] * 2}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    data.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def write_pictures(folder, colour):
    for name in ("cat", "dog"):
        (folder / name).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(folder / name / "0.png")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("card", "write"), [(PARQUET, write_parquet), (FOLDERS, write_pictures)])
def test_a_folder_with_a_card_is_read_as_its_files_stand_now(tmp_path, card, write, streaming):
    (tmp_path / "README.md").write_text(card)
    seen = []
    for colour in ("red", "blue"):
        write(tmp_path, colour)
        loaded = load_images(tmp_path, "train", streaming=streaming)
        seen.append((next(iter(loaded))["image"].getpixel((0, 0)), None if streaming else loaded._fingerprint))
    assert [pixel for pixel, _ in seen] == [(255, 0, 0), (0, 0, 255)]
    if not streaming:
        assert seen[0][1] != seen[1][1], "features are kept by the fingerprint"
        assert load_images(tmp_path, "train")._fingerprint == seen[1][1]


def test_what_the_card_says_of_the_columns_still_counts(tmp_path):
    (tmp_path / "train.csv").write_text("label\n1\n0\n")
    names = {"class_label": {"names": {"0": "cat", "1": "dog"}}}
    info = yaml.safe_dump({"dataset_info": {"features": [{"name": "label", "dtype": names}]}})
    (tmp_path / "README.md").write_text(f"---\n{info}---\n")
    assert load_images(tmp_path, "train").features["label"].names == ["cat", "dog"]


def test_a_split_or_a_folder_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "README.md").write_text(PARQUET)
    with pytest.raises(InputError, match="neither a folder with images nor within reach"):
        load_images(tmp_path, "train")
    write_parquet(tmp_path, "red")
    with pytest.raises(InputError, match="cannot give the split 'nope'"):
        load_images(tmp_path, "nope")
