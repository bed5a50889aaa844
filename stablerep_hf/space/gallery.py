"""The pictures of the page: data sets with what is known of each picture, and which of them are siblings."""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Image as ImageColumn
from PIL import Image

from .. import assets
from ..errors import InputError
from ..evaluation.columns import check_columns
from ..evaluation.decoding import read_content
from ..evaluation.images import load_images
from .pictures import decode_picture, shown_picture
from .settings import EMBEDDED, NONE, SpaceSettings

REAL, SYNTHETIC = "real", "synthetic"
# Where a picture comes from, as far as its data set says.
PROVENANCE = (
    "prompt",
    "seed",
    "guidance_scale",
    "num_inference_steps",
    "scheduler",
    "generator",
    "generator_revision",
    "artist",
    "style",
    "source",
    "license",
)
_CAPTION_COLUMNS = ("caption", "captions", "text")  # looked for where no other one is named
_FEW_LETTERS, _FEW_TEXTS = 40, 6  # of captions that are examples of queries, and how many


class Collection:
    """One data set of the page.

    Attributes:
        name: "real" or "synthetic".
        dataset: with undecoded images.
        image_column: of it.
        captions: what is written below each picture: its caption, else its label, else the name of its file, else "".
        groups: the group of each row, "" where there is none.
        example_texts: words that pictures may be searched by, [] if the data set has no captions and no labels.
        siblings: what rows of one caption have in common, over all collections.
        rows: (n,) int64, rising: those that can be shown; all, until it is known which do not decode.
    """

    def __init__(self, name: str, dataset: Dataset, settings: SpaceSettings) -> None:
        check_columns(dataset, settings.image_column, [])
        self.name = name
        self.image_column = settings.image_column
        self.dataset = dataset.with_format(None).cast_column(settings.image_column, ImageColumn(decode=False))
        captions = self._texts(self._caption_column(settings.caption_column))
        self.groups = self._texts(self._group_column(settings.group_column))
        ids = self._texts(settings.caption_id_column)
        self.siblings = ids if any(ids) else captions
        self._files = [] if any(captions) else self._file_names()
        names = [Path(name).stem for name in self._files] or [""] * len(dataset)
        self.captions = [
            words or group or name for words, group, name in zip(captions, self.groups, names, strict=True)
        ]
        known = Counter(text for text in (self.groups if any(self.groups) else captions) if text)
        self.example_texts = [text for text, _ in known.most_common() if len(text) <= _FEW_LETTERS][:_FEW_TEXTS]
        self.rows = np.arange(len(dataset))
        self._provenance = [column for column in PROVENANCE if column in dataset.column_names]
        self._tile_image = lru_cache(4096)(self._make_tile_image)

    def __len__(self) -> int:
        return len(self.dataset)

    def shows(self, row: int) -> bool:
        """Whether a row is one of `rows`."""
        place = np.searchsorted(self.rows, row)
        return bool(place < len(self.rows) and self.rows[place] == row)

    def picture(self, row: int) -> Image.Image:
        """A picture, RGB; `InputError` if it cannot be decoded."""
        return decode_picture(self._bytes(row), most_bytes=2**31, most_pixels=2**31, formats=None)

    def describe(self, row: int, score: float | None = None) -> dict[str, Any]:
        """Describe a picture, perhaps with its cosine with the query, to the page and to programs, as JSON values.

        Returns:
            `collection`, `row`, `caption`, `group`, `score`, `image` (a data URL, at most 256 pixels) and
            `provenance` (a dict of what the data set says).
        """
        known = self.dataset.select_columns(self._provenance)[row] if self._provenance else {}
        if self._files:
            known = {"file": self._files[row], **known}
        return {
            "collection": self.name,
            "row": row,
            "caption": self.captions[row],
            "group": self.groups[row],
            "score": None if score is None else round(score, 4),
            "image": self._tile_image(row),
            # as text: a seed has 63 bits, and JavaScript's numbers 53
            "provenance": {name: _text(value) for name, value in known.items() if value not in (None, "")},
        }

    def _caption_column(self, named: str) -> str | None:
        columns = _CAPTION_COLUMNS if named == _CAPTION_COLUMNS[0] else (named,)
        return next((column for column in columns if column in self.dataset.column_names), None)

    def _group_column(self, named: str) -> str | None:
        if named in self.dataset.column_names:
            return named
        labels = [name for name, feature in self.dataset.features.items() if isinstance(feature, ClassLabel)]
        return labels[0] if labels else None

    def _file_names(self) -> list[str]:
        """The name of each picture's file, "" where none is known; without reading the pictures."""
        paths = self.dataset.select_columns([self.image_column]).flatten()[f"{self.image_column}.path"][:]
        # of a file in an archive, zip://FILE::ARCHIVE
        return [Path(str(path or "").partition("::")[0]).name for path in paths]

    def _texts(self, column: str | None) -> list[str]:
        if column is None or column not in self.dataset.column_names:
            return [""] * len(self.dataset)
        values = self.dataset[column][:]
        feature = self.dataset.features[column]
        if isinstance(feature, ClassLabel):
            return ["" if value is None else feature.int2str(value).replace("_", " ") for value in values]
        # of several captions of an image the first
        return [_text(next(iter(value), None) if isinstance(value, list) else value) for value in values]

    def _bytes(self, row: int) -> bytes:
        return read_content(self.dataset[row][self.image_column])

    def _make_tile_image(self, row: int) -> str:
        content, kind = shown_picture(self._bytes(row))
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Place:
    """A picture of the page: its collection's name and its row."""

    collection: str
    row: int


