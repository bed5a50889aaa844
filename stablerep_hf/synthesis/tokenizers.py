"""Tokenizers that tell texts apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError, refusing

PROBES = ("a photograph of a dog", "7 blue squares")
"""Two texts that nothing takes for the same."""


def load_tokenizer(source: str | Path, what: str, revision: str | None = None) -> Any:
    """Load a tokenizer of transformers, without code of its own.

    A folder without its vocabulary is loaded by transformers all the same, and then knows no word.

    Args:
        source: Folder or Hub id.
        what: What is loaded, as a sentence begins: "The tokenizer of 'x'".
        revision: Of a Hub id.

    Raises:
        InputError: It cannot be loaded, or gives every text the same tokens.
    """
    from transformers import AutoTokenizer

    with refusing(f"{what} cannot be loaded", "give a folder or a Hub id that has one, whole"):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        one, other = tokenizer(list(PROBES), truncation=False).input_ids
    if set(one) == set(other):  # without a vocabulary every word is the unknown one
        raise InputError(
            f"{what} gives every text the same tokens: its vocabulary (tokenizer.json "
            "or vocab.json) is missing or damaged, download or save it again."
        )
    return tokenizer
