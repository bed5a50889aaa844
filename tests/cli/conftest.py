import shutil

import datasets
import pytest
from tiny_pipelines import save_stable_diffusion
from tiny_training import TRAIN_FLAGS
from training_data import make_dataset

from stablerep_hf import cli


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    save_stable_diffusion(folder)
    return folder


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory):
    """Splits train and test; the label is the caption's number modulo 3."""
    folder = tmp_path_factory.mktemp("labelled")
    dataset = make_dataset([4] * 12)
    labels = [int(caption.rpartition(" ")[2]) % 3 for caption in dataset["caption"]]
    dataset = dataset.add_column("label", labels)
    for split, rows in [("train", range(0, 48, 2)), ("test", range(1, 48, 2))]:
        dataset.select(rows).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def labelled_by_name(labelled_folder, tmp_path_factory):
    """The test split alone, its labels called otherwise."""
    folder = tmp_path_factory.mktemp("named")
    data = datasets.load_dataset(str(labelled_folder), split="test")
    data = data.remove_columns("label").add_column("label", [f"kind {label}" for label in data["label"]])
    data.to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture(scope="session")
def trained(grouped_folder, tmp_path_factory):
    """The output folder of a finished training."""
    folder = tmp_path_factory.mktemp("trained") / "encoder"
    assert cli.main(["train", "--data", str(grouped_folder), "--output", str(folder), *TRAIN_FLAGS]) == 0
    return folder


@pytest.fixture
def trained_copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "encoder")


@pytest.fixture(autouse=True)
def _features_stay_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf_home"))


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
