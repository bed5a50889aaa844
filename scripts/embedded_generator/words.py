"""The tokenizer and the text encoder, small and in CLIP's own format."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from . import pictures

VOCABULARY = 2600  # tokens; most words of the captions are one
MAX_TOKENS = 16  # with start and end; longer prompts are cut, as in CLIP
START, END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(corpus: Iterable[str]) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's end-of-word mark, learned on the corpus: no text is out of vocabulary."""
    alphabet = list(bytes_to_unicode().values())
    symbols = [*alphabet, *(c + "</w>" for c in alphabet)]
    blank = CLIPTokenizer(vocab={symbol: i for i, symbol in enumerate([*symbols, START, END])}, merges=[])
    learned = blank.train_new_from_iterator(corpus, vocab_size=VOCABULARY, initial_alphabet=alphabet)
    # Training keeps only the symbols it met. CLIP's layout has all: bytes, bytes that end a word, merges, specials.
    merges = [tuple(pair) for pair in json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]]
    merges = merges[: VOCABULARY - len(symbols) - 2]
    ordered = dict.fromkeys([*symbols, *("".join(pair) for pair in merges), START, END])
    vocabulary = {symbol: i for i, symbol in enumerate(ordered)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def corpus(rows: list[dict[str, Any]], tags: dict[str, list[str]]) -> list[str]:
    """What the training prompts are made of, each picture's words once a style: training concepts only."""
    rng = random.Random(0)
    lines = [pictures.prompt(row, tags[row["concept"]], rng) for row in rows]
    return lines + sorted({tag for row in rows for tag in tags[row["concept"]]})


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers, 128 wide; learned together with the UNet."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
