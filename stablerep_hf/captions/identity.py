"""What makes two captions the same caption.

The id is a function of the text alone, so the same caption in another file, shard, process or year has the same id and
its images are positives of one another. (The original release uses the line number: two equal lines there are false
negatives of each other.)
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b


def normalize_caption(text: str) -> str:
    """Bring a caption to the form that is stored and hashed.

    Args:
        text: Any text.

    Returns:
        The text in Unicode NFC with every run of white space (tabs, line breaks, no-break spaces too) replaced by one
        space and none at the ends; the empty string if there was nothing else. Case and punctuation are kept: they
        change what a generator draws.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def caption_id(text: str) -> int:
    """Give the identity of a caption.

    Args:
        text: The caption, normalised or not.

    Returns:
        An integer in [0, 2**63): the first 63 bits of the blake2b digest of the normalised caption in UTF-8. It fits
        int64. Among ten million captions the chance of any collision is about 5e-6.

    Raises:
        UnicodeEncodeError: If the text holds a lone surrogate and so has no UTF-8 form.
    """
    return id_of_normalized(normalize_caption(text))


def id_of_normalized(caption: str) -> int:
    """Give the identity of a caption that `normalize_caption` returned (and so skip doing it again)."""
    return int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "big") >> 1
