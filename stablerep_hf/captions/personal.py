"""Patterns of personal data in captions."""

from __future__ import annotations

import re
from collections.abc import Callable

# Every repetition has a bound, so that the time grows with the length of a text and not with its square.
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_URL = re.compile(
    r"(?:https?://|www\.)\S|\b[a-z0-9-]{1,63}\.(?:com|org|net|info|io|co|edu|gov|me|tv|biz|de|uk|fr|ru|cn|jp)\b",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?<![\w@./])@\w{2}")
_CARD = re.compile(r"(?<![\w.])\d{4}([ -]?)\d{4,6}(?:\1\d{4,5})(?:\1\d{1,7})?(?!\w)")
_DIGITS = re.compile(r"(?<![\w.])\+?\(?\d(?:[ ()./-]{0,3}\d){6,18}(?!\w)")
_MARKED = re.compile(r"\+|\d{1,3}[ .-]{0,2}\(\d{1,5}\)|\(\d{2,5}\)")  # +49 30 1234567, 44 (0)20 ..., (555) 123-4567
_GROUPED = re.compile(r"(?:\d{1,3}[ .-])?\d{2,5}[ ./-]{1,3}\d{3,4}[ .-]\d{3,4}")  # 555-123-4567, 1 555 123 4567
_YEARS = re.compile(r"(?:\W*(?:1\d|2[01])\d\d)+")  # 1984 2001 2005
_SIZES = re.compile(r"[1-9]\d{3}(?:\W+[1-9]\d{3})+")  # 1024 2048 4096: no phone number is grouped so
_ROUND_NUMBER = re.compile(r"[1-9]\d{0,2}(?:[ .]\d{3})*[ .]000")  # 100 000 000


def find_personal_data(text: str) -> str | None:
    """What kind of personal data a caption seems to hold; None if none is found.

    The first of "e-mail", "URL", "handle", "card number" (13 to 19 digits with a correct Luhn check digit) and "phone
    number" (7 to 15 digits, international or with an area code) that matches. Years, dates and measures are neither.
    Names of people are not looked for.
    """
    if not any(sign in text for sign in "@./") and not any(letter.isdigit() for letter in text):
        return None  # most captions
    for kind, matches in _KINDS.items():
        if matches(text):
            return kind
    return None


def _has_card_number(text: str) -> bool:
    for match in _CARD.finditer(text):
        digits = [int(letter) for letter in match.group() if letter.isdigit()]
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits) and not _YEARS.fullmatch(match.group()):
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
        if any(pattern.fullmatch(number) for pattern in (_YEARS, _SIZES, _ROUND_NUMBER)):
            continue
        if 7 <= digits <= 15 and _MARKED.match(number):
            return True
        # Unmarked digits are a phone number only where they are grouped as one: dates and sizes have fewer or shorter.
        if 9 <= digits <= 15 and _GROUPED.fullmatch(number):
            return True
    return False


_KINDS: dict[str, Callable[[str], object]] = {
    "e-mail": _EMAIL.search,
    "URL": _URL.search,
    "handle": _HANDLE.search,
    "card number": _has_card_number,
    "phone number": _has_phone_number,
}
