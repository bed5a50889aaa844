"""Which captions of a long-tailed set to draw, and how many images of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import get_args

import numpy as np

from ..errors import InputError
from .caption_set import CaptionSet, Int64Array
from .settings import Allocation
from .terms import TermMatcher

Groups = Sequence[Sequence[str]]  # for each caption its concepts, or its one label


def caption_groups(captions: CaptionSet, concepts: TermMatcher | None = None) -> list[list[str]]:
    """The concepts that each caption names or, without a list of concepts, its label; `InputError` without both."""
    if concepts is not None:
        return [concepts.find(caption) for caption in captions]
    if captions.labels is None:
        raise InputError(
            f"A set of {len(captions)} captions has no labels and no concepts were given, so nothing says what is "
            "rare; give `label_column` or `concepts`."
        )
    return [[label] if label else [] for label in captions.labels]


def balance_captions(
    captions: CaptionSet, groups: Groups, cap: int, *, seed: int = 0, keep_unmatched: bool = False
) -> tuple[CaptionSet, dict[str, int]]:
    """Drop captions of frequent concepts as MetaCLIP does (Xu et al. 2023, arXiv 2309.16671, algorithm 1).

    A concept with more than `cap` captions keeps each of them with probability cap / count; other concepts keep all of
    theirs. A caption stays if any of its concepts keeps it. So a concept itself keeps at most `cap` captions on
    average, and a caption with a rare concept always stays. The random number is a hash of seed, caption and concept,
    so it does not depend on the order of the captions or on the rest of the set (ours).

    Args:
        captions: The set.
        groups: The concepts of each caption, see `caption_groups`.
        cap: Captions per concept, MetaCLIP's t (20,000 there for 400 million).
        seed: Seed of the random numbers.
        keep_unmatched: Whether captions without a concept stay; MetaCLIP drops them.

    Returns:
        The smaller set, and how many captions were dropped for each reason: "over the cap", "no concept".

    Raises:
        InputError: The cap is below 1, or no caption stays.
    """
    if cap < 1:
        raise InputError(f"cap={cap} leaves no caption: give 1 or more.")
    counts = Counter(concept for concepts in groups for concept in concepts)
    keep = np.zeros(len(captions), bool)
    for place, (caption_id, concepts) in enumerate(zip(captions.caption_ids.tolist(), groups, strict=True)):
        keep[place] = any(
            counts[concept] <= cap or _uniform(seed, caption_id, concept) < cap / counts[concept]
            for concept in concepts
        ) or (keep_unmatched and not concepts)
    unmatched = 0 if keep_unmatched else sum(not concepts for concepts in groups)
    dropped = {"no concept": unmatched, "over the cap": int((~keep).sum()) - unmatched}
    if not keep.any():
        raise InputError(
            f"None of {len(captions)} captions names one of the concepts, so none stays; give `concepts` that fit the "
            "captions, or `keep_unmatched`."
        )
    return captions.select(np.flatnonzero(keep)), {reason: number for reason, number in dropped.items() if number}


def allocate_images(
    groups: Groups,
    allocation: Allocation,
    images_per_caption: int,
    *,
    target: int | None = None,
    max_images: int | None = None,
) -> Int64Array:
    """How many images to draw of each caption, int64 (C,), so that rare concepts get more.

    A caption counts towards its rarest concept alone (the first of equally rare ones); captions without a concept form
    one of their own. With n_c captions of concept c and a budget of B = `images_per_caption` x C images in all,
    concept c gets

    - "uniform": the same number as every other, about B / number of concepts;
    - "sqrt": a share of B that goes with the square root of n_c, halfway to uniform;
    - "target": `images_per_caption` for each caption, or `target` in all if that is more.

    Within a concept, the images are shared out evenly. Every caption gets at least one and at most `max_images`, so a
    concept with few captions may get fewer images than its share, and the sum may differ from B by as many.

    Args:
        groups: (C,) the concepts of each caption.
        allocation: The rule.
        images_per_caption: The paper's m, on average (for "target": at least).
        target: Images of each concept, for "target" alone.
        max_images: Most images of one caption; default 16 times `images_per_caption`, because the hundredth image of
            one sentence adds little.

    Raises:
        InputError: The allocation is unknown, a number is below 1, or a target is missing or not asked for.
    """
    if allocation not in get_args(Allocation):
        raise InputError(f"allocation={allocation} is unknown: use one of {', '.join(get_args(Allocation))}.")
    if images_per_caption < 1:
        raise InputError(f"images_per_caption={images_per_caption} draws nothing: give 1 or more.")
    if (allocation == "target") != (target is not None) or (target is not None and target < 1):
        raise InputError(
            f"target={target} does not fit allocation={allocation}: 'target' needs 1 image or more, and the other "
            "allocations take no target."
        )
    most = 16 * images_per_caption if max_images is None else max_images
    if most < 1:
        raise InputError(f"max_images={max_images} draws nothing: give 1 or more.")
    frequency = Counter(concept for concepts in groups for concept in concepts)
    homes = [min(concepts, key=frequency.__getitem__) if concepts else "" for concepts in groups]
    members: dict[str, list[int]] = {}
    for place, home in enumerate(homes):
        members.setdefault(home, []).append(place)
    sizes = np.array([len(places) for places in members.values()], np.float64)
    budget = images_per_caption * len(groups)
    match allocation:
        case "uniform":
            shares = np.full(len(sizes), budget / len(sizes))
        case "sqrt":
            shares = budget * np.sqrt(sizes) / np.sqrt(sizes).sum()
        case "target":
            shares = np.maximum(sizes * images_per_caption, float(target or 0))
    result = np.zeros(len(groups), np.int64)
    for places, share in zip(members.values(), _round_to_sum(shares), strict=True):
        each, more = divmod(int(share), len(places))
        result[places] = each
        result[places[:more]] += 1
    return np.clip(result, 1, most)


def _round_to_sum(shares: np.ndarray) -> np.ndarray:
    """Integers near the shares with the sum of the shares, by largest remainder."""
    floors = np.floor(shares + 1e-9)
    missing = round(shares.sum()) - int(floors.sum())
    floors[np.argsort(floors - shares, kind="stable")[: max(0, missing)]] += 1
    return floors


def _uniform(seed: int, caption_id: int, concept: str) -> float:
    digest = blake2b(f"{seed}/{caption_id}/{concept}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
