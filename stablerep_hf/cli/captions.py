"""`stablerep captions`: text from anywhere to a clean, balanced, audited caption set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError

if TYPE_CHECKING:
    from ..captions import CaptionAudit, CaptionSet, CleaningRules

SHIPPED = "shipped"


@dataclass
class CaptionsCommand:
    """Flags of `stablerep captions`, beside the source's name."""

    column: str | None = field(
        default=None, metadata={"help": "Column of the captions, where the source has several text columns."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column with a label of each caption, for the allocation."}
    )
    split: str = field(default="train", metadata={"help": "Split to read, where the source is a data set."})

    classes: str | None = field(
        default=None, metadata={"help": "In place of a source: class names, one a line, to write captions of."}
    )
    backgrounds: str | None = field(default=None, metadata={"help": "For {background} in templates, one a line."})
    relations: str | None = field(default=None, metadata={"help": "For {relation} in templates, one a line."})
    templates: str | None = field(
        default=None, metadata={"help": "Sentences with {class} in them, one a line; four simple ones if not given."}
    )
    per_class: int = field(default=16, metadata={"help": "Captions to write of each class."})
    language_model: str | None = field(
        default=None, metadata={"help": "Causal language model (Hub id or folder) that writes in place of templates."}
    )
    language_model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the language model."}
    )
    prompt: str | None = field(
        default=None,
        metadata={"help": "File with what the language model continues; {class} and the like are filled."},
    )

    repair: bool = field(default=True, metadata={"help": "Undo mojibake and HTML entities (ftfy)."})
    min_words: int = field(default=1, metadata={"help": "Drop shorter captions."})
    max_words: int | None = field(default=None, metadata={"help": "Drop longer captions."})
    languages: list[str] | None = field(
        default=None, metadata={"help": "Keep captions in these languages (en, de ...); all if not given."}
    )
    blocked_words: str = field(
        default=SHIPPED,
        metadata={
            "help": "Drop captions with a term of this list, one a line; 'shipped' is a short one, 'none' none."
        },
    )
    keep_personal: bool = field(
        default=False, metadata={"help": "Keep captions with e-mail or web addresses, handles, phone or card numbers."}
    )
    near_duplicates: float = field(
        default=0.8,
        metadata={
            "help": "Merge captions that share so much of their words (4 kB of memory a caption); 0 merges equal ones "
            "only."
        },
    )
    classifier: str | None = field(default=None, metadata={"help": "Text classifier that finds unsafe captions."})
    classifier_labels: list[str] | None = field(
        default=None, metadata={"help": "Labels of the classifier that mean unsafe."}
    )
    max_unsafe: float = field(default=0.5, metadata={"help": "Keep captions up to this score of the classifier."})

    concepts: str | None = field(
        default=None, metadata={"help": "Terms, one a line, to balance by and to count; labels if not given."}
    )
    cap: int | None = field(default=None, metadata={"help": "Captions that a concept may keep (MetaCLIP)."})
    keep_unmatched: bool = field(default=False, metadata={"help": "With --cap: keep captions without a concept."})
    allocation: Literal["uniform", "sqrt", "target"] | None = field(
        default=None, metadata={"help": "Fill rare concepts up with more images a caption."}
    )
    images_per_caption: int = field(default=4, metadata={"help": "With --allocation: the mean (target: the least)."})
    target: int | None = field(default=None, metadata={"help": "With --allocation target: images of each concept."})
    max_images: int | None = field(
        default=None, metadata={"help": "With --allocation: most images of one caption; 16 times the mean."}
    )

    evaluation_sets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Captions or class names of evaluation sets, to look for among the captions: files, or data sets, "
            "whose split is test unless named as in NAME:validation."
        },
    )
    drop_overlaps: bool = field(default=False, metadata={"help": "Drop captions that stand (nearly) in one of them."})
    seed: int = field(default=0, metadata={"help": "Seed of the balancing and of written captions."})
    output: str = field(default="captions.parquet", metadata={"help": "The caption set; its audit stands beside it."})


