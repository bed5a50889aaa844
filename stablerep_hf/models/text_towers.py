"""Text towers: the types of transformers that can be one, and how each gives the feature of a text.

Travels with saved models as remote code: imports torch and transformers only.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import MODEL_MAPPING, PreTrainedModel, SiglipTextModel

TextPooling = Literal["end_of_text", "last_of_full_length", "mean", "first"]

# The pooling of each type where nothing else is said. CLIP, section 2.4: the end-of-text token. SigLIP: the last token
# of a text that is padded to its full length and not masked. The others are what sentence-transformers models are made
# of, whose default is the mean of the tokens (Reimers and Gurevych 2019, section 3); some take the first token.
TEXT_TOWERS: dict[str, TextPooling] = {
    "clip_text_model": "end_of_text",
    "siglip_text_model": "last_of_full_length",
    "bert": "mean",
    "distilbert": "mean",
    "modernbert": "mean",
    "mpnet": "mean",
    "roberta": "mean",
    "xlm-roberta": "mean",
}
_SENTENCE_POOLINGS = ("mean", "first")
_WITHOUT_POOLER = ("bert", "mpnet", "roberta", "xlm-roberta")
_FIRST_POSITION = {"mpnet": 2, "roberta": 2, "xlm-roberta": 2}  # positions before it are not for tokens


def default_pooling(config: Any) -> TextPooling:
    """The pooling of a text configuration's type.

    Raises:
        ValueError: The type is not known.
    """
    if config.model_type not in TEXT_TOWERS:
        raise ValueError(
            f"text_config is of model type {config.model_type!r}, and how that gives the feature of a text is not "
            f"known: choose one of {', '.join(sorted(TEXT_TOWERS))}."
        )
    return TEXT_TOWERS[config.model_type]


def check_text_config(config: Any, pooling: TextPooling) -> None:
    """Refuse a text configuration that no model can be made of; a known slip in CLIP's is mended in place.

    Raises:
        ValueError: Sizes below 1, an end-of-text token outside the vocabulary, or a pooling of another type.
    """
    default = default_pooling(config)
    if pooling != default and not {pooling, default} <= set(_SENTENCE_POOLINGS):
        raise ValueError(
            f"text_pooling={pooling!r} does not fit a text tower of type {config.model_type!r}: give {default!r}, or "
            "leave it out."
        )
    for size in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        if getattr(config, size) < 1:
            raise ValueError(
                f"{size} is {getattr(config, size)} in text_config, which leaves nothing of it: give 1 or more."
            )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} cannot be shared out among {config.num_attention_heads} attention "
            "heads: choose a multiple of num_attention_heads."
        )
    if pooling != "end_of_text":
        return
    if config.eos_token_id == 2 and config.vocab_size == 49408:
        # OpenAI's CLIP checkpoints name a wrong end-of-text token: CLIPTextModel knows them by this 2
        config.eos_token_id = 49407
    if not isinstance(config.eos_token_id, int) or not 0 <= config.eos_token_id < config.vocab_size:
        raise ValueError(
            f"eos_token_id is {config.eos_token_id} with a vocabulary of {config.vocab_size} tokens, but the feature "
            "of a text is read at its end-of-text token: give the id that the tokenizer ends a text with."
        )


def max_text_tokens(config: Any) -> int:
    """Tokens of the longest text that a text tower takes, special tokens included."""
    return int(config.max_position_embeddings) - _FIRST_POSITION.get(config.model_type, 0)


def make_text_tower(config: Any) -> PreTrainedModel:
    """Make the stock model of a configuration with random weights, without a pooler that nobody reads."""
    if config.model_type == "siglip_text_model":
        return SiglipTextModel(config)
    options = {"add_pooling_layer": False} if config.model_type in _WITHOUT_POOLER else {}
    kind: Any = MODEL_MAPPING[type(config)]
    tower: PreTrainedModel = kind(config, **options)
    return tower


def encode_texts(
    tower: nn.Module, pooling: TextPooling, input_ids: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run a text tower and read the feature of each text.

    Args:
        tower: A model of a type in `TEXT_TOWERS`.
        pooling: How features are read.
        input_ids: (C, L) int64 tokens.
        attention_mask: (C, L), 1 for tokens, 0 for padding (at the end). SigLIP's towers do not look at it.

    Returns:
        (C, L, D) hidden states, and (C, D) features.
    """
    config: Any = tower.config
    if pooling == "last_of_full_length":
        missing = config.max_position_embeddings - input_ids.shape[1]
        outputs: Any = tower(input_ids=pad(input_ids, (0, missing), value=config.pad_token_id))
        return outputs.last_hidden_state, outputs.pooler_output
    hidden: Tensor = tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    if pooling == "first":
        return hidden, hidden[:, 0]
    if pooling == "mean":
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask.unsqueeze(2).to(hidden.dtype)
        return hidden, (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    position = _end_of_text(input_ids, attention_mask, config.eos_token_id)
    return hidden, hidden[torch.arange(hidden.shape[0], device=hidden.device), position]


def _end_of_text(input_ids: Tensor, attention_mask: Tensor | None, eos_token_id: int) -> Tensor:
    """(C,) position of the first end-of-text token, of the last token where there is none.

    `CLIPTextModel` pools at position 0 then: with a causal mask the same feature for every text, in silence.
    Tokenizers that add no end-of-text token, or cut it off with a long text, do exist.
    """
    is_end = input_ids == eos_token_id
    if attention_mask is None:
        last = torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)
    else:
        last = attention_mask.long().sum(dim=1) - 1
    return torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1), last.clamp(min=0))