class Collections:
    """All pictures that are searched, real ones first."""

    def __init__(self, parts: list[Collection]) -> None:
        self.parts = {part.name: part for part in parts}
        self._places: dict[str, list[Place]] = {}
        groups: dict[str, str] = {}
        for part in parts:
            for row, (key, group) in enumerate(zip(part.siblings, part.groups, strict=True)):
                if key:
                    self._places.setdefault(key, []).append(Place(part.name, row))
                    groups[key] = groups.get(key) or group
        for part in parts:  # a drawing has the group of its caption, where a real picture tells it
            part.groups = [group or groups.get(key, "") for key, group in zip(part.siblings, part.groups, strict=True)]

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def has_siblings(self) -> bool:
        """Whether any caption has several pictures."""
        return any(len(places) > 1 for places in self._places.values())

    def place(self, collection: Any, row: Any) -> Place:
        """A place that somebody named; `InputError` if there is none."""
        part = self.parts.get(collection) if isinstance(collection, str) else None
        if part is None or isinstance(row, bool) or not isinstance(row, int) or not part.shows(row):
            raise InputError("There is no such picture: choose one that is shown.")
        return Place(part.name, row)

    def describe(self, place: Place, score: float | None = None) -> dict[str, Any]:
        """See `Collection.describe`."""
        return self.parts[place.collection].describe(place.row, score)

    def picture(self, place: Place) -> Image.Image:
        """See `Collection.picture`."""
        return self.parts[place.collection].picture(place.row)

    def caption(self, place: Place) -> str:
        """What is written below the picture; see `Collection`."""
        return self.parts[place.collection].captions[place.row]

    def knows_a_word_of(self, text: str) -> bool:
        """Whether a word of a text stands below a picture."""
        return not self._words.isdisjoint(_words(text))

    @cached_property
    def _words(self) -> frozenset[str]:
        shown = {text for part in self.parts.values() for text in (*part.captions, *part.groups)}
        return frozenset(word for text in shown for word in _words(text))

    def group(self, place: Place) -> str:
        """The group, "" if there is none."""
        return self.parts[place.collection].groups[place.row]

    def siblings(self, place: Place) -> list[Place]:
        """All places of the same caption, itself among them; alone if it has no caption."""
        every = self._places.get(self.parts[place.collection].siblings[place.row], [place])
        return [sibling for sibling in every if self.parts[sibling.collection].shows(sibling.row)]

    def examples(self, number: int) -> list[Place]:
        """Places spread over the first collection."""
        first = next(iter(self.parts.values()))
        numbers = np.linspace(0, len(first.rows) - 1, min(number, len(first.rows)) + 2)[1:-1].astype(int)
        return [Place(first.name, row) for row in first.rows[numbers].tolist()]


def load_collections(settings: SpaceSettings) -> Collections:
    """The real images of the settings, and the synthetic ones if there are any.

    Raises:
        InputError: A data set or split is not within reach, or has no images.
    """
    real, most = _load(settings.dataset, settings.split, assets.pictograms_path()), settings.index_size
    if 0 < most < len(real):
        real = real.select(np.linspace(0, len(real) - 1, most).astype(int))
    parts = [Collection(REAL, real, settings)]
    if settings.synthetic_dataset != NONE:
        drawn = _load(settings.synthetic_dataset, settings.synthetic_split, assets.drawings_path())
        if 0 < most < len(drawn):
            drawn = drawn.select(range(most))  # the beginning, for siblings are adjacent
        parts.append(Collection(SYNTHETIC, drawn, settings))
    for name in ("caption_column", "group_column", "caption_id_column"):
        column, default = getattr(settings, name), getattr(SpaceSettings, name)
        if column != default and not any(column in part.dataset.column_names for part in parts):
            raise InputError(
                f"{name}={column} names a column that the data set does not have; it has "
                f"{', '.join(map(repr, parts[0].dataset.column_names))}: name one of those, or none."
            )
    return Collections(parts)


def load_guidance(settings: SpaceSettings) -> Collection | None:
    """Captions drawn at several guidance scales; None if the settings have none.

    Raises:
        InputError: They are not within reach, have no images, or no `guidance_scale`.
    """
    if settings.guidance_dataset == NONE:
        return None
    dataset = _load(settings.guidance_dataset, settings.guidance_split, assets.drawings_path())
    check_columns(dataset, settings.image_column, [settings.caption_column, "guidance_scale"])
    return Collection("guidance", dataset, settings)


def _load(name: str | None, split: str | None, embedded: Path) -> Dataset:
    dataset: Dataset = load_images(embedded if name == EMBEDDED else str(name), split)
    return dataset


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
