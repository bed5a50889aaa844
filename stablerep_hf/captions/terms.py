"""Terms (words or phrases) found in captions: concepts, blocked words, class names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from ..errors import InputError, refusing

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def split_words(text: str) -> list[str]:
    """The words of a text, case folded, without punctuation."""
    return _WORD.findall(text.casefold())


class TermMatcher:
    """Finds which of many terms a text contains, as whole words in any case.

    This is the substring matching of MetaCLIP (Xu et al. 2023, arXiv 2309.16671) with word boundaries. It looks up the
    word n-grams of the text, so the time does not grow with the number of terms.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        """Index the terms; `InputError` if there is none, or one holds no word."""
        self._terms: dict[tuple[str, ...], str] = {}
        for term in terms:
            words = tuple(split_words(term))
            if not words:
                raise InputError(f"The term {term!r} holds no word, so no caption can hold it; drop it from the list.")
            self._terms.setdefault(words, term)
        if not self._terms:
            raise InputError("The list of terms has 0 entries, so no caption can name one; give at least one.")
        self._lengths = sorted({len(words) for words in self._terms})

    @property
    def terms(self) -> list[str]:
        """The terms in their order, without those that differ from an earlier one in case and punctuation alone."""
        return list(self._terms.values())

    def find(self, text: str) -> list[str]:
        """The terms in a text, each once, in the order in which they begin (shorter ones first)."""
        words = split_words(text)
        found: dict[str, None] = {}
        for start in range(len(words)):
            for length in self._lengths:
                if start + length > len(words):
                    break
                term = self._terms.get(tuple(words[start : start + length]))
                if term is not None:
                    found[term] = None
        return list(found)

    def count(self, texts: Iterable[str]) -> dict[str, int]:
        """How many of the texts hold each term; every term is a key, in the order of the list."""
        counts = Counter(term for text in texts for term in self.find(text))
        return {term: counts[term] for term in self.terms}


def read_terms(path: str | Path) -> list[str]:
    """Read a UTF-8 list of terms, one a line; empty lines and lines that begin with `#` are skipped.

    Raises:
        InputError: The file does not exist, is not text, or holds no term.
    """
    with refusing(
        f"The list of terms {str(path)!r} cannot be read",
        "give a UTF-8 text file with one term a line",
        (OSError, UnicodeDecodeError),
    ):
        terms = list(_lines(Path(path).read_text(encoding="utf-8-sig")))
    if not terms:
        raise InputError(f"The list of terms {str(path)!r} holds no term; write one a line.")
    return terms


def shipped_terms(name: str) -> list[str]:
    """Read a list that comes with the package.

    "backgrounds", "relations", or "unsafe": English words for sexual content and gore, a short list that proves no
    safety.
    """
    text = (resources.files(__package__) / "word_lists" / f"{name}.txt").read_text(encoding="utf-8")
    return list(_lines(text))


def demographic_terms() -> dict[str, list[str]]:
    """English terms for groups of people, by group ("gender: women" and so on), that come with the package.

    A count of words says what a text names, not who is in a picture, and misses what the list has no word for.
    """
    groups: dict[str, list[str]] = {}
    for line in shipped_terms("demographic"):
        group, _, terms = line.partition(" = ")
        groups[group] = [term.strip() for term in terms.split(",")]
    return groups


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
