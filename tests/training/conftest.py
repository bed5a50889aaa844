import pytest
from training_data import make_dataset


@pytest.fixture(scope="session")
def dataset():
    return make_dataset([4] * 12)
