"""Captions from anywhere turned into a clean, balanced, audited set: what `stablerep captions` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import InputError
from ..files.atomic import readable_disk_errors, replacing
from .audit import CaptionAudit, audit_captions, find_overlaps
from .balancing import allocate_images, balance_captions, caption_groups
from .caption_set import CaptionSet
from .cleaning import CleaningRules, clean_captions, text_classifier
from .reading import read_captions
from .settings import CaptionSettings
from .terms import TermMatcher, read_terms, shipped_terms
from .written import missing_of_classes, write_captions

_NEAR_DUPLICATES = 0.8


@dataclass(frozen=True)
class PreparedCaptions:
    """A prepared set, and what became of the captions of its source.

    Attributes:
        captions: The set; its `history` holds the numbers below and the summary of the audit.
        num_read: Captions of the source that are not empty.
        num_empty: Empty captions of the source, which are left out.
        num_equal: Captions that were merged because they are equal to another.
        dropped: Reason -> number of distinct captions that it took, such as "too short" or "near duplicate".
        missing: Class -> how many captions fewer than `per_class` it has; empty where captions are read.
        audit: Terms before and after, and overlaps with evaluation sets.
    """

    captions: CaptionSet
    num_read: int
    num_empty: int
    num_equal: int
    dropped: Mapping[str, int]
    missing: Mapping[str, int]
    audit: CaptionAudit

    def save(self, path: str | Path) -> list[Path]:
        """Write the set to a parquet file that `read_captions` reads back, and the audit beside it.

        Args:
            path: File whose name ends in `.parquet`; its folder is made.

        Returns:
            The files: the set, then `<name>.audit.md`, `.audit.json` and, if there is something to draw, `.audit.png`.

        Raises:
            InputError: The name ends otherwise, or the file cannot be written.
        """
        place = caption_file(path)
        audit = json.dumps(self.audit.to_dict(), indent=1, ensure_ascii=False)
        writers: dict[Path, Callable[[IO[bytes]], object]] = {
            place.with_suffix(".audit.md"): lambda file: file.write(self.audit.to_markdown().encode()),
            place.with_suffix(".audit.json"): lambda file: file.write(f"{audit}\n".encode()),
            place.with_suffix(".audit.png"): self.audit.write_plot,
            place: self.captions.write_parquet,
        }
        if not self.audit.has_counts:
            del writers[place.with_suffix(".audit.png")]
        with readable_disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        for file, write in writers.items():
            with replacing(file) as stream:
                write(stream)
        return [place, *(file for file in writers if file != place)]


def caption_file(path: str | Path) -> Path:
    """The path at which a caption set will be written; `InputError` if its name does not end in `.parquet`."""
    if Path(path).suffix != ".parquet":
        raise InputError(f"output={path} is not named .parquet, which is the format of the file: rename it.")
    return Path(path)


def prepare_captions(
    source: str | Path | None, settings: CaptionSettings | None = None, *, answers: str | Path | None = None
) -> PreparedCaptions:
    """Read or write captions, then clean, balance, allocate and audit them. `PreparedCaptions.save` writes them.

    Args:
        source: What `read_captions` reads; None to write captions of `settings.classes`.
        settings: The settings; `CaptionSettings()` if not given.
        answers: JSONL file that keeps what a language model answered, so that a second run asks only for what is
            missing; None keeps nothing.

    Raises:
        InputError: A source or list cannot be read, settings do not fit together, or no caption is left.
    """
    settings = settings or CaptionSettings()
    if (source is None) != (settings.classes is not None):
        raise InputError(
            f"{0 if source is None else 1} sources were named with classes={settings.classes}: name one source, or "
            "none and `classes`."
        )
    rules = _rules(settings)
    concepts = TermMatcher(read_terms(settings.concepts)) if settings.concepts is not None else None
    evaluation_sets = _read_evaluation_sets(settings.evaluation_sets or ())
    classifier = (
        text_classifier(settings.classifier, settings.classifier_labels or ()) if settings.classifier else None
    )
    before = (
        write_captions(settings, settings.seed, answers)
        if source is None
        else read_captions(source, settings.column, settings.split, settings.label_column)
    )

    after, dropped = clean_captions(before, rules, classifier)
    if settings.drop_overlaps:
        after, number = _without_overlaps(after, evaluation_sets, rules.near_duplicates)
        dropped |= {"in an evaluation set": number} if number else {}
    if len(after) == 0:
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
        raise InputError(f"None of {len(before)} captions stays ({reasons}); loosen the rule that took them.")
    if settings.cap is not None:
        after, thinned = balance_captions(
            after,
            caption_groups(after, concepts),
            settings.cap,
            seed=settings.seed,
            keep_unmatched=settings.keep_unmatched,
        )
        dropped |= thinned
    if settings.allocation is not None:
        after = after.with_num_images(
            allocate_images(
                caption_groups(after, concepts),
                settings.allocation,
                settings.images_per_caption,
                target=settings.target,
                max_images=settings.max_images,
            )
        )
    audit = audit_captions(
        before,
        after,
        concepts=concepts,
        evaluation_sets=evaluation_sets,
        near_duplicates=rules.near_duplicates or 1.0,
    )
    num_read = len(before) + before.num_merged
    after = after.with_history(
        read=num_read,
        empty=before.num_empty,
        equal=before.num_merged,
        dropped=dropped,
        allocation=settings.allocation or before.history.get("allocation"),
        audit=audit.summary(),
    )
    return PreparedCaptions(
        captions=after,
        num_read=num_read,
        num_empty=before.num_empty,
        num_equal=before.num_merged,
        dropped=dropped,
        missing=missing_of_classes(settings, after),
        audit=audit,
    )


def _rules(settings: CaptionSettings) -> CleaningRules:
    match settings.blocked_words:
        case "none":
            blocked = []
        case "shipped":
            blocked = shipped_terms("unsafe")
        case path:
            blocked = read_terms(path)
    near_duplicates = settings.near_duplicates
    if near_duplicates is None and settings.classes is None:
        near_duplicates = _NEAR_DUPLICATES
    return CleaningRules(
        repair=settings.repair,
        min_words=settings.min_words,
        max_words=settings.max_words,
        keep_personal=settings.keep_personal,
        max_unsafe=settings.max_unsafe,
        languages=tuple(settings.languages or ()),
        blocked_words=tuple(blocked),
        near_duplicates=near_duplicates or None,
    )


def _read_evaluation_sets(names: Sequence[str]) -> dict[str, CaptionSet]:
    """Name -> captions. The last part of a path names a set, as the audit may be published, unless two share it."""
    read: dict[str, CaptionSet] = {}
    for name in names:
        source, split = name, "test"
        if ":" in name and not Path(name).exists():
            source, _, split = name.rpartition(":")
        read[name] = read_captions(source, split=split)
    last = {Path(name).name: captions for name, captions in read.items()}
    return last if len(last) == len(read) else read


def _without_overlaps(
    captions: CaptionSet, evaluation_sets: dict[str, CaptionSet], threshold: float | None
) -> tuple[CaptionSet, int]:
    matches = find_overlaps(captions, list(evaluation_sets.values()), threshold or 1.0)
    kept = [place for place, match in enumerate(matches) if match is None]
    return captions.select(kept), len(captions) - len(kept)
