"""What makes two captions the same caption.

The id is a function of the text alone, so the same caption in another file, shard, process or year has the same id and
its images are positives of one another. (The original release uses the line number: two equal lines there are false
negatives of each other.)
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

# Any character but white space, controls, the braille blank and what Unicode tells fonts not to draw
# (Default_Ignorable_Code_Point in DerivedCoreProperties.txt): zero-width spaces, joiners, fillers, selectors.
_VISIBLE = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\u2800\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff]"
)


def normalize_caption(text: str) -> str:
    """Bring a caption to the form that is stored and hashed.

    That is Unicode NFC with every run of white space (tabs, line breaks, no-break spaces too) replaced by one space
    and none at the ends; "" if nothing in the text can be seen: white space, control characters, zero-width spaces.
    Case, punctuation and compatibility characters are kept: they change what a generator draws.
    """
    return " ".join(unicodedata.normalize("NFC", text).split()) if _VISIBLE.search(text) else ""


def caption_id(text: str) -> int:
    """The id of a caption, normalised or not: in [0, 2**63), so it fits int64.

    It is the first 63 bits of the blake2b digest of the normalised caption in UTF-8. Among ten million captions the
    chance of any collision is about 5e-6.

    Raises:
        UnicodeEncodeError: The text holds a lone surrogate and so has no UTF-8 form.
    """
    return id_of_normalized(normalize_caption(text))


def id_of_normalized(caption: str) -> int:
    """The id of a caption that `normalize_caption` returned, without normalising it again."""
    return int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "big") >> 1
