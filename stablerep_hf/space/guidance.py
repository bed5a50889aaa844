"""What the guidance scale does: the same captions and seeds, and how well and how variously they came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation import extract_features
from ..evaluation.vendi import vendi_score
from .gallery import Collection
from .searching import Searcher


@dataclass(frozen=True)
class GuidanceRow:
    """One caption at one guidance scale.

    Attributes:
        scale: The guidance scale.
        alignment: Mean cosine of the images with their caption in the encoder's shared space; None if it has none.
        diversity: Vendi score of the images, 1 to their number.
        images: Descriptions of them.
    """

    scale: float
    alignment: float | None
    diversity: float
    images: list[dict[str, Any]]


class Guidance:
    """Captions drawn at several guidance scales, measured by the page's encoder."""

    def __init__(self, drawn: Collection, searcher: Searcher) -> None:
        """Encode all of them; a few hundred."""
        found = extract_features(searcher.vision, drawn.dataset, image_column=drawn.image_column, progress=False)
        scales = np.asarray(drawn.dataset["guidance_scale"][:], dtype=np.float64)
        texts = {}
        if searcher.reads_texts:
            texts = {caption: _unit(searcher.embed_text(caption))[0] for caption in dict.fromkeys(drawn.captions)}
        self._rows: dict[str, list[GuidanceRow]] = {}
        captions = np.asarray(drawn.captions)
        for caption in dict.fromkeys(drawn.captions):
            self._rows[caption] = []
            for scale in sorted(set(scales[captions == caption])):
                rows = np.flatnonzero((captions == caption) & (scales == scale)).tolist()
                cosines = _unit(found.embeds[rows]) @ texts[caption] if found.embeds is not None and texts else []
                self._rows[caption].append(
                    GuidanceRow(
                        float(scale),
                        float(np.mean(cosines)) if len(cosines) else None,
                        vendi_score(found.features[rows]),
                        [drawn.describe(row) for row in rows],
                    )
                )

    @property
    def captions(self) -> list[str]:
        """Those that were drawn."""
        return list(self._rows)

    def rows(self, caption: str) -> list[GuidanceRow]:
        """One caption, a row a scale, rising."""
        return self._rows[caption]

    def means(self) -> list[tuple[float, float | None, float]]:
        """Scale, alignment and diversity, averaged over the captions that were drawn at that scale."""
        every = [row for rows in self._rows.values() for row in rows]
        result = []
        for scale in sorted({row.scale for row in every}):
            rows = [row for row in every if row.scale == scale]
            aligned = [row.alignment for row in rows if row.alignment is not None]
            result.append((
                scale, float(np.mean(aligned)) if aligned else None, float(np.mean([row.diversity for row in rows])),
            ))  # fmt: skip
        return result


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
