"""Templates to Markdown: strict, deterministic, no empty section."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

from huggingface_hub import CardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..evaluation.tables import markdown_table, readable

_UNITS = (("h", 3600), ("min", 60), ("s", 1))


def render(template: str, card_data: CardData, **values: Any) -> str:
    """The whole card: YAML front matter and the body that `templates/<template>` gives.

    A name that the template uses and nobody gave is an error, never an empty string.
    """
    return f"---\n{card_data.to_yaml()}\n---\n\n{render_body(template, **values)}"


def render_body(template: str, **values: Any) -> str:
    """What the template gives, without front matter."""
    body = _environment().get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("stablerep_hf.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML
        finalize=prose,  # of whatever a template writes out: much of it is names that came with somebody's data
    )
    environment.filters |= {"readable": readable, "facts_table": facts_table, "duration": duration, "size": size}
    environment.filters |= {"code": code, "url": url, "table": table, "sentence": Markup}
    return environment


def prose(value: Any) -> str:
    """Escape text, so that Markdown shows it as it is, on one line; `Markup` is left alone."""
    if isinstance(value, Markup):
        return value
    return Markup(re.sub(r"([\\`\[\]<>])", r"\\\1", _one_line(value)))


def plain(markdown: str) -> str:
    """What `prose` was given."""
    return re.sub(r"\\([\\`\[\]<>])", r"\1", markdown)


def code(value: Any) -> Markup:
    """Text on one line for a place inside backticks or a block of code."""
    return Markup(_one_line(value).replace("`", "'"))


def url(value: Any) -> Markup:
    """An address for a link."""
    return Markup(quote(_one_line(value), safe=":/?#@!$&'*+,;=%~"))


def table(markdown: str) -> Markup:
    """A table whose cells may hold names that came with data: no HTML, no link."""
    return Markup(markdown.replace("<", "\\<").replace("](", "]\\("))


def _one_line(value: Any) -> str:
    return re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", str(value))


def facts_table(facts: Mapping[str, Any]) -> str:
    """Name and value of each fact that has a value."""
    rows = [
        [prose(name.replace("_", " ")), prose(readable(value))]
        for name, value in facts.items()
        if not _is_empty(value)
    ]
    return Markup(markdown_table([["what", "value"], *rows], align_right=False))


def duration(seconds: float) -> str:
    """Seconds as "2 h 5 min", "1 min 40 s" or "12 s": two units at most."""
    parts: list[str] = []
    rest = round(seconds)
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def size(num_bytes: int) -> str:
    """Bytes as "12.3 MB", decimal units as the Hub shows them."""
    amount, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.3g} {units[0]}"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and len(value) == 0)
