"""The plan: which images there will be, who draws them and in which file each one ends up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from ..captions import CaptionSet
from ..errors import InputError
from ..files.sealing import content_hash, seal, unseal
from .protocol import ImageGenerator, PlainGenerator, describe_generator
from .seeds import image_seed
from .settings import ImageFormat
from .siblings import describe_encoder

PLAN_VERSION = 3  # of what a plan means: seeds, prompts, columns, encoding. Raise it when one of these changes.
PLACEHOLDER = "{caption}"
Int64Array = npt.NDArray[np.int64]
MOST_SHARDS = 100_000  # file names have five digits
# What of a plan one setting brings about, by the setting's name.
_SETTABLE = {"base_seed": "seed"} | {
    name: name
    for name in (
        "dtype", "guidance_scale", "guidance_interval", "num_inference_steps", "scheduler", "height", "width",
        "images_per_caption", "image_format", "stored_size", "captions_per_shard", "min_sibling_distance",
        "max_sibling_similarity", "sibling_encoder",
    )
}  # fmt: skip
# so that plans made before there were these keep their hash
_LEFT_OUT_IF_NONE = ("signature", "min_sibling_distance", "max_sibling_similarity", "sibling_encoder")


@dataclass(frozen=True, eq=False, init=False)
class SynthesisPlan:
    """Everything that changes an image or a row. Two plans with one `hash` give the same data set.

    Attributes:
        captions: What to draw.
        generator: What draws, as it describes itself (JSON values): name, revision, scheduler, steps, guidance ...
        images_per_caption: The paper's m, at least 1, for captions whose set does not say `num_images`.
        prompt_templates: What the generator is given, with `{caption}` where the caption goes. Image k of a caption
            uses template (caption_id + k) modulo their number: siblings differ, and all templates are used over the
            set even if there are more templates than siblings.
        base_seed: Seed of the whole plan, see `image_seed`.
        image_format: How images are stored: JPEG at quality 95, lossless PNG, or WebP at quality 90.
        stored_size: Pixels of the shorter side of a stored image: larger frames are scaled down (the release draws
            512 and stores 256), smaller ones are left alone. None stores what was drawn.
        captions_per_shard: Captions in one file. A shard is the unit of work: what a kill may cost, and what workers
            share out. Few captions waste little; the Hub wants fewer than 10,000 files.
        signature: What `ContentSigner.describe` said, if image files are signed; None if they are not.
        min_sibling_distance: Least distance of the siblings of a caption, 1 to 64 bits of their `perceptual_hash`; an
            image that is nearer to one before it is drawn again under the next index. None takes all.
        max_sibling_similarity: Likewise the greatest cosine of two siblings in the features of `sibling_encoder`.
        sibling_encoder: Name and revision of an encoder; an image is encoded alone, on the CPU.
    """

    captions: CaptionSet
    generator: Mapping[str, Any]
    images_per_caption: int
    prompt_templates: tuple[str, ...]
    base_seed: int
    image_format: ImageFormat
    stored_size: int | None
    captions_per_shard: int
    signature: Mapping[str, str] | None
    min_sibling_distance: int | None
    max_sibling_similarity: float | None
    sibling_encoder: Mapping[str, str | None] | None

    def __init__(
        self,
        captions: CaptionSet,
        generator: ImageGenerator | PlainGenerator | Mapping[str, Any],
        images_per_caption: int = 4,
        prompt_templates: Sequence[str] | None = None,
        base_seed: int = 0,
        image_format: ImageFormat = "jpeg",
        stored_size: int | None = None,
        captions_per_shard: int | None = None,
        signature: Mapping[str, str] | None = None,
        min_sibling_distance: int | None = None,
        max_sibling_similarity: float | None = None,
        sibling_encoder: str | Mapping[str, str | None] | None = None,
    ) -> None:
        """Plan the images of captions; the arguments are the attributes.

        `generator` may be a `DiffusersGenerator`, any `ImageGenerator`, any callable of prompts and seeds, or what
        `describe_generator` said of one. The release drew 10 `images_per_caption` and trained on 6 of them.
        `prompt_templates` are by default those that the generator asks for (the embedded one does), else the caption;
        `captions_per_shard` is 64, or more where these would make more than `MOST_SHARDS` files.

        Raises:
            InputError: A value is impossible.
        """
        if captions_per_shard is None:
            captions_per_shard = max(64, -(-len(captions) // MOST_SHARDS))
        if prompt_templates is None:
            prompt_templates = getattr(generator, "prompt_templates", (PLACEHOLDER,))
        values = {
            "captions": captions,
            "generator": describe_generator(generator),
            "images_per_caption": images_per_caption,
            "prompt_templates": tuple(prompt_templates),
            "base_seed": base_seed,
            "image_format": image_format,
            "stored_size": stored_size,
            "captions_per_shard": captions_per_shard,
            "signature": signature,
            "min_sibling_distance": min_sibling_distance,
            "max_sibling_similarity": max_sibling_similarity,
            "sibling_encoder": describe_encoder(sibling_encoder)
            if isinstance(sibling_encoder, str)
            else sibling_encoder,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        for name in ("images_per_caption", "captions_per_shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} draws nothing: give 1 or more.")
        if self.stored_size is not None and self.stored_size < 1:
            raise InputError(f"stored_size={self.stored_size} leaves no pixel: give 1 or more, or leave it out.")
        if self.min_sibling_distance is not None and not 1 <= self.min_sibling_distance <= 64:
            raise InputError(
                f"min_sibling_distance={self.min_sibling_distance} is not a distance of two 64-bit hashes: give a "
                "number from 1 to 64, or leave it out."
            )
        if (self.max_sibling_similarity is None) != (self.sibling_encoder is None):
            raise InputError(
                "`max_sibling_similarity` says how much siblings may resemble each other, and `sibling_encoder` in "
                "whose features: give both, or neither."
            )
        if self.max_sibling_similarity is not None and not -1 <= self.max_sibling_similarity < 1:
            raise InputError(
                f"max_sibling_similarity={self.max_sibling_similarity} is not a cosine that tells images apart: give "
                "a number from -1 to below 1."
            )
        if len(self.captions) == 0:
            raise InputError("The plan has 0 captions, so there is nothing to draw: give at least one.")
        if not self.prompt_templates:
            raise InputError(f"The plan has no prompt template: give at least one, such as '{PLACEHOLDER}'.")
        for template in self.prompt_templates:
            if PLACEHOLDER not in template:
                raise InputError(
                    f"The prompt template {template!r} has no {PLACEHOLDER}, so every caption would get the same "
                    f"prompt: write {PLACEHOLDER} where the caption goes."
                )
        if self.image_format not in get_args(ImageFormat):
            known = ", ".join(get_args(ImageFormat))
            raise InputError(f"The image format {self.image_format!r} is not supported: use one of {known}.")
        if self.num_shards > MOST_SHARDS:
            raise InputError(
                f"{len(self.captions)} captions at {self.captions_per_shard} a shard make {self.num_shards} files, "
                f"more than {MOST_SHARDS}: raise `captions_per_shard`."
            )

    @property
    def num_shards(self) -> int:
        """How many files there will be."""
        return -(-len(self.captions) // self.captions_per_shard)

    @property
    def num_images(self) -> int:
        """How many rows there will be if no caption fails."""
        return int(self.num_images_of(self.captions).sum())

    def num_images_of(self, captions: CaptionSet) -> Int64Array:
        """How many images each of these captions gets, int64 (C,)."""
        if captions.num_images is not None:
            return captions.num_images
        return np.full(len(captions), self.images_per_caption, np.int64)

    def num_images_in(self, shard: int) -> int:
        """How many rows a shard has if no caption fails."""
        return int(self.num_images_of(self.shard_captions(shard)).sum())

    def shard_captions(self, shard: int) -> CaptionSet:
        """The captions of shard 0 <= shard < num_shards, a view of the plan's."""
        start = shard * self.captions_per_shard
        return self.captions.slice(start, start + self.captions_per_shard)

    def prompt(self, caption: str, caption_id: int, image_index: int) -> str:
        """What the generator is given for image `image_index` of this caption."""
        template = self.prompt_templates[(caption_id + image_index) % len(self.prompt_templates)]
        return template.replace(PLACEHOLDER, caption)

    def seed(self, caption_id: int, image_index: int) -> int:
        """The seed of image `image_index` of this caption, see `image_seed`."""
        return image_seed(self.base_seed, caption_id, image_index)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the hash covers, as JSON values; the captions are represented by their number and digest."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["captions"] = {"number": len(self.captions), "digest": self.captions.digest}
        settings = {"plan_version": PLAN_VERSION} | {
            name: value for name, value in values.items() if value is not None or name not in _LEFT_OUT_IF_NONE
        }
        normalized: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
        return normalized

    @cached_property
    def hash(self) -> str:
        """32 hex digits of the settings."""
        return content_hash(self.settings)

    def to_json(self) -> str:
        """The settings and their hash as indented JSON, without the captions themselves."""
        return seal(self.settings)

    @classmethod
    def from_json(cls, text: str, captions: CaptionSet) -> SynthesisPlan:
        """Make the plan that `to_json` wrote, given its captions.

        Raises:
            InputError: The text is no plan of this version, or is the plan of other captions.
        """
        settings = parse_plan(text)
        names = [entry.name for entry in fields(cls) if entry.name != "captions"]
        plan = cls(captions, **{name: settings.get(name) for name in names})  # type: ignore[arg-type]
        if difference := describe_difference(settings, plan.settings):
            raise InputError(f"The plan does not fit the captions: {difference}; give the captions it was made for.")
        return plan


