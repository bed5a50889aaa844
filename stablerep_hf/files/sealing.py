"""JSON that carries its own hash: a file with one bit flipped is not taken for the one that was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

_SEAL = "hash"


def content_hash(content: Mapping[str, Any]) -> str:
    """32 hex digits of JSON values, whatever the order of their keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake2b(canonical.encode(), digest_size=16).hexdigest()


def seal(content: Mapping[str, Any]) -> str:
    """JSON values and their hash as indented JSON."""
    return json.dumps({_SEAL: content_hash(content), **content}, indent=2, ensure_ascii=False) + "\n"


def unseal(text: str | bytes) -> dict[str, Any]:
    """The values that `seal` wrote, without the hash; `ValueError` if the text is anything else, damaged or edited."""
    try:
        content: dict[str, Any] = json.loads(text)
        intact = content.pop(_SEAL) == content_hash(content)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not what was written") from error
    if not intact:
        raise ValueError("it does not match its own hash")
    return content
