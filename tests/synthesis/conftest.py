from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from painters import Painter
from tiny_pipelines import save_stable_diffusion

from stablerep_hf.captions import CaptionSet
from stablerep_hf.synthesis import SynthesisPlan


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionPipeline of random weights, 16 px."""
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-stable-diffusion"
    save_stable_diffusion(folder)
    return folder


@pytest.fixture
def make_plan() -> Callable[..., SynthesisPlan]:
    """A plan of `number` captions for a Painter, 2 images each, 4 captions a shard; keywords override."""

    def make(number: int = 10, **settings: Any) -> SynthesisPlan:
        captions = settings.pop("captions", None) or CaptionSet.from_texts(f"thing {i}" for i in range(number))
        generator = settings.pop("generator", Painter().describe())
        return SynthesisPlan(captions, generator, **{"images_per_caption": 2, "captions_per_shard": 4, **settings})

    return make
