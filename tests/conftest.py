from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before anything else
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gloo import GlooRanks


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
