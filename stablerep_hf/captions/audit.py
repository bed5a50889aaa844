"""Which terms captions name before and after cleaning, and which captions are in evaluation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import IO, Any, Literal

from .caption_set import CaptionSet
from .near_duplicates import NearDuplicateIndex
from .terms import TermMatcher, demographic_terms, split_words

WORD_LIST_NOTE = (
    "Demographic rows count words of a short English list in the captions. They say what the text names, not who is "
    "in a picture, and miss what the list has no word for."
)
_ROWS_SHOWN = 40


@dataclass(frozen=True)
class Overlap:
    """What captions share with one evaluation set.

    Attributes:
        name: The evaluation set.
        equal: Captions of ours that are there word for word.
        near: Captions of ours that nearly equal one there (equal ones not among them).
        naming: Captions of ours that name an entry of at most three words, such as a class, as (entry, how many).
    """

    name: str
    equal: tuple[str, ...]
    near: tuple[str, ...]
    naming: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class CaptionAudit:
    """Term frequencies before and after, and overlaps with evaluation sets.

    Attributes:
        num_captions: Captions before and after.
        concepts: Concept -> (captions that name it before, after); empty without a list of concepts.
        demographics: Group of the word list -> (captions that name it before, after).
        overlaps: One for each evaluation set.
    """

    num_captions: tuple[int, int]
    concepts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    demographics: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    overlaps: Sequence[Overlap] = ()

    @property
    def has_counts(self) -> bool:
        """Whether a caption names a concept or a group, so that there is something to plot."""
        return bool(_named(self.concepts) or _named(self.demographics))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """What fits on a card, as JSON values: numbers in place of captions, without terms that no caption names.

        Of concepts the forty most frequent.
        """
        return {
            "num_captions": list(self.num_captions),
            "concepts": {name: list(pair) for name, pair in _most_frequent(self.concepts)},
            "demographics": {name: list(pair) for name, pair in _named(self.demographics).items()},
            "overlaps": [
                {
                    "name": overlap.name,
                    "equal": len(overlap.equal),
                    "near": len(overlap.near),
                    "classes_named": len(overlap.naming),
                }
                for overlap in self.overlaps
            ],
        }

    def to_markdown(self) -> str:
        """Tables of term frequencies (of concepts the most frequent forty) and of overlaps; no rows of zeros."""
        before, after = self.num_captions
        lines = [f"{before:,} captions before, {after:,} after.", ""]
        concepts, groups = _most_frequent(self.concepts), list(_named(self.demographics).items())
        for title, rows in (("concept", concepts), ("demographic term group", groups)):
            if rows:
                lines += [f"| {title} | before | after |", "| :--- | ---: | ---: |"]
                lines += [f"| {name} | {old:,} | {new:,} |" for name, (old, new) in rows] + [""]
        if rarer := len(_named(self.concepts)) - len(concepts):
            lines += [f"{rarer:,} rarer concepts are not shown.", ""]
        if unnamed := len(self.concepts) - len(_named(self.concepts)):
            lines += [f"No caption names {unnamed:,} of {len(self.concepts):,} concepts.", ""]
        if groups:
            lines += [WORD_LIST_NOTE, ""]
        for overlap in self.overlaps:
            numbers = len(overlap.equal), len(overlap.near), sum(number for _, number in overlap.naming)
            if not any(numbers):
                lines += [f"**Overlap with {overlap.name}**: none.", ""]
                continue
            lines += [
                f"**Overlap with {overlap.name}**: {numbers[0]:,} captions are in it word for word, {numbers[1]:,} "
                f"nearly, {numbers[2]:,} name one of {len(overlap.naming):,} of its classes.",
                "",
            ]
            examples = [*overlap.equal[:3], *overlap.near[:3], *(name for name, _ in overlap.naming[:3])]
            lines += [f"Examples: {'; '.join(examples)}.", ""]
        return "\n".join(lines)

    def write_plot(self, file: IO[bytes]) -> None:
        """Draw the frequencies before and after as a PNG: concepts by rank (log-log), demographic groups as bars."""
        from matplotlib.figure import Figure

        panels = [
            name for name, counts in (("concepts", self.concepts), ("words", self.demographics)) if _named(counts)
        ]
        figure = Figure(figsize=(6.4 * max(1, len(panels)), 4.2), layout="constrained")
        axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
        for panel, ax in zip(panels, axes, strict=False):
            if panel == "concepts":
                for side, label in enumerate(("before", "after")):
                    ranked = sorted((pair[side] for pair in self.concepts.values() if pair[side]), reverse=True)
                    ax.plot(range(1, len(ranked) + 1), ranked, label=label)
                ax.set(xscale="log", yscale="log", xlabel="rank of the concept", ylabel="captions that name it")
            else:
                names = list(_named(self.demographics))
                for side, (label, shift) in enumerate((("before", -0.2), ("after", 0.2))):
                    shares = [self.demographics[name][side] / max(1, self.num_captions[side]) for name in names]
                    ax.barh([place + shift for place in range(len(names))], shares, height=0.4, label=label)
                ax.set(yticks=range(len(names)), yticklabels=names, xlabel="share of captions (word list)")
                ax.invert_yaxis()
            ax.legend(frameon=False)
        figure.savefig(file, format="png", dpi=120)


def audit_captions(
    before: CaptionSet,
    after: CaptionSet,
    *,
    concepts: TermMatcher | None = None,
    evaluation_sets: Mapping[str, CaptionSet] | None = None,
    near_duplicates: float = 0.8,
) -> CaptionAudit:
    """Count terms before and after, and look for what evaluation sets hold.

    Args:
        before: The captions as they were read.
        after: The captions as they will be drawn; overlaps are sought among these.
        concepts: Terms to count.
        evaluation_sets: Name -> its captions or class names.
        near_duplicates: Similarity from which a caption counts as the same, see `NearDuplicateIndex`.
    """
    return CaptionAudit(
        (len(before), len(after)),
        _both(concepts.count(before), concepts.count(after)) if concepts is not None else {},
        _both(_count_groups(before), _count_groups(after)),
        tuple(_overlap(name, there, after, near_duplicates) for name, there in (evaluation_sets or {}).items()),
    )


def _overlap(name: str, there: CaptionSet, captions: CaptionSet, threshold: float) -> Overlap:
    found: dict[str | None, list[str]] = {"equal": [], "near": [], None: []}
    for text, match in zip(captions, find_overlaps(captions, [there], threshold), strict=True):
        found[match].append(text)
    classes = [text for text in there if 0 < len(split_words(text)) <= 3]
    naming = TermMatcher(classes).count(captions) if classes else {}
    ranked = sorted(((entry, number) for entry, number in naming.items() if number), key=lambda pair: -pair[1])
    return Overlap(name, tuple(found["equal"]), tuple(found["near"]), tuple(ranked))


def find_overlaps(
    captions: CaptionSet, sets: Sequence[CaptionSet], threshold: float
) -> Iterator[Literal["equal", "near"] | None]:
    """Whether each caption is (nearly) equal to one of other sets."""
    ids = {caption_id for there in sets for caption_id in there.caption_ids.tolist()}
    index = NearDuplicateIndex(threshold)
    for key, text in enumerate(chain.from_iterable(sets)):
        index.add(key, text)
    for caption_id, text in zip(captions.caption_ids.tolist(), captions, strict=True):
        yield "equal" if caption_id in ids else "near" if index.find(text) is not None else None


def _count_groups(captions: CaptionSet) -> dict[str, int]:
    """How many captions name each demographic group; all groups are looked for in one pass."""
    groups = demographic_terms()
    matcher = TermMatcher(term for terms in groups.values() for term in terms)
    homes = {term: [name for name, terms in groups.items() if term in terms] for term in matcher.terms}
    counts = Counter(
        name for caption in captions for name in {name for term in matcher.find(caption) for name in homes[term]}
    )
    return {name: counts[name] for name in groups}


def _both(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (number, after[name]) for name, number in before.items()}


def _named(counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The terms that a caption names, before or after."""
    return {name: pair for name, pair in counts.items() if any(pair)}


def _most_frequent(counts: Mapping[str, tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    return sorted(_named(counts).items(), key=lambda entry: -entry[1][0])[:_ROWS_SHOWN]
