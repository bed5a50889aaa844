"""Patterns of personal data in captions."""

from __future__ import annotations

import re
from collections.abc import Callable

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(
    r"(?:https?://|www\.)\S+|\b[a-z0-9-]+\.(?:com|org|net|info|io|co|edu|gov|me|tv|biz|de|uk|fr|ru|cn|jp)\b(?:/\S*)?",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?<![\w@./])@\w{2,}")
_DIGITS = re.compile(r"(?<![\w.])\+?\(?\d(?:[ ()./-]{0,2}\d){6,18}(?![\w])")


def find_personal_data(text: str) -> str | None:
    """Say what kind of personal data a caption seems to hold.

    Args:
        text: The caption.

    Returns:
        The first of "e-mail", "URL", "handle", "card number" (13 to 19 digits with a right Luhn check digit) and
        "phone number" (grouped or international, 7 to 15 digits) that matches; None if none does. Names of people are
        not looked for.
    """
    if not any(sign in text for sign in "@./") and not any(letter.isdigit() for letter in text):
        return None  # most captions
    for kind, matches in _KINDS.items():
        if matches(text):
            return kind
    return None


def _has_card_number(text: str) -> bool:
    for match in _DIGITS.finditer(text):
        digits = [int(letter) for letter in match.group() if letter.isdigit()]
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits):
            return True
    return False


def _luhn(digits: list[int]) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _has_phone_number(text: str) -> bool:
    for match in _DIGITS.finditer(text):
        number = match.group().strip(" ./-")
        digits = sum(letter.isdigit() for letter in number)
        groups = re.findall(r"\d+", number)
        marked = number.startswith("+") or "(" in number
        # Unmarked digits are a phone number only where they are grouped as one: dates and sizes have fewer or shorter.
        if (marked and 7 <= digits <= 15) or (9 <= digits <= 15 and len(groups) >= 3 and len(groups[-1]) >= 3):
            return True
    return False


_KINDS: dict[str, Callable[[str], object]] = {
    "e-mail": _EMAIL.search,
    "URL": _URL.search,
    "handle": _HANDLE.search,
    "card number": _has_card_number,
    "phone number": _has_phone_number,
}
