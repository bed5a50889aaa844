"""The tokenizer and the text encoder, small and in CLIP's own format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from .captioned import CaptionedPictures
from .world import Text

START, END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(settings: Text, corpus: Iterable[str]) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's end-of-word mark, learned on the corpus: no text is out of vocabulary."""
    alphabet = list(bytes_to_unicode().values())
    symbols = [*alphabet, *(c + "</w>" for c in alphabet)]
    blank = CLIPTokenizer(vocab={symbol: i for i, symbol in enumerate([*symbols, START, END])}, merges=[])
    learned = blank.train_new_from_iterator(corpus, vocab_size=settings.vocabulary, initial_alphabet=alphabet)
    # Training keeps only the symbols it met. CLIP's layout has all: bytes, bytes that end a word, merges, specials.
    merges = [tuple(pair) for pair in json.loads(learned.backend_tokenizer.to_str())["model"]["merges"]]
    merges = merges[: settings.vocabulary - len(symbols) - 2]
    ordered = dict.fromkeys([*symbols, *("".join(pair) for pair in merges), START, END])
    vocabulary = {symbol: i for i, symbol in enumerate(ordered)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=settings.max_tokens)


def cached_tokenizer(settings: Text, pictures: CaptionedPictures, folder: Path) -> CLIPTokenizer:
    """The tokenizer of a work folder, learned on the texts of the pictures when there is none yet."""
    if not (folder / "tokenizer_config.json").exists():
        partial = folder.with_name(folder.name + ".partial")
        new_tokenizer(settings, pictures.corpus()).save_pretrained(partial)
        partial.rename(folder)
    return CLIPTokenizer.from_pretrained(folder)


def new_text_encoder(settings: Text, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A causal transformer; learned together with the UNet."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            intermediate_size=4 * settings.width,
            projection_dim=settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=settings.max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
