"""What the tests of both cards look for."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import yaml

from stablerep_hf.evaluation.tables import readable
from stablerep_hf.hub.rendering import duration, size

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def front_matter(card: str) -> dict[str, Any]:
    """The YAML block, as any reader sees it."""
    _, block, _ = card.split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(block)
    return loaded


def body_of(card: str) -> str:
    """The Markdown without the YAML and without code blocks."""
    return re.sub(r"```.*?```", "", card.split("---\n", 2)[2], flags=re.DOTALL)


def numbers_in(text: str) -> set[str]:
    return set(NUMBER.findall(text))


def numbers_of(value: Any) -> set[str]:
    """Every form in which a card may print the numbers of these facts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return set().union(*map(numbers_of, value))
    if isinstance(value, str):
        return numbers_in(value)
    if value is None or isinstance(value, bool):
        return set()
    forms = [readable(value), f"{100 * value:.1f}", duration(value), size(int(value))]
    return set().union(*map(numbers_in, forms))


def python_blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def assert_no_empty_section(card: str) -> None:
    """No heading is followed by a heading of its rank or above, or by the end; no table or list item is empty."""
    text = card.split("---\n", 2)[2]
    lines = [line for line in text.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], "# end"], strict=True):
        if line.startswith("## "):
            assert not following.startswith("#"), line
        assert line.strip() not in ("-", "|"), line
        assert "None" not in line, line
    assert "\n\n\n" not in text
    assert not re.search(r"^\| :---.*\n(?!\|)", text, re.MULTILINE), "a table without rows"
