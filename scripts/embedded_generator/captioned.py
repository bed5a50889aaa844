"""Any captioned pictures that `datasets.load_dataset` reads, as tensors, and the prompts they are learned under."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.decoding import decode_image
from stablerep_hf.evaluation.images import load_images
from stablerep_hf.synthesis.frames import perceptual_hash

from .world import Source, World

ALIKE = 6  # bits of 64 by which the hashes of two versions of one photo may differ


class CaptionedPictures:
    """Pictures of one size with their texts, drawn evenly over classes within a source.

    Attributes:
        pixels: uint8 (N, 3, image_size, image_size).
        texts: For each picture the texts of which one is drawn: its captions, or the names of its class.
        wordings: For each picture the templates of which one is drawn.
        weights: How often each picture is drawn, relative to the others.
        labels: For each picture the name of its class, where it has one.
        dropped: Training pictures left out because they look like one of a held-out set.
    """

    def __init__(self, world: World, data: Path) -> None:
        self.image_size = world.image_size
        taboo = _Lookalikes(
            [perceptual_hash(i) for source in world.held_out for i in _images(_load(source, data), source.data)]
        )
        pixels: list[np.ndarray] = []
        self.texts: list[tuple[str, ...]] = []
        self.wordings: list[tuple[str, ...]] = []
        self.weights: list[float] = []
        self.labels: list[str | None] = []
        self.dropped: dict[str, int] = {}
        for source in world.sources:
            rows = _load(source, data)
            texts, labels = texts_of(rows, source.data)
            kept = []
            for i, image in enumerate(_images(rows, source.data)):
                if perceptual_hash(image) not in taboo:
                    kept.append(i)
                    pixels.append(_shrunk(image, world.image_size))
            self.dropped[source.data] = len(rows) - len(kept)
            self.texts += [texts[i] for i in kept]
            self.wordings += [source.wordings] * len(kept)
            names = [labels[i] if labels else None for i in kept]
            self.labels += names
            counts = Counter(names)
            self.weights += [source.share / (len(counts) * counts[name]) for name in names]
        if not pixels:
            raise InputError("Every training picture looks like one of `held_out`: learn from another set.")
        self.pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    def __len__(self) -> int:
        return len(self.pixels)

    def plain(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 -> float in [-1, 1], of the size that is drawn."""
        return pixels.float() / 127.5 - 1

    def moved(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """A second version of each picture for the denoiser: mirrored."""
        return self.plain(pixels).flip(3)

    def augmented(self, pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Versions for the autoencoder: each mirrored or not."""
        flip = torch.tensor([rng.random() < 0.5 for _ in range(len(pixels))])
        x = self.plain(pixels)
        return torch.where(flip[:, None, None, None], x.flip(3), x)

    def prompt(self, index: int, rng: random.Random) -> str:
        """A training prompt for one picture."""
        return rng.choice(self.wordings[index]).format(caption=rng.choice(self.texts[index]))

    def corpus(self) -> list[str]:
        """What the tokenizer is learned on: every text in every wording, once."""
        pairs = {(text, w) for texts, ws in zip(self.texts, self.wordings, strict=True) for text in texts for w in ws}
        return sorted(wording.format(caption=text) for text, wording in pairs)


@dataclass(frozen=True)
class HeldOut:
    """Pictures that nothing was trained on.

    Attributes:
        pictures: float (N, 3, image_size, image_size) in [-1, 1].
        prompts: One for each.
        labels: The name of the class of each, where the set has classes.
    """

    pictures: torch.Tensor
    prompts: list[str]
    labels: list[str] | None

    def evenly(self, count: int) -> list[int]:
        """Indices of at most `count` pictures, evenly over the set, which may be sorted by class."""
        total = len(self.prompts)
        return [i * total // count for i in range(count)] if count < total else list(range(total))

    def spread(self, count: int) -> HeldOut:
        """At most `count` of the pictures, evenly over the set."""
        chosen = self.evenly(count)
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        return HeldOut(self.pictures[chosen], [self.prompts[i] for i in chosen], labels)


def load_held_out(world: World, data: Path) -> HeldOut | None:
    """The first held-out set of a world, which judgements compare with; None where there is none."""
    if not world.held_out:
        return None
    source = world.held_out[0]
    rows = _load(source, data)
    texts, labels = texts_of(rows, source.data)
    rng = random.Random(world.seed)
    prompts = [rng.choice(source.wordings).format(caption=texts[i][0]) for i in range(len(rows))]
    pixels = torch.from_numpy(np.stack([_shrunk(image, world.image_size) for image in _images(rows, source.data)]))
    return HeldOut(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, prompts, labels)


class _Lookalikes:
    """Hashes within `ALIKE` bits of one that was given."""

    def __init__(self, hashes: Sequence[int]) -> None:
        self.hashes = np.array(hashes, np.int64).view(np.uint64)

    def __contains__(self, own: int) -> bool:
        if not len(self.hashes):
            return False
        mine = np.array(own, np.int64).view(np.uint64)
        return bool((np.bitwise_count(self.hashes ^ mine) <= ALIKE).any())


def _load(source: Source, data: Path) -> datasets.Dataset:
    folder = data / source.data
    rows = load_images(folder if folder.is_dir() else source.data, source.split, source.subset)
    if "image" not in rows.column_names or not len(rows):
        raise InputError(
            f"{source.data!r} has {len(rows)} rows with the columns {', '.join(rows.column_names)}: "
            "a generator learns from a column `image`."
        )
    return rows


def _images(rows: datasets.Dataset, name: str) -> Iterator[Image.Image]:
    """Decode the pictures one after the other: RGB."""
    for i, stored in enumerate(rows.cast_column("image", datasets.Image(decode=False))["image"]):
        try:
            yield decode_image(stored)
        except Exception as error:  # Pillow raises many kinds
            raise InputError(f"Row {i} of {name!r} holds no image ({error!s:.80}): drop it.") from error


def texts_of(rows: datasets.Dataset, name: str) -> tuple[list[tuple[str, ...]], list[str] | None]:
    """The texts of each row, and the name of its class where rows have one.

    `captions` (several a row) go before `caption`, that before `label`, whose name may list synonyms with commas.

    Raises:
        InputError: There is no such column, a row has no text, or the labels have no names.
    """
    if "captions" in rows.column_names or "caption" in rows.column_names:
        column = "captions" if "captions" in rows.column_names else "caption"
        values = [[v] if isinstance(v, str) or v is None else v for v in rows[column]]
        texts = [tuple(t for t in (clean(c) for c in row if c) if t) for row in values]
        labels = None
    elif "label" in rows.column_names:
        feature = rows.features["label"]
        if not isinstance(feature, datasets.ClassLabel):
            raise InputError(f"The labels of {name!r} have no names: give them as a `ClassLabel`, or a `caption`.")
        labels = [feature.names[i] for i in rows["label"]]
        texts = [tuple(clean(part) for part in label.split(",") if clean(part)) for label in labels]
        column = "label"
    else:
        raise InputError(
            f"{name!r} has the columns {', '.join(rows.column_names)}: "
            "a generator needs `caption`, `captions` or `label`."
        )
    empty = [i for i, row in enumerate(texts) if not row]
    if empty:
        raise InputError(f"{len(empty)} rows of {name!r} have no text in `{column}`, row {empty[0]} first: drop them.")
    return texts, labels


def clean(text: str) -> str:
    """One line without the space before punctuation that old caption sets have, nor a full stop at the end."""
    return " ".join(text.split()).replace(" ,", ",").rstrip(" .")


def _shrunk(image: Image.Image, size: int) -> np.ndarray:
    """The middle square of an RGB picture, uint8 (size, size, 3), each pixel the mean of what it covers."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    resample = Image.Resampling.BOX if side >= size else Image.Resampling.BICUBIC
    return np.asarray(square if side == size else square.resize((size, size), resample))
