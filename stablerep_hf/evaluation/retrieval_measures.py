"""The protocols of retrieval: from scoring, which holds the features, to findings."""

from __future__ import annotations

import unicodedata

import numpy as np

from ..errors import InputError
from .metrics import MeanScore
from .retrieval import retrieval_recall
from .scoring import Finding, Scoring
from .sibling_retrieval import sibling_retrieval
from .text_retrieval import text_retrieval_recall


def retrieval(scoring: Scoring) -> list[Finding]:
    """The same concept by another artist."""
    columns, test = scoring.columns, scoring.test
    assert columns.group is not None and columns.artist is not None
    concepts = test.columns[columns.group]
    artists = np.asarray([scoring.hands.get(str(artist), str(artist)) for artist in test.columns[columns.artist]])
    found = retrieval_recall(test.features, concepts, artists, scoring.settings.recall_at, device=scoring.device)
    findings = []
    for k in scoring.settings.recall_at:
        finding = Finding(
            protocol="retrieval",
            metric=f"recall@{k}",
            statistic=MeanScore(found.hits[k].astype(np.float64)),
            count=len(found.queries),
            groups=concepts[found.queries],
            rows=found.queries,
            chance=found.chance[k],
            settings={
                "num_left_out": found.num_left_out,
                "hands": len(np.unique(artists)),
                **scoring.settings_of_data(),
            },
        )
        findings.append(finding)
    return findings


def text_retrieval(scoring: Scoring) -> list[Finding]:
    """Images to their captions and captions to their images."""
    columns, test = scoring.columns, scoring.test
    assert columns.caption is not None and scoring.embed_texts is not None and test.embeds is not None
    ids = test.columns[columns.image_id] if columns.image_id is not None else np.arange(len(test))
    images = np.unique(ids, return_inverse=True)[1]
    texts: dict[str, int] = {}  # the same text anywhere is one candidate
    pairs = []
    for image, captions in zip(images, test.columns[columns.caption], strict=True):
        for caption in [captions] if isinstance(captions, str) else (captions if captions is not None else []):
            text = " ".join(unicodedata.normalize("NFC", caption or "").split())
            if text:
                pairs.append((image, texts.setdefault(text, len(texts))))
    if not pairs:
        raise InputError(
            f"The column {columns.caption!r} holds no caption, so there is nothing to find; name another."
        )
    captioned = np.unique([image for image, _ in pairs])  # an image without captions neither asks nor answers
    first = np.unique(images, return_index=True)[1][captioned]
    paired = np.asarray(pairs)
    paired[:, 0] = np.searchsorted(captioned, paired[:, 0])
    embedded = scoring.embed_texts(list(texts))
    both = text_retrieval_recall(
        test.embeds[first], embedded, paired, scoring.settings.text_recall_at, device=scoring.device
    )
    own = {
        "images": len(first),
        "texts": len(texts),
        "images_without_text": int(images.max()) + 1 - len(first),
        **scoring.settings_of_data(),
    }
    groups = scoring.groups(test)
    groups = np.arange(len(first)) if groups is None else groups[first]
    # the captions of an image are right or wrong together: each is drawn with the first image that it belongs to
    of_text = groups[paired[np.unique(paired[:, 1], return_index=True)[1], 0]]
    findings = []
    for direction, found in zip(("image to text", "text to image"), both, strict=True):
        of_images = direction == "image to text"
        for k in scoring.settings.text_recall_at:
            finding = Finding(
                protocol="text_retrieval",
                metric=f"recall@{k}",
                statistic=MeanScore(found.hits[k].astype(np.float64)),
                count=len(found.hits[k]),
                groups=of_text if not of_images else groups if scoring.columns.group is not None else None,
                rows=first if of_images else None,
                chance=found.chance[k],
                settings=own,
                variant=direction,
            )
            findings.append(finding)
    return findings


def siblings(scoring: Scoring) -> list[Finding]:
    """The other images of an image's caption."""
    assert scoring.columns.caption_id is not None
    ids = scoring.test.columns[scoring.columns.caption_id]
    found = sibling_retrieval(scoring.test.features, ids, device=scoring.device)
    finding = Finding(
        protocol="sibling_retrieval",
        metric="mAP",
        statistic=MeanScore(found.average_precision),
        count=len(found.queries),
        groups=ids[found.queries],  # siblings ask the same, so they are drawn together
        rows=found.queries,
        chance=found.chance,
        settings={"num_left_out": len(scoring.test) - len(found.queries), **scoring.settings_of_data()},
    )
    return [finding]
