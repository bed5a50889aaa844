"""Captions of class names, written by templates or by a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from ..errors import InputError
from .caption_set import CaptionSet
from .identity import normalize_caption
from .language_model import CaptionWriter
from .settings import WritingSettings
from .templates import DEFAULT_TEMPLATES, fill_templates
from .terms import read_terms, shipped_terms

_PER_CLASS = 16
_ANSWERS_PER_CAPTION = 4  # A language model repeats itself; after so many answers a class stays short.


def write_captions(settings: WritingSettings, seed: int = 0, answers: str | Path | None = None) -> CaptionSet:
    """Write captions of class names.

    Args:
        settings: Class names, templates or a language model.
        seed: Of the order of fillings, and of the language model's answers.
        answers: JSONL file that keeps what a language model answered; None keeps nothing.

    Returns:
        Labelled captions: `per_class` of each class. A language model that repeats itself may give fewer.

    Raises:
        InputError: A list cannot be read, or templates give fewer captions of a class than were asked for.
    """
    classes = list(dict.fromkeys(read_terms(str(settings.classes))))
    lists = {
        name: read_terms(path) if (path := getattr(settings, name)) else shipped_terms(name)
        for name in ("backgrounds", "relations")
    }
    wanted = settings.per_class or _PER_CLASS
    if settings.language_model is not None:
        template = _read_prompt(str(settings.prompt))
        prompts: dict[str, list[str]] = {}
        for text, name in fill_templates(classes, [template], **lists, per_class=wanted, seed=seed):
            prompts.setdefault(name, []).append(text)
        writer = CaptionWriter(settings.language_model, answers, revision=settings.language_model_revision)
        captions = CaptionSet.from_labelled(
            (text, name) for name, texts in prompts.items() for text in _answers(writer, texts, wanted, seed)
        )
        return captions.with_history(language_model=settings.language_model, revision=settings.language_model_revision)
    templates = read_terms(settings.templates) if settings.templates else DEFAULT_TEMPLATES
    captions = CaptionSet.from_labelled(fill_templates(classes, templates, **lists, per_class=wanted, seed=seed))
    if settings.per_class is not None and (missing := missing_of_classes(settings, captions)):
        name, number = next(iter(missing.items()))
        raise InputError(
            f"per_class={wanted} asks for more captions of the class {name!r} than the {wanted - number} that "
            f"{len(templates)} templates give: give more templates, `backgrounds` or `relations`, or a smaller number."
        )
    return captions


def missing_of_classes(settings: WritingSettings, captions: CaptionSet) -> dict[str, int]:
    """For each class that has fewer captions in a set than `per_class` asks for, how many are missing."""
    if settings.classes is None or settings.per_class is None:
        return {}
    counts = Counter(captions.labels)
    missing = {name: settings.per_class - counts[name] for name in dict.fromkeys(read_terms(settings.classes))}
    return {name: number for name, number in missing.items() if number > 0}


def _read_prompt(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt={path} cannot be read ({type(error).__name__}): give a text file.") from error


def _answers(writer: CaptionWriter, prompts: Sequence[str], wanted: int, seed: int) -> list[str]:
    """So many different answers to prompts that take turns; fewer if the model repeats itself."""
    asked = islice(cycle(prompts), wanted * _ANSWERS_PER_CAPTION)
    different: dict[str, None] = {}
    for _, text in writer.write(list(asked), 1, seed=seed):
        if caption := normalize_caption(text):
            different[caption] = None
        if len(different) == wanted:
            break
    return list(different)
