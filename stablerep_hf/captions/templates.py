"""Captions written from class names, as SynCLR does: a class, perhaps a background, perhaps a relation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from ..errors import InputError

PLACEHOLDERS = ("class", "background", "relation")
DEFAULT_TEMPLATES = (
    "a photo of a {class}",
    "a {class} in {background}",
    "a {class} {relation}",
    "a {class} {relation} in {background}",
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill_templates(
    classes: Sequence[str],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    *,
    backgrounds: Sequence[str] = (),
    relations: Sequence[str] = (),
    per_class: int,
    seed: int = 0,
) -> Iterator[tuple[str, str]]:
    """Write captions of each class.

    The three kinds of SynCLR (Tian et al. 2023, arXiv 2312.17742, section 3.1: class; class and background; class and
    positional relation), by templates where they ask a language model. For each class the possible fillings of all
    templates are taken in an order drawn from the seed, without repeats.

    Args:
        classes: Class names.
        templates: Sentences with `{class}` in them and perhaps `{background}` and `{relation}`. Those that need a
            list that is empty are left out.
        backgrounds: Such as "a forest".
        relations: Such as "next to a bench" (the release: a relation such as "on top of").
        per_class: Captions of each class; fewer where there are not so many fillings.
        seed: Of the order. A class is drawn apart from the others: another list of classes does not change it.

    Yields:
        Pairs of a caption and its class.

    Raises:
        InputError: If a template has no `{class}` or an unknown placeholder, none can be filled, or a number is
            impossible.
    """
    if per_class < 1:
        raise InputError(f"per_class is {per_class}, which writes nothing; set it to 1 or more.")
    fillers = {"background": list(backgrounds), "relation": list(relations)}
    usable = []
    for template in templates:
        names = set(_PLACEHOLDER.findall(template))
        if "class" not in names or names - set(PLACEHOLDERS):
            raise InputError(
                f"The template {template!r} must hold {{class}} and may hold {{background}} and {{relation}}, nothing "
                "else in braces; correct it."
            )
        if all(fillers[name] for name in names - {"class"}):
            usable.append((template, sorted(names - {"class"})))
    if not usable:
        raise InputError(
            f"None of {len(templates)} templates can be filled without backgrounds or relations; give those lists, or "
            "a template with {class} alone."
        )
    return (
        (caption, name)
        for name in classes
        for caption in islice(_captions_of(name, usable, fillers, f"{seed}/{name}"), per_class)
    )


def _captions_of(
    name: str, templates: list[tuple[str, list[str]]], fillers: dict[str, list[str]], key: str
) -> Iterator[str]:
    """All fillings for one class in a drawn order: a template is drawn, then its next filling."""
    rng = np.random.default_rng(list(key.encode()))
    sizes = [int(np.prod([len(fillers[name]) for name in names])) for _, names in templates]
    orders = [iter(rng.permutation(size)) for size in sizes]
    seen: set[str] = set()
    open_templates = list(range(len(templates)))
    while open_templates:
        chosen = int(rng.choice(open_templates))
        place = next(orders[chosen], None)
        if place is None:
            open_templates.remove(chosen)
            continue
        template, names = templates[chosen]
        values = {"class": name}
        rest = int(place)
        for filler in names:
            rest, number = divmod(rest, len(fillers[filler]))
            values[filler] = fillers[filler][number]
        pieces = _PLACEHOLDER.split(template)  # text, name, text, name, ... text
        for number in range(1, len(pieces), 2):
            pieces[number] = values[pieces[number]]
            pieces[number - 1] = _with_article(pieces[number - 1], pieces[number])
        caption = "".join(pieces)
        if caption not in seen:
            seen.add(caption)
            yield caption


def _with_article(before: str, word: str) -> str:
    """What stands before a word, with 'a' at its end made 'an': by the letter, so 'a hour' and 'an unicorn' happen."""
    return re.sub(r"\b([Aa]) $", r"\1n ", before) if word.startswith(tuple("aeiouAEIOU")) else before
