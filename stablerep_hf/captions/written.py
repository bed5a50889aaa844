"""Captions of class names, written by templates or by a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from ..errors import InputError, refusing
from .caption_set import CaptionSet
from .identity import normalize_caption
from .language_model import CaptionWriter
from .settings import WritingSettings
from .templates import DEFAULT_TEMPLATES, fill_templates
from .terms import read_terms, shipped_terms

_PER_CLASS = 16
_ANSWERS_PER_CAPTION = 4  # A language model repeats itself; after so many answers a class stays short.
_EXAMPLES = 3  # in a prompt, as SynCLR takes
_INSTRUCTION = "Write one short, concrete caption of a photo of what is named before the arrow, as in these examples."


def write_captions(settings: WritingSettings, seed: int = 0, answers: str | Path | None = None) -> CaptionSet:
    """Write labelled captions of class names: `per_class` of each class, or fewer if a language model repeats itself.

    Args:
        settings: Class names, templates or a language model.
        seed: Of the order of fillings, and of the language model's answers.
        answers: JSONL file that keeps what a language model answered; None keeps nothing.

    Raises:
        InputError: A list cannot be read, templates give fewer captions of a class than were asked for, or the
            language model cannot write.
    """
    classes = list(dict.fromkeys(read_terms(str(settings.classes))))
    lists = {
        name: read_terms(path) if (path := getattr(settings, name)) else shipped_terms(name)
        for name in ("backgrounds", "relations")
    }
    wanted = settings.per_class or _PER_CLASS
    if settings.language_model is not None:
        prompts: dict[str, list[str]] = {}
        if settings.prompt is None:
            prompts = {name: list(islice(example_prompts(name, **lists, seed=seed), wanted)) for name in classes}
        else:
            with refusing(
                f"prompt={settings.prompt} cannot be read", "give a text file", (OSError, UnicodeDecodeError)
            ):
                template = Path(settings.prompt).read_text(encoding="utf-8").rstrip("\n")
            for text, name in fill_templates(classes, [template], **lists, per_class=wanted, seed=seed):
                prompts.setdefault(name, []).append(text)
        writer = CaptionWriter(
            settings.language_model,
            answers,
            revision=settings.language_model_revision,
            served_model=settings.served_model,
            concurrency=settings.concurrency,
        )
        captions = CaptionSet.from_labelled(_answers(writer, prompts, wanted, seed))
        return captions.with_history(language_model=writer.name, revision=settings.language_model_revision)
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


def example_prompts(
    name: str, *, backgrounds: Sequence[str], relations: Sequence[str], seed: int = 0
) -> Iterator[str]:
    """Prompts that ask a language model for captions of a class, without end.

    The kinds take turns and are those of SynCLR (Tian et al. 2023, arXiv 2312.17742, section 3.1): the class; the
    class and a background; the class and a relation to something. Each prompt shows three examples of its kind, drawn
    from lists of ours that come with the package.

    Args:
        name: The class.
        backgrounds: Such as "a forest".
        relations: Such as "next to a bench".
        seed: Of the choices. The prompts of a class do not depend on the other classes.
    """
    rng = np.random.default_rng(list(f"{seed}/{name}".encode()))
    kinds = [(shipped_terms("examples_class"), [name])]
    for kind, additions in (("background", backgrounds), ("relation", relations)):
        kinds.append((shipped_terms(f"examples_{kind}"), [f"{name}, {addition}" for addition in additions]))
    for examples, requests in cycle(kinds):
        shown = [examples[place] for place in rng.choice(len(examples), _EXAMPLES, replace=False)]
        yield "\n".join([_INSTRUCTION, *shown, f"{requests[rng.integers(len(requests))]} =>"])


def _answers(
    writer: CaptionWriter, prompts: Mapping[str, Sequence[str]], wanted: int, seed: int
) -> Iterator[tuple[str, str]]:
    """So many different answers for each class to its prompts, which take turns; fewer if the model repeats itself.

    All classes are asked for together. What a round lacks, the next one asks for, and no more.
    """
    numbers = dict.fromkeys(prompts, wanted)
    while True:
        asked = [(name, text) for name, number in numbers.items() for text in islice(cycle(prompts[name]), number)]
        different: dict[str, dict[str, None]] = {name: {} for name in prompts}
        for place, text in writer.write([prompt for _, prompt in asked], 1, seed=seed):
            if caption := normalize_caption(text):
                different[asked[place][0]][caption] = None
        more = {
            name: min(wanted - len(found), wanted * _ANSWERS_PER_CAPTION - numbers[name])
            for name, found in different.items()
        }
        if not any(more.values()):
            return ((caption, name) for name, found in different.items() for caption in found)
        numbers = {name: number + more[name] for name, number in numbers.items()}
