"""Captions written from class names by templates, as in SynCLR: a class with or without background and relation."""

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
    """Write captions of each class: yield pairs of a caption and its class.

    The kinds are those of SynCLR (Tian et al. 2023, arXiv 2312.17742, section 3.1): class; class and background; class
    and positional relation. They ask a language model; here templates are filled. The fillings of a class come in a
    random order that follows from the seed, without repeats.

    Args:
        classes: Class names.
        templates: Sentences with `{class}` in them and perhaps `{background}` and `{relation}`. Those that need a
            list that is empty are left out.
        backgrounds: Such as "a forest".
        relations: Such as "next to a bench" (the release: a relation such as "on top of").
        per_class: Captions of each class; fewer if there are fewer fillings.
        seed: Seed of the order. The captions of a class do not depend on the other classes.

    Raises:
        InputError: A template has no `{class}` or an unknown placeholder, no template can be filled, or `per_class`
            is below 1.
    """
    if per_class < 1:
        raise InputError(f"per_class={per_class} writes nothing: give 1 or more.")
    fillers = {"background": list(backgrounds), "relation": list(relations)}
    usable = []
    for template in templates:
        names = set(_PLACEHOLDER.findall(template))
        if "class" not in names or names - set(PLACEHOLDERS):
            raise InputError(
                f"The template {template!r} must hold {{class}} and may hold {{background}} and {{relation}}, but "
                "nothing else in braces; correct it."
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
    """All fillings for one class in random order: a random template, then its next filling."""
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
    """Make an 'a' before a word 'an', by the word's first letter: 'a hour' and 'an unicorn' are wrong."""
    return re.sub(r"\b([Aa]) $", r"\1n ", before) if word.startswith(tuple("aeiouAEIOU")) else before