def parse_plan(text: str | bytes) -> dict[str, Any]:
    """The settings in the JSON of a plan.

    Raises:
        InputError: It is damaged, or was written by a version whose plans mean something else.
    """
    try:
        record = unseal(text)
    except ValueError as error:  # also where it is not JSON, or not even UTF-8
        raise InputError(
            f"A plan that begins with {text[:40]!r} does not match its own hash, so it was damaged or edited; "
            "restore it, or draw into another folder."
        ) from error
    if record["plan_version"] != PLAN_VERSION:
        raise InputError(
            f"The plan is of version {record['plan_version']}, but this release makes version {PLAN_VERSION}; "
            "draw into another folder."
        )
    return record


def describe_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Name the settings in which two plans differ ('guidance_scale is 2.0 there and 8.0 here'); '' if in none.

    The generator's licence does not count: its card may be corrected, which changes no image.
    """
    differences = []
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if old == new or key == "license":
            continue
        if key == "captions":
            differences.append(f"captions are {_captions(old)} there and {_captions(new)} here")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            differences.append(describe_difference(old, new))
        else:
            differences.append(f"{key} is {json.dumps(old)} there and {json.dumps(new)} here")
    return ", ".join(filter(None, differences))


def settings_of_another(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings by which a plan would agree with another ('dtype=float32 guidance_scale=2.0').

    '' where something differs that no setting says, such as captions or revision.
    """
    differing: dict[str, Any] = {}
    for theirs, ours in ((there, here), (there["generator"], here["generator"])):
        for key in {*theirs, *ours} - {"generator", "license"}:
            if theirs.get(key) != ours.get(key):
                differing[key] = theirs.get(key)
    if not differing.keys() <= _SETTABLE.keys() or any(value is None for value in differing.values()):
        return ""
    shown = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in differing.items()}
    return " ".join(f"{_SETTABLE[key]}={value}" for key, value in sorted(shown.items()))


def _captions(summary: Mapping[str, Any] | None) -> str:
    return "none" if summary is None else f"{summary['number']} of digest {summary['digest'][:8]}"
