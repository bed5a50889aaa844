"""`stablerep evaluate` on data sets as people have them, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from waiting import wait_until

from stablerep_hf import assets


@pytest.fixture
def image_folder(tmp_path):
    """Class folders below train and test, as `imagefolder` reads them; one file of each is torn."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for place, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = generator.integers(0, 90, (20, 20, 3)) + np.array([0, 150 * place, 0])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        torn = tmp_path / "photos" / split / "cat" / "3.png"
        torn.write_bytes(torn.read_bytes()[:60])
    return tmp_path / "photos"


def test_class_folders_with_torn_files(stablerep, trained, image_folder, tmp_path, caplog):
    file = tmp_path / "results.json"
    flags = ["evaluate", trained, "--data", image_folder, "--protocols", "knn", "few_shot", "--output", file]
    flags += ["--few_shot_ways", "2", "--few_shot_shots", "1", "--few_shot_episodes", "20"]
    code, _, err = stablerep(*flags)
    assert (code, file.exists()) == (2, False)
    assert "cannot be decoded" in err and "max_bad_images" in err
    code, _, err = stablerep(*flags, "--max_bad_images", "1", "--few_shot_queries", "12")
    assert code == 0, err
    assert "few_shot of encoder is left out: 0 of 2 classes have the 13 images" in caplog.text
    results = [r for r in json.loads(file.read_text()) if r["encoder"] == "encoder"]
    assert [(r["settings"]["k"], r["n"], r["settings"]["bad_images"]) for r in results] == [(10, 23, 2), (20, 23, 2)]
    assert results[0]["value"] > 0.9
    assert results[0]["settings"]["num_labels"] == 2


def test_a_fine_tuning_names_the_torn_file(stablerep, trained, image_folder, tmp_path):
    flags = ["--use_cpu", "--max_steps", 3, "--images_per_batch", 8, "--output", tmp_path / "out"]
    code, _, error = stablerep("finetune", trained, "--data", image_folder, *flags)
    assert code == 2 and "(file 'cat/3.png')" in error, error


def test_encoders_that_ship_are_called_by_name(stablerep, labelled_folder, tmp_path):
    flags = ["--data", labelled_folder, "--use_cpu", "--max_steps", 1, "--images_per_batch", 8]
    assert stablerep("finetune", "embedded", *flags, "--output", tmp_path / "tuned")[0] == 0
    assert stablerep("convert", "embedded-stablerep", tmp_path / "again")[0] == 0
    file = tmp_path / "results.json"
    flags = ["--data", labelled_folder, "--protocols", "knn", "--cache", "none", "--output", file]
    assert stablerep("evaluate", "embedded-stablerep", "untrained", *flags)[0] == 0
    encoders = list(dict.fromkeys(result["encoder"] for result in json.loads(file.read_text())))
    assert encoders == ["embedded-stablerep", "untrained embedded-stablerep", "8 x 8 pixels"]


def test_a_data_set_of_one_class_is_one_sentence(stablerep, trained, labelled_folder, tmp_path):
    for split in ("train", "test"):
        table = pq.read_table(labelled_folder / f"{split}.parquet")
        place = table.column_names.index("label")
        pq.write_table(table.set_column(place, "label", pa.array([7] * len(table))), tmp_path / f"{split}.parquet")
    code, _, err = stablerep("evaluate", trained, "--data", tmp_path, "--protocols", "knn")
    assert code == 2
    assert "Every label in column 'label' of split 'train' is 7" in err
    assert err.strip().count("\n") == 0


@pytest.mark.timeout(900)
def test_an_extraction_killed_in_the_middle_goes_on(stablerep, tmp_path):
    cache, file = tmp_path / "cache", tmp_path / "results.json"
    flags = ["evaluate", str(assets.encoder_path()), "--protocols", "knn", "--knn_neighbours", "20", "--no_pixels"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stablerep_hf.cli", *flags, "--cache", str(cache), "--output", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: list(cache.glob("*/*.npz")), process, seconds=600)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("*/*.npz")}
    assert not file.exists()
    assert 0 < len(kept) < 9, "8,038 images are nine shards"
    code, _, err = stablerep(*flags, "--cache", cache, "--output", file)
    assert code == 0, err
    assert len(list(cache.glob("*/*.npz"))) == 9
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "what stood was made again"
    code, _, _ = stablerep(*flags, "--cache", "none", "--output", tmp_path / "whole.json")
    assert file.read_text() == (tmp_path / "whole.json").read_text()


def test_a_folder_of_photos_without_a_test_split_gets_one_held_out(stablerep, trained, image_folder, tmp_path):
    """Three classes without splits: a fifth of each is scored, by default protocols, and few-shot asks three ways."""
    photos = tmp_path / "flat"
    for place, name in enumerate(("cat", "dog", "train")):
        (photos / name).mkdir(parents=True)
        for number in range(25):
            Image.new("RGB", (16, 16), (120 * place, number, 40)).save(photos / name / f"{number}.png")
    file = tmp_path / "results.json"
    few_shot = ["--few_shot_shots", "2", "--few_shot_queries", "3", "--few_shot_episodes", "10"]
    flags = ["evaluate", trained, "--data", photos, "--output", file, "--no_pixels", "--cache", "none"]
    assert stablerep(*flags)[0] == 0
    results = json.loads(file.read_text())
    assert {result["protocol"] for result in results} == {"knn", "linear_probe"}
    for result in results:
        assert (result["split"], result["n"]) == ("a fifth of train (seed 0)", 15)
        assert result["settings"]["train_split"] == "the rest of train"
        assert result["settings"]["train_images"] == 60
    assert stablerep(*flags, "--protocols", "few_shot", *few_shot)[0] == 0
    (result,) = json.loads(file.read_text())
    assert (result["variant"], result["split"], result["settings"]["images"]) == ("3-way 2-shot", "train", 75)
    assert result["chance"] == pytest.approx(1 / 3)
