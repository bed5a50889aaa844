import pytest
from training_data import make_dataset


@pytest.fixture(scope="session")
def grouped_folder(tmp_path_factory):
    """A data folder with twelve captions of four images."""
    folder = tmp_path_factory.mktemp("grouped")
    make_dataset([4] * 12).to_parquet(folder / "train.parquet")
    return folder
