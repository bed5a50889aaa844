"""Loading a data set, training and measuring need none of the heavy packages that other commands need."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"datasketch", "diffusers", "matplotlib", "scipy", "scikit-learn"}

# As if they were not installed: also the packages that use them where they are there find none.
CODE = """
import sys
for name in ("datasketch", "diffusers", "matplotlib", "scipy", "sklearn"):
    sys.modules[name] = None
import numpy as np
from stablerep_hf import StableRepTrainer, StableRepTrainingArguments
from stablerep_hf.evaluation import Columns, Subject, evaluate_features, Features
from stablerep_hf.evaluation.images import load_images
from training_data import make_dataset

make_dataset([2] * 4).to_parquet("images/train.parquet")
dataset = load_images("images", "train")
arguments = StableRepTrainingArguments(
    "checkpoints", captions_per_batch=2, images_per_caption=2, max_steps=1, save_strategy="no", use_cpu=True
)
StableRepTrainer("micro", arguments, dataset).train()
rows = Features(np.eye(8, dtype=np.float32), np.arange(8), {"label": np.arange(8) // 2})
print(evaluate_features(rows, rows, columns=Columns(label="label"), protocols=["knn"], subject=Subject(encoder="e")))
"""


@pytest.mark.slow
def test_the_light_parts_work_without_the_heavy_packages(tmp_path):
    paths = [path for path in sys.path if path]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{CODE}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_docs_name_what_the_light_parts_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]} - HEAVY
    page = (ROOT / "spaces/docs/install.md").read_text("utf-8")
    listed = page.split("--no-deps -e .\npip install ")[1].split("```")[0]
    assert set(listed.replace("\\", " ").split()) == needed
