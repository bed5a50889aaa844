from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before anything else
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gloo import GlooRanks
from hub_double import HubDouble, running_hub


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nothing touches anybody's account unless both a token is there and these tests were asked for."""
    if os.environ.get("HF_TOKEN") and "live" in config.option.markexpr:
        return
    for item in items:
        if "live" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="uses a real account: set HF_TOKEN and give -m live"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # results that do not depend on the machine, and fair to what else runs on it


@pytest.fixture(scope="session")
def run_on_gloo() -> Iterator[Callable[..., list[Any]]]:
    """``run_on_gloo(function, *args, world_size=2, timeout=240, fresh=False) -> [result of rank 0, of rank 1, ...]``.

    `function` is at the top level of a test module. Ranks live on from test to test; `fresh=True` starts new ones for
    this call alone, for functions that leave their process changed (accelerate's state, environment variables).
    """
    kept: dict[int, GlooRanks] = {}

    def run(
        function: Callable[..., Any], *args: Any, world_size: int = 2, timeout: float = 240.0, fresh: bool = False
    ) -> list[Any]:
        if fresh:
            ranks = GlooRanks(world_size)
            try:
                return ranks(function, *args, timeout=timeout)
            finally:
                ranks.close()
        if world_size not in kept or kept[world_size].closed:
            kept[world_size] = GlooRanks(world_size)
        return kept[world_size](function, *args, timeout=timeout)

    yield run
    for ranks in kept.values():
        ranks.close()


@pytest.fixture(scope="session")
def _session_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubDouble]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def hub(_session_hub: HubDouble) -> HubDouble:
    """An empty Hub on loopback. Processes find it by `hub.environment(home)`, this one by `hub_here`."""
    _session_hub.reset()
    return _session_hub


@pytest.fixture
def hub_here(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> HubDouble:
    """The same, and huggingface_hub of this process talks to it as alice."""
    from huggingface_hub import close_session, constants

    files = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    close_session()
    return hub


@pytest.fixture
def stablerep(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, standard output, standard error)."""

    from stablerep_hf import cli

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def grouped_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with twelve captions of four images."""
    from training_data import make_dataset

    folder = tmp_path_factory.mktemp("grouped")
    make_dataset([4] * 12).to_parquet(folder / "train.parquet")
    return folder