def main(argv: Sequence[str]) -> None:
    """Parse, run, say what was dropped."""
    from .parsing import leading_names, parse_command

    names, flags = leading_names(argv)
    (command,) = parse_command(
        [CaptionsCommand],
        flags,
        name="captions SOURCE",
        description="Clean, balance and audit the captions of a file, a folder or a Hub id; with --classes, without a "
        "SOURCE, write captions of class names.",
    )
    if len(names) != (command.classes is None):
        raise InputError(
            f"{len(names)} sources were named; name one, as in `stablerep captions my.csv`, or none and --classes."
        )
    captions = run(names[0] if names else None, command)
    history = captions.history
    print(f"read      {history['read']:>12,} captions, {history['equal']:,} of them equal to another")
    for reason, number in history["dropped"].items():
        print(f"dropped   {number:>12,} {reason}")
    print(f"kept      {len(captions):>12,}")
    if captions.num_images is not None:
        print(f"images    {int(captions.num_images.sum()):>12,} by {history['allocation'] or 'the source'}")
    print(f"\n{Path(command.output).with_suffix('.audit.md').read_text('utf-8')}")
    print(f"The captions stand in {command.output}: stablerep generate --captions {command.output} --generator REPO")


def run(source: str | None, command: CaptionsCommand) -> CaptionSet:
    """Read or write captions, clean, balance, allocate, audit.

    Args:
        source: What `read_captions` reads; None to write captions of `command.classes`.
        command: The flags.

    Returns:
        The set, which also stands in `command.output`; `<output>.audit.md`, `.json` and `.png` stand beside it.

    Raises:
        InputError: A source or list cannot be read, flags do not fit together, or nothing stays.
    """
    from ..captions import (
        TermMatcher,
        allocate_images,
        audit_captions,
        balance_captions,
        caption_groups,
        clean_captions,
        read_captions,
        read_terms,
        text_classifier,
    )

    if Path(command.output).suffix != ".parquet":
        raise InputError(f"--output {command.output} is not named .parquet, which is what it will be: rename it.")
    rules = _rules(command)
    concepts = TermMatcher(read_terms(command.concepts)) if command.concepts is not None else None
    if (command.classifier is None) != (not command.classifier_labels):
        raise InputError("--classifier and --classifier-labels go together: the labels say what counts as unsafe.")
    evaluation_sets = _read_evaluation_sets(command.evaluation_sets or ())
    if command.drop_overlaps and not evaluation_sets:
        raise InputError("--drop-overlaps needs --evaluation-sets to overlap with: name one.")
    if source is None:
        before = _write_captions(command)
    else:
        before = read_captions(source, command.column, command.split, command.label_column)
    classifier = text_classifier(command.classifier, command.classifier_labels or ()) if command.classifier else None

    after, dropped = clean_captions(before, rules, classifier)
    if command.drop_overlaps:
        after, dropped["in an evaluation set"] = _without_overlaps(after, evaluation_sets, rules.near_duplicates)
    _check_not_empty(after, before, dropped)
    if command.cap is not None:
        after, thinned = balance_captions(
            after,
            caption_groups(after, concepts),
            command.cap,
            seed=command.seed,
            keep_unmatched=command.keep_unmatched,
        )
        dropped |= thinned
    if command.allocation is not None:
        after = after.with_num_images(
            allocate_images(
                caption_groups(after, concepts),
                command.allocation,
                command.images_per_caption,
                target=command.target,
                max_images=command.max_images,
            )
        )
    audit = audit_captions(
        before,
        after,
        concepts=concepts,
        evaluation_sets=evaluation_sets,
        near_duplicates=rules.near_duplicates or 1.0,
    )
    after = after.with_history(
        read=len(before) + before.num_merged,
        empty=before.num_empty,
        equal=before.num_merged,
        dropped=dropped,
        allocation=command.allocation or before.history.get("allocation"),
        audit=audit.summary(),
    )
    _write(Path(command.output), after, audit)
    return after


