"""Captions repaired, and dropped by rules that say why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from ..errors import InputError, refusing
from ..extras import require
from ..progress import Progress
from .caption_set import CaptionSet, Int64Array
from .identity import normalize_caption
from .near_duplicates import merge_near_duplicates
from .personal import find_personal_data
from .terms import TermMatcher, split_words

_BLOCK = 4096  # captions that a classifier gets at a time
_CERTAIN = 0.5
# Characters of a caption: twice as many as 1,024 tokens have, the most that a text encoder takes. Longer text is a
# document: cleaning drops it, since every rule would take minutes, and drawing refuses it.
MAX_LENGTH = 10_000
TextClassifier = Callable[[Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class CleaningRules:
    """The rules by which captions are repaired and dropped.

    Attributes:
        repair: Repair mojibake, HTML entities, ligatures, control characters and curly quotes first (ftfy).
        min_words: Fewest words, at least 1: a caption without a word names nothing to draw.
        max_words: Most words; None for no limit.
        languages: ISO 639-1 codes of the languages to keep; empty for all. A caption is dropped if the identifier
            gives one other language a probability of at least 0.5. It is rarely that sure of two or three words, so
            such captions stay.
        blocked_words: Words and phrases that no caption may contain, see `TermMatcher`.
        keep_personal: Whether captions with e-mail or web addresses, handles, phone or card numbers stay.
        near_duplicates: Similarity from which captions are merged, see `merge_near_duplicates`; None merges only equal
            ones.
        max_unsafe: Highest score of the classifier that a caption may have, in [0, 1].
    """

    repair: bool = True
    min_words: int = 1
    max_words: int | None = None
    languages: tuple[str, ...] = ()
    blocked_words: tuple[str, ...] = ()
    keep_personal: bool = False
    near_duplicates: float | None = None
    max_unsafe: float = 0.5

    def __post_init__(self) -> None:
        if self.min_words < 1 or (self.max_words is not None and self.max_words < self.min_words):
            raise InputError(
                f"min_words={self.min_words} and max_words={self.max_words} leave no caption: `min_words` is at least "
                "1, and `max_words` at least `min_words`."
            )
        if not 0 <= self.max_unsafe <= 1:
            raise InputError(f"max_unsafe={self.max_unsafe} is not a score: give a number from 0 to 1.")
        if unknown := set(self.languages) - set(self._identifier.labels if self.languages else ()):
            raise InputError(
                f"The language {min(unknown)!r} is not supported: give ISO 639-1 codes such as en, de, ja."
            )

    @cached_property
    def _identifier(self) -> Any:
        require("Telling `languages` apart", "captions", "py3langid")
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    @cached_property
    def _blocked(self) -> TermMatcher | None:
        return TermMatcher(self.blocked_words) if self.blocked_words else None

    def reason_to_drop(self, caption: str) -> str | None:
        """The first rule that a repaired caption breaks, such as "too long" or "personal: e-mail"; None if it stays.

        Captions of more than 10,000 characters are always too long.
        """
        if len(caption) > MAX_LENGTH:
            return "too long"
        number = len(split_words(caption))
        if number < self.min_words:
            return "too short"
        if self.max_words is not None and number > self.max_words:
            return "too long"
        if not self.keep_personal and (kind := find_personal_data(caption)):
            return f"personal: {kind}"
        if self._blocked is not None and self._blocked.find(caption):
            return "blocked word"
        if self.languages:
            language, certainty = self._identifier.classify(caption)
            if language not in self.languages and certainty >= _CERTAIN:
                return f"language: {language}"
        return None


def clean_captions(
    captions: CaptionSet, rules: CleaningRules, classifier: TextClassifier | None = None
) -> tuple[CaptionSet, dict[str, int]]:
    """Repair captions, drop those that break a rule, and merge those that are (nearly) equal afterwards.

    Args:
        captions: The set; its labels and numbers of images are kept.
        rules: The rules.
        classifier: Texts -> how unsafe each is, in [0, 1]; see `text_classifier`.

    Returns:
        The clean set, with the counts and numbers of images of merged captions added up, and how many distinct
        captions were dropped for each reason: "too short", "language: de", "unsafe (classifier)", "same after repair",
        "near duplicate" ...

    Raises:
        InputError: The near-duplicate threshold is not in (0, 1].
    """
    from ftfy import fix_text

    dropped: Counter[str] = Counter()
    texts: list[str] = []
    places: list[int] = []
    # a line for a set that takes long
    progress = Progress("cleaning", len(captions), unit="caption", shown=len(captions) > _BLOCK)
    for start, block in _blocks(captions):
        kept = []
        for place, caption in enumerate(block, start=start):
            repaired = caption
            if rules.repair and len(caption) <= MAX_LENGTH:
                repaired = fix_text(caption, normalization="NFC")
            reason = rules.reason_to_drop(repaired)
            if reason is None:
                kept.append((place, repaired))
            else:
                dropped[reason] += 1
        if classifier is not None and kept:
            scores = classifier([caption for _, caption in kept])
            unsafe = [score > rules.max_unsafe for score in scores]
            dropped["unsafe (classifier)"] += sum(unsafe)
            kept = [entry for entry, bad in zip(kept, unsafe, strict=True) if not bad]
        places += [place for place, _ in kept]
        texts += [caption for _, caption in kept]
        progress.advance(len(block))
    progress.close()
    cleaned = _rebuild(captions, texts, np.asarray(places, np.int64))
    dropped["same after repair"] += len(texts) - len(cleaned)
    if rules.near_duplicates is not None:
        before = len(cleaned)
        cleaned, _ = merge_near_duplicates(cleaned, rules.near_duplicates)
        dropped["near duplicate"] += before - len(cleaned)
    return cleaned, {reason: number for reason, number in sorted(dropped.items()) if number}


def _blocks(captions: CaptionSet) -> Iterator[tuple[int, list[str]]]:
    iterator, start = iter(captions), 0
    while block := list(islice(iterator, _BLOCK)):
        yield start, block
        start += len(block)


def _rebuild(captions: CaptionSet, texts: list[str], places: Int64Array) -> CaptionSet:
    """The set of repaired texts that came from these places, with counts and numbers of images added up."""
    labels = captions.labels
    if labels is None:
        result = CaptionSet.from_texts(texts)
    else:
        result = CaptionSet.from_labelled(
            (text, labels[place]) for text, place in zip(texts, places.tolist(), strict=True)
        )
    rows = np.full(len(captions), -1, np.int64)
    if len(result) == len(texts):
        rows[places] = np.arange(len(texts))
    else:
        row = {caption: number for number, caption in enumerate(result)}
        rows[places] = [row[normalize_caption(text)] for text in texts]
    return result.adding_up(captions, rows).with_history(**captions.history)


def text_classifier(model: str, labels: Sequence[str], *, revision: str | None = None) -> TextClassifier:
    """Load a text-classification model of transformers as a score of unsafe text, on the accelerator if there is one.

    Args:
        model: Folder or Hub id.
        labels: The labels of the model that count as unsafe; their probabilities are added.
        revision: Branch, tag or commit of a Hub id.

    Returns:
        A function from texts to scores in [0, 1].

    Raises:
        InputError: The model cannot be loaded, or lacks a label.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with refusing(
        f"The text classifier {model!r} cannot be loaded",
        "give a folder or a Hub id of a sequence classification model",
    ):
        network = AutoModelForSequenceClassification.from_pretrained(
            model, revision=revision, trust_remote_code=False, use_safetensors=True
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    network.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    known = network.config.label2id
    if missing := [label for label in labels if label not in known]:
        raise InputError(f"The text classifier {model!r} has no label {missing[0]!r}; its labels are {sorted(known)}.")
    columns = [known[label] for label in labels]
    several = network.config.problem_type == "multi_label_classification"

    def scores(texts: Sequence[str]) -> list[float]:
        result: list[float] = []
        for start in range(0, len(texts), 64):
            batch = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                logits = network(**batch.to(network.device)).logits.float()
            chosen = (logits.sigmoid() if several else logits.softmax(-1))[:, columns]
            result += (chosen.amax(-1) if several else chosen.sum(-1)).clamp(0, 1).tolist()
        return result

    return scores
