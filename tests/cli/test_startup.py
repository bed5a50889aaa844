"""What commands do before the libraries are imported that take seconds."""

import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

# Stops each command at its first line, be it of progress or of refusal, and notes what was imported by then.
FIRST_LINES = """
import io, json, sys, tqdm
from contextlib import redirect_stderr
from stablerep_hf.cli import main

class Stopped(BaseException):
    pass

class Terminal(io.StringIO):
    def isatty(self):
        return True

def stop(line, **_options):
    raise Stopped(line)

tqdm.tqdm.write = stop
noted = []
for words in json.loads(sys.argv[1]):
    with redirect_stderr(Terminal()) as error:
        try:
            main(words)
        except Stopped as stopped:
            error.write(str(stopped))
    slow = sorted({"torch", "transformers", "diffusers"} & sys.modules.keys())
    noted.append([error.getvalue().strip().splitlines()[-1], *slow])
print(json.dumps(noted))
"""


@pytest.fixture
def photos(tmp_path):
    rows = {
        "image": [Image.fromarray(np.full((8, 8, 3), 9 * row, np.uint8)) for row in range(20)],
        "label": [row % 2 for row in range(20)],
        "caption": [f"caption {row}" for row in range(20)],
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]), caption=datasets.Value("string")
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "photos" / "train.parquet")
    return tmp_path


def first_lines(folder, *commands):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "TQDM_DISABLE": "1"}
    words = [sys.executable, "-c", FIRST_LINES, json.dumps([command.split() for command in commands])]
    ran = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def test_data_are_checked_and_a_line_is_shown_before_torch_is_imported(photos):
    lines = first_lines(
        photos,
        "train --data photos --output encoder --max_steps 3",
        "train --config pictograms --data photos",
        "finetune embedded --data photos --max_steps 3",
        "evaluate embedded --data photos",
        "embed embedded --data photos --cache none",
        "index photos embedded --cache none",
    )
    assert lines == [
        ["reading photos (train)"],
        ["reading photos (train)"],
        ["reading photos (train)"],
        ["photos: 16 images of the rest of train to learn from, 4 of a fifth of train (seed 0) to score"],
        ["photos: 20 images of train"],
        ["photos: 20 images of train"],
    ]


def test_what_is_not_there_is_refused_before_torch_is_imported(photos):
    commands = (
        "train --data",
        "finetune embedded --data",
        "evaluate embedded --data",
        "embed embedded --data",
        "index",
    )
    missing = [f"{command} missing{' embedded' if command == 'index' else ''} --quiet" for command in commands]
    others = (
        "train --data photos --quiet --split test",
        "train --data photos --quiet --captions_per_batch x",
        "adapt-generator --data missing",
        "train --data missing --quiet --lr 0.1",
    )
    *of_data, of_split, of_number, of_pairs, of_flag = first_lines(photos, *missing, *others)
    for line in [*of_data, of_pairs]:
        assert len(line) == 1 and "The data set 'missing' is neither a folder" in line[0]
    assert of_split == [
        "stablerep train: The data set 'photos' cannot give the split 'test', it has 'train': name one of those."
    ]
    assert len(of_number) == 1 and "--captions-per-batch 'x' is not a whole number" in of_number[0]
    assert "there is no flag --lr, did you mean --learning-rate" in of_flag[0], "a flag comes before data"


def test_a_machine_that_knows_no_hub_is_told_so_at_once(tmp_path):
    words = [sys.executable, "-m", "stablerep_hf", "train", "--data", "my-imags", "--output", str(tmp_path / "out")]
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    surroundings["HF_ENDPOINT"] = "https://hub.invalid"
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "my-imags" in done.stderr and "Retrying" not in done.stderr, done.stderr
