"""Whether a text matches any picture: measured against strings of random letters, which mean nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..retrieval import VectorIndex

_STRINGS, _AT_ONCE = 200, 50
_NEAREST = 12  # pictures that tell how well a text matches
_SAMPLE = 2000  # pictures of an index that tell where the mean one lies


class NonsenseTexts:
    """200 strings of random letters, and how well each matches its nearest pictures.

    The cosine alone does not tell: with the encoder that ships, some pictures are near to every text. So a text is
    taken as its difference from the mean of these strings, a picture as its difference from the mean picture, and a
    text matches by the mean projection of the one on the others, over the pictures that are nearest to it.
    """

    def __init__(self, embed: Callable[[list[str]], NDArray[np.float32]], indexes: Sequence[VectorIndex]) -> None:
        """Search indexes of pictures with the strings; `embed` takes texts into their space, (n, E) of any scale."""
        self._embed = embed
        self._indexes = indexes
        samples = [
            index.vectors(np.linspace(0, len(index) - 1, min(_SAMPLE, len(index))).astype(int)) for index in indexes
        ]
        self._mean_picture = np.concatenate(samples).mean(0)
        texts = _strings()
        vectors = np.concatenate([embed(texts[at : at + _AT_ONCE]) for at in range(0, _STRINGS, _AT_ONCE)])
        self._mean_text = _unit(vectors).mean(0)
        self._matches_of_strings = self._matches(vectors)

    def share_as_good(self, text: str) -> float:
        """Share of the strings that match the pictures as well as a text does, from 0 to 1."""
        return float(np.mean(self._matches_of_strings >= self._matches(self._embed([text]))))

    def _matches(self, texts: NDArray[np.float32]) -> NDArray[np.float32]:
        """How well texts (Q, E) match their nearest pictures, (Q,)."""
        differences = _unit(texts) - self._mean_text
        cosines, projections = [], []
        for index in self._indexes:
            near, found = index.search(texts, min(_NEAREST, len(index)))
            pictures = index.vectors(found.ravel()).reshape(*found.shape, -1) - self._mean_picture
            cosines.append(near)
            projections.append(np.einsum("qe,qke->qk", differences, _unit(pictures)))
        nearest = np.argsort(-np.concatenate(cosines, 1), axis=1)[:, :_NEAREST]
        matches: NDArray[np.float32] = np.take_along_axis(np.concatenate(projections, 1), nearest, 1).mean(1)
        return matches


def _strings() -> list[str]:
    """One to three words each: half of random letters, half of random syllables, which can be pronounced."""
    choose = random.Random(0)

    def letters() -> str:
        return "".join(choose.choices("abcdefghijklmnopqrstuvwxyz", k=choose.randint(3, 8)))

    def syllables() -> str:
        return "".join(
            choose.choice("bcdfghjklmnprstvwz") + choose.choice("aeiou") for _ in range(choose.randint(2, 4))
        )

    return [
        " ".join((letters if number % 2 else syllables)() for _ in range(choose.randint(1, 3)))
        for number in range(_STRINGS)
    ]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
