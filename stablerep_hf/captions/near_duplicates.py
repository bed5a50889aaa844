"""Captions that say nearly the same, merged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ..errors import InputError
from ..progress import track
from .caption_set import CaptionSet, Int64Array
from .terms import split_words

_NUM_PERMUTATIONS = 128


def shingles(text: str) -> frozenset[str]:
    """The words and pairs of neighbouring words of a text, without case and punctuation."""
    words = split_words(text)
    return frozenset(words) | {f"{one} {other}" for one, other in pairwise(words)}


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity in [0, 1]; 0 of two empty sets, because texts without words are not similar."""
    return len(one & other) / len(one | other) if one or other else 0.0


class NearDuplicateIndex:
    """An index that finds the first of its texts that nearly equals another text.

    MinHash finds candidates (Broder 1997; datasketch's LSH) and their exact Jaccard similarity decides, so equal
    hashes alone merge nothing. A pair right at the threshold may be missed. The index is in memory: about 4 kB and
    0.1 to 0.4 ms for a text of ten words, or 40 GB and an hour of one core for ten million.
    """

    def __init__(self, threshold: float) -> None:
        """Make an empty index.

        Args:
            threshold: Jaccard similarity of the `shingles`, in (0, 1], from which texts count as the same.

        Raises:
            InputError: If the threshold is outside.
        """
        if not 0 < threshold <= 1:
            raise InputError(
                f"near_duplicates={threshold} is not a similarity, which lies between 0 and 1: 0.8 merges captions "
                "that differ in a word or two of ten."
            )
        from datasketch import MinHash, MinHashLSH

        self.threshold = threshold
        # Bands for few misses rather than few candidates, which are checked anyway: of pairs right at a threshold of
        # 0.85 they find 87 %, datasketch's own 46 %. At a threshold of 1 it finds no banding.
        self._index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=_NUM_PERMUTATIONS, weights=(0.1, 0.9))
        self._empty = MinHash(num_perm=_NUM_PERMUTATIONS)
        self._texts: dict[int, str] = {}

    def find(self, text: str) -> int | None:
        """The smallest key of a text that nearly equals this one, or None."""
        return self._find(shingles(text))[0]

    def add(self, key: int, text: str) -> None:
        """Add a text, also if it nearly equals an earlier one; a text without words is never found."""
        own = shingles(text)
        if own:
            self._insert(key, text, self._sketch(own))

    def add_or_find(self, key: int, text: str) -> int | None:
        """Add a text unless it nearly equals an earlier one, whose key is returned then."""
        own = shingles(text)
        found, sketch = self._find(own)
        if found is None and own:
            self._insert(key, text, sketch)
        return found

    def _insert(self, key: int, text: str, sketch: object) -> None:
        self._index.insert(key, sketch)
        self._texts[key] = text

    def _sketch(self, own: frozenset[str]) -> object:
        sketch = self._empty.copy()
        sketch.update_batch([shingle.encode() for shingle in own])
        return sketch

    def _find(self, own: frozenset[str]) -> tuple[int | None, object]:
        sketch = self._sketch(own)
        if not own:
            return None, sketch
        candidates = sorted(self._index.query(sketch))
        same = (key for key in candidates if similarity(own, shingles(self._texts[key])) >= self.threshold)
        return next(same, None), sketch


def merge_near_duplicates(captions: CaptionSet, threshold: float = 0.8) -> tuple[CaptionSet, Int64Array]:
    """Keep the first of captions that are nearly the same, with the counts and numbers of images of all of them.

    Captions are taken in the order of the set, and each is merged into the first kept caption that it is similar
    enough to. There are no chains: a caption is never merged into one that it is not similar to itself.

    Args:
        captions: The set.
        threshold: See `NearDuplicateIndex`.

    Returns:
        The smaller set, and int64 (C,): for each caption the place, in `captions`, of the one that it was merged into.
    """
    index = NearDuplicateIndex(threshold)
    places = np.fromiter(_representatives(captions, index), np.int64, len(captions))
    kept = np.flatnonzero(places == np.arange(len(captions)))
    return captions.select(kept).adding_up(captions, np.searchsorted(kept, places)), places


def _representatives(captions: CaptionSet, index: NearDuplicateIndex) -> Iterator[int]:
    # a line for a set that takes long
    for place, text in enumerate(track(captions, "comparing", unit="caption", shown=len(captions) > 4096)):
        found = index.add_or_find(place, text)
        yield place if found is None else found
