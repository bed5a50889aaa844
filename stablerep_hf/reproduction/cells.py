"""What is trained and measured: a setting, its seeds, and the name under which a result of it is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

# Raise it when the same settings come to mean something else: kept records are then of another study.
STUDY_VERSION = 2

Objective = Literal["pixels", "untrained", "simclr", "supcon", "clip", "stablerep", "stablerep+"]
Source = Literal["synthetic", "real"]
OF_IMAGES = ("simclr", "supcon")  # a batch is made of single images, of which each is seen twice
WITH_TEXT = ("clip", "stablerep+")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images that a training run sees.

    Attributes:
        captions: how many, the first of an order that is random and always the same, so that small sets lie in large
            ones.
        images_per_caption: the first so many of each caption; of real images all there are. A batch holds so many of
            it.
        source: the world's generator, or its real images.
        guidance_scale: of the generator.
        num_inference_steps: of the generator.
        guidance_interval: noise levels that are guided; None: all.
        balanced: take the captions in turn from each subgroup, the rarest captions of the whole among them, until
            `captions` are reached, in place of the first ones.
        aligned: of twice as many images a caption keep those that fit their caption best.
    """

    captions: int
    images_per_caption: int
    source: Source = "synthetic"
    guidance_scale: float = 2.0
    num_inference_steps: int = 12
    balanced: bool = False
    aligned: bool = False
    guidance_interval: tuple[float, float] | None = None

    @property
    def drawn_per_caption(self) -> int:
        """Images of each caption that have to be drawn for it."""
        return self.images_per_caption * (2 if self.aligned else 1)

    def describe(self) -> dict[str, Any]:
        """JSON values."""
        return {"images": _values(self)}

    def key(self, materials: Mapping[str, Any]) -> str:
        """The name of the record that says what these images are like."""
        return _digest({**self.describe(), **materials})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A training run without its seed.

    Attributes:
        objective: what is learned; "untrained" is the encoder before training, "pixels" no encoder at all.
        images: what from; None where nothing is learned.
        steps: batches.
        views: in a batch, whatever the objective, as far as its captions have all their images.
    """

    objective: Objective
    images: ImageSet | None = None
    steps: int = 0
    views: int = 0

    @property
    def has_seeds(self) -> bool:
        """Whether runs of it differ."""
        return self.objective != "pixels"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run and its measurement: the unit of work, of resume and of the records."""

    setting: Setting
    seed: int

    def describe(self) -> dict[str, Any]:
        """JSON values."""
        return {"setting": _values(self.setting), "seed": self.seed}

    def key(self, materials: Mapping[str, Any]) -> str:
        """The name of its record: settings, materials (revisions of data and generator, recipe) and seed."""
        return _digest({**self.describe(), **materials})


def _values(of: ImageSet | Setting) -> dict[str, Any]:
    """Its fields, but not the interval where there is none: records made before there was one keep their names."""
    return dataclasses.asdict(
        of, dict_factory=lambda pairs: {key: v for key, v in pairs if (key, v) != ("guidance_interval", None)}
    )


def _digest(values: Mapping[str, Any]) -> str:
    canonical = json.dumps({"version": STUDY_VERSION, **values}, sort_keys=True, separators=(",", ":"))
    return blake2b(canonical.encode(), digest_size=8).hexdigest()
