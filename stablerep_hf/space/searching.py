"""Encoders over the page's pictures, each made ready when it is first asked."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from PIL import Image

from .. import assets
from ..errors import InputError, refusing
from ..evaluation import VisionEncoder, load_encoder, pixel_encoder, untrained_encoder
from ..files.places import default_cache_dir
from ..models import StableRepModel  # noqa: F401  # importing it makes the pre-training model known to transformers
from ..retrieval import IndexFacts, embed_image, index_images, open_image_index
from ..retrieval.image_index import ImageIndex, index_identity
from .gallery import REAL, Collections, Place
from .nonsense import NonsenseTexts
from .settings import UNTRAINED, SpaceSettings

PIXELS = "pixels"
_NAMES = {
    **dict(zip(assets.ENCODERS, ("StableRep+ (ships here)", "StableRep (ships here)"), strict=True)),
    UNTRAINED: "untrained twin (random weights)",
    PIXELS: "8 x 8 pixels (no network)",
}


@dataclass(frozen=True)
class Hit:
    """A picture that was found, and its cosine with the query."""

    place: Place
    score: float


class Searcher:
    """One encoder over all pictures."""

    def __init__(
        self,
        label: str,
        vision: VisionEncoder,
        collections: Collections,
        settings: SpaceSettings,
        index: str | None = None,
    ) -> None:
        """Encode and index the pictures, or open the index where it stands: of the real ones at `index` if given."""
        self.label = label
        self.vision = vision
        self.collections = collections
        self._lock = threading.Lock()  # one forward pass at a time: it uses all cores, and hooks into the model
        self._nonsense_lock = threading.Lock()
        self._nonsense: NonsenseTexts | None = None
        self._indexes = {
            name: self._index(name, settings, index if name == REAL else None) for name in collections.parts
        }

    @property
    def reads_texts(self) -> bool:
        """Whether pictures can be searched by words."""
        return self.vision.tokenizer is not None and all(index.embeds is not None for index in self._indexes.values())

    def by_picture(self, picture: Image.Image, k: int, names: list[str], without: Place | None = None) -> list[Hit]:
        """The k pictures most like one in the encoder's features, of these collections, without the query itself."""
        with self._lock:
            features, _ = embed_image(self.vision, picture)
        return self._nearest(features, k, names, embeds=False, without=without)

    def by_text(self, text: str, k: int, names: list[str]) -> list[Hit]:
        """The k pictures nearest to words in the space that the two towers share; `InputError` if there is none."""
        return self._nearest(self.embed_text(text), k, names, embeds=True)

    def embed_text(self, text: str) -> NDArray[np.float32]:
        """Words, (1, E), not normalised."""
        return self._embed_texts([text])

    def share_of_nonsense(self, text: str) -> float:
        """Share of random strings that match the pictures as well as a text does, from 0 to 1; see `NonsenseTexts`."""
        with self._nonsense_lock:
            if self._nonsense is None:
                indexes = [index.embeds for index in self._indexes.values() if index.embeds is not None]
                self._nonsense = NonsenseTexts(self._embed_texts, indexes)
        return self._nonsense.share_as_good(text)

    def _embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        with self._lock:
            vectors: NDArray[np.float32] = self.vision.embed_texts(texts).numpy()
            return vectors

    def sample(self, places: list[Place]) -> NDArray[np.float32]:
        """The features (n, D), of length 1, of some pictures."""
        vectors = np.empty((len(places), next(iter(self._indexes.values())).features.facts.dimensions), np.float32)
        for name, index in self._indexes.items():
            mine = [number for number, place in enumerate(places) if place.collection == name]
            rows = np.searchsorted(index.rows, [places[number].row for number in mine])
            if mine:
                vectors[mine] = index.features.vectors(rows)
        return vectors

    def places(self) -> list[Place]:
        """All pictures that have vectors."""
        return [Place(name, int(row)) for name, index in self._indexes.items() for row in index.rows]

    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Of each collection those that have vectors."""
        return {name: index.rows for name, index in self._indexes.items()}

    def facts(self) -> dict[str, IndexFacts]:
        """Of each collection's index of features."""
        return {name: index.features.facts for name, index in self._indexes.items()}

    def _nearest(
        self,
        query: NDArray[np.float32],
        k: int,
        names: list[str],
        *,
        embeds: bool,
        without: Place | None = None,
    ) -> list[Hit]:
        hits = []
        for name in names:
            index = self._indexes[name]
            vectors = index.embeds if embeds else index.features
            assert vectors is not None  # embed_texts has refused an encoder without
            cosines, found = vectors.search(query, min(k + 1, len(index)))
            places = [Place(name, row) for row in index.rows[found[0]].tolist()]
            hits += [Hit(place, score) for place, score in zip(places, cosines[0].tolist(), strict=True)]
        hits.sort(key=lambda hit: -hit.score)
        return [hit for hit in hits if hit.place != without][:k]

    def _index(self, name: str, settings: SpaceSettings, made: str | None) -> ImageIndex:
        part = self.collections.parts[name]
        if made is not None:
            return open_image_index(_index_folder(made), self.vision, part.dataset, settings.image_column)
        identity = json.dumps(index_identity(self.vision, part.dataset, settings.image_column))
        kept = (
            default_cache_dir().with_name("indexes") / hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
        )
        return index_images(
            self.vision,
            part.dataset,
            kept,
            image_column=settings.image_column,
            names={"encoder": self.label, "dataset": name},
            cache_dir=default_cache_dir(),
            max_bad_images=len(part) // 100,
        )


class Searchers:
    """The page's encoders: the first one ready, the others at their first query."""

    def __init__(self, collections: Collections, settings: SpaceSettings) -> None:
        """Make the first one ready."""
        self._collections = collections
        self._settings = settings
        self._lock = threading.Lock()
        self._ready: dict[str, Searcher] = {}
        names = list(dict.fromkeys([settings.encoder, *settings.compare]))
        short = [_NAMES.get(name, Path(name).name if Path(name).is_dir() else name) for name in names]
        # two folders of one name are called by their paths
        labels = [name if short.count(label) > 1 else label for name, label in zip(names, short, strict=True)]
        self._names = dict(zip(labels, names, strict=True))
        self.first = self[self.labels[0]]

    @property
    def labels(self) -> list[str]:
        """What people can choose from."""
        return list(self._names)

    def __getitem__(self, label: str) -> Searcher:
        """The searcher of that label; `InputError` if there is none, or it cannot be loaded."""
        if not isinstance(label, str) or label not in self._names:
            raise InputError("There is no such encoder here: choose one of the list.")
        with self._lock:
            if label not in self._ready:
                vision = self._load(self._names[label])
                index = self._settings.index if label == self.labels[0] else None
                self._ready[label] = Searcher(label, vision, self._collections, self._settings, index)
            return self._ready[label]

    def _load(self, name: str) -> VisionEncoder:
        if name == PIXELS:
            return pixel_encoder()
        if name == UNTRAINED:
            return untrained_encoder(self.first.vision)
        first = name == self._settings.encoder
        return load_encoder(
            assets.find_encoder(name),
            revision=self._settings.encoder_revision if first else None,
            trust_remote_code=self._settings.trust_remote_code,
        )


def _index_folder(index: str) -> Path:
    if Path(index).is_dir():
        return Path(index)
    with refusing(  # no such name, no such repository, no connection
        f"index is {index!r}, neither a folder nor a data set repository within reach",
        "check the name, or leave it out and the index is made",
        (OSError, ValueError),
    ):
        return Path(snapshot_download(index, repo_type="dataset"))
