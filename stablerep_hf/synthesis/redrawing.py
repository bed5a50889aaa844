"""One row of a store found again, and its image drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ..errors import InputError, refusing
from ..services import is_address
from .diffusers_generator import DiffusersGenerator
from .drawing import check_images, encode_row, row_of
from .plan import SynthesisPlan, describe_difference
from .protocol import ImageGenerator, PlainGenerator
from .service_generator import SENT, ServiceGenerator, is_service
from .verification import open_store

Drawer = TypeVar("Drawer", DiffusersGenerator, ServiceGenerator)
_DESCRIBED = (*SENT, "guidance_interval", "scheduler", "dtype")  # settings of a pipeline that a plan has by their name


@dataclass(frozen=True)
class RedrawnImage:
    """An image drawn again, beside the stored one.

    Attributes:
        encoded: The image file, not signed.
        is_same_file: Whether it equals the stored file byte by byte; never where that is signed.
        is_signed: Whether the plan has image files signed: then the pixels alone can be the same.
        max_difference: Largest difference of a pixel's channel, of 255. Rounding, by another batch, device or library
            version, makes 1 or little more (and JPEG spreads it); another picture dozens.
    """

    encoded: bytes
    is_same_file: bool
    is_signed: bool
    max_difference: int


def find_row(folder: str | Path, caption_id: int, image_index: int) -> dict[str, Any]:
    """All columns of one row, `image` as a dict of bytes and path.

    Raises:
        InputError: The folder is no store, or has no such row.
    """
    store = open_store(folder)
    places = np.flatnonzero(store.plan.captions.caption_ids == caption_id)
    if not len(places):
        raise InputError(
            f"The caption_id {caption_id} is none of the {len(store.plan.captions)} captions of {str(folder)!r}; take "
            "one from its rows."
        )
    path = store.shard_path(int(places[0]) // store.plan.captions_per_shard)
    with refusing(f"The shard {path.name!r} cannot be read", "`stablerep verify` says more", (OSError, ValueError)):
        rows = pq.read_table(
            path, filters=(pc.field("caption_id") == caption_id) & (pc.field("image_index") == image_index)
        ).to_pylist()
    if not rows:
        raise InputError(
            f"The caption {caption_id} of {str(folder)!r} has no image {image_index}; it may have been redrawn "
            "under a later index."
        )
    row: dict[str, Any] = rows[0]
    return row


def generator_of(
    plan: SynthesisPlan, generator: str | Path | None = None, lora: str | Path | None = None, **options: Any
) -> DiffusersGenerator | ServiceGenerator:
    """The generator that a plan describes.

    Args:
        plan: The plan.
        generator: Where its pipeline is, if not on the Hub, or the service: plans name no path and no address.
        lora: Where its LoRA is, if not on the Hub.
        options: Of `DiffusersGenerator`, such as `device`, that are no part of the plan.

    Raises:
        InputError: There is no such pipeline here, or it is not the plan's.
    """
    described = dict(plan.generator)
    if "service" in described:
        return _service_of(described, generator)
    if "retrieved_from" in described:
        raise InputError(
            f"The images are real ones, retrieved from {described['retrieved_from']}, so nothing can draw them: run "
            "the same `stablerep retrieve` again, which writes what is missing or damaged."
        )
    if "pipeline" not in described:
        raise InputError(
            f"The images were drawn by {described.get('name')!r}, which is not a diffusers pipeline, so this command "
            "cannot draw with it; use `redraw_image` or `synthesize` with that generator."
        )
    name, was_lora = str(described.get("name")), described.get("lora") or {}
    settings: dict[str, Any] = {entry: described.get(entry) for entry in _DESCRIBED}
    found = DiffusersGenerator(
        str(generator or name),
        described["revision"] if generator is None and "/" in name else None,
        **settings,
        lora=str(lora) if lora else _pinned(was_lora),
        lora_scale=was_lora.get("scale", 1.0),
        autoencoder=["tiling"] if described.get("tiled") else None,
        generator_license=described.get("license"),
        **options,
    )
    return _checked(found, described)


def _checked(found: Drawer, described: dict[str, Any]) -> Drawer:
    if difference := describe_difference(described, found.describe()):
        raise InputError(f"The generator here is not the one that drew the folder: {difference}; name that one.")
    return found


def _service_of(described: dict[str, Any], generator: str | Path | None) -> ServiceGenerator:
    if generator is None or not is_service(str(generator)):
        raise InputError(
            f"The images were drawn by {described['name']!r} at a service, and no data set says where one is: name it "
            "as when they were drawn, such as generator=https://host/v1."
        )
    found = ServiceGenerator(
        generator=str(generator),
        served_model=described["name"] if is_address(str(generator)) else None,
        send_seeds=described["redrawable"],
        generator_license=described.get("license"),
        **{name: described[name] for name in SENT},
    )
    return _checked(found, described)


def _pinned(lora: Mapping[str, Any]) -> str | None:
    """Name of a plan's LoRA; of a Hub repository (no file or folder is named by its path) at the plan's revision."""
    name = lora.get("name")
    return f"{name}@{lora['revision']}" if name is not None and "/" in name else name


def redraw_image(
    folder: str | Path, caption_id: int, image_index: int, generator: ImageGenerator | PlainGenerator
) -> RedrawnImage:
    """Draw one image of a store again, alone, with what drew it, and compare; nothing in the store is changed.

    Raises:
        InputError: There is no such row, or the generator withholds the frame now.
    """
    plan = open_store(folder).plan
    stored = find_row(folder, caption_id, image_index)
    row = row_of(plan, stored["caption"], caption_id, image_index)
    if not row["redrawable"]:
        raise InputError(
            f"Image {image_index} of caption {caption_id} is not redrawable: {row['generator']!r} was given no seed, "
            "so another call gives another image."
        )
    (image,) = check_images(generator([row["prompt"]], [row["seed"]]), 1)
    if image is None:
        raise InputError(
            f"The generator withholds image {image_index} of caption {caption_id} now, so it is not the same; look at "
            "its safety checker."
        )
    encoded = encode_row(image, plan, row).encoded
    before, after = (
        np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int)
        for content in (stored["image"]["bytes"], encoded)
    )
    difference = int(np.abs(before - after).max()) if before.shape == after.shape else 255
    return RedrawnImage(encoded, encoded == stored["image"]["bytes"], plan.signature is not None, difference)