def _rules(command: CaptionsCommand) -> CleaningRules:
    from ..captions import CleaningRules, read_terms
    from ..captions.terms import unsafe_words

    match command.blocked_words:
        case "none":
            blocked = []
        case "shipped":
            blocked = unsafe_words()
        case path:
            blocked = read_terms(path)
    return CleaningRules(
        repair=command.repair,
        min_words=command.min_words,
        max_words=command.max_words,
        languages=tuple(command.languages or ()),
        blocked_words=tuple(blocked),
        keep_personal=command.keep_personal,
        near_duplicates=command.near_duplicates or None,
        max_unsafe=command.max_unsafe,
    )


def _write_captions(command: CaptionsCommand) -> CaptionSet:
    from ..captions import CaptionSet, CaptionWriter, fill_templates, read_terms
    from ..captions.templates import DEFAULT_TEMPLATES

    if (command.language_model is None) != (command.prompt is None):
        raise InputError("--language-model and --prompt go together: the prompt is what the model continues.")
    classes = read_terms(str(command.classes))
    lists: dict[str, Any] = {
        "backgrounds": read_terms(command.backgrounds) if command.backgrounds else (),
        "relations": read_terms(command.relations) if command.relations else (),
        "per_class": command.per_class,
        "seed": command.seed,
    }
    if command.language_model is None:
        templates = read_terms(command.templates) if command.templates else DEFAULT_TEMPLATES
        return CaptionSet.from_labelled(fill_templates(classes, templates, **lists))
    try:
        prompt = Path(str(command.prompt)).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompt {command.prompt} cannot be read ({type(error).__name__}): give a text file."
        ) from error
    prompts: dict[str, list[str]] = {}
    for text, name in fill_templates(classes, [prompt], **lists):
        prompts.setdefault(name, []).append(text)
    # Where a prompt has fewer fillings than captions are wanted, the model answers them in turn.
    asked = [(text, name) for name, texts in prompts.items() for text in islice(cycle(texts), command.per_class)]
    writer = CaptionWriter(
        command.language_model,
        Path(command.output).with_suffix(".answers.jsonl"),
        revision=command.language_model_revision,
    )
    answers = writer.write([text for text, _ in asked], 1, seed=command.seed)
    captions = CaptionSet.from_labelled((text, asked[number][1]) for number, text in answers)
    return captions.with_history(language_model=command.language_model, revision=command.language_model_revision)


def _read_evaluation_sets(names: Sequence[str]) -> dict[str, CaptionSet]:
    """Name -> captions. The last part of a path names a set, as the audit may be published, unless two share it."""
    from ..captions import read_captions

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
    from ..captions.near_duplicates import NearDuplicateIndex

    ids = {caption_id for there in evaluation_sets.values() for caption_id in there.caption_ids.tolist()}
    index = NearDuplicateIndex(threshold or 1.0)
    for key, text in enumerate(text for there in evaluation_sets.values() for text in there):
        index.add(key, text)
    kept = [
        place
        for place, (caption_id, text) in enumerate(zip(captions.caption_ids.tolist(), captions, strict=True))
        if caption_id not in ids and index.find(text) is None
    ]
    return captions.select(kept), len(captions) - len(kept)


def _check_not_empty(after: CaptionSet, before: CaptionSet, dropped: dict[str, int]) -> None:
    if len(after) == 0:
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
        raise InputError(f"None of {len(before)} captions stays ({reasons}); loosen the rule that took them.")


def _write(path: Path, captions: CaptionSet, audit: CaptionAudit) -> None:
    from ..files.atomic import explaining, replacing

    with explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path.with_suffix(".audit.md")) as file:
        file.write(audit.to_markdown().encode())
    with replacing(path.with_suffix(".audit.json")) as file:
        file.write((json.dumps(audit.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())
    with replacing(path.with_suffix(".audit.png")) as file:
        audit.write_plot(file)
    with replacing(path) as file:
        captions.write_parquet(file)
