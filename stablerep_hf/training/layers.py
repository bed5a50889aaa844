"""The layers of a vision tower in order: what is frozen, or learns at a rate of its own."""

from __future__ import annotations

import re

from torch import nn

from ..errors import InputError

TOWER = "vision_model."
"""Where the vision tower is in models of ours."""

# a block, or one of a stage: layers.3, encoder.layer.3, stages.1.layers.0, timm_model.blocks.3
_BLOCK = re.compile(r"((?:.*?\.)??(?:layers?|blocks|stages)\.\d+(?:\.(?:layers|blocks)\.\d+)?)\.")


def layers_of(model: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each parameter of the vision tower: 0 for the embeddings, i for the i-th block.

    What comes after the blocks (the last norm, a pooling head) has none, nor have adapters.

    Args:
        model: With the tower at `vision_model`, whatever it is wrapped in.

    Returns:
        Name -> layer, and the number of blocks.
    """
    layers: dict[str, int] = {}
    blocks: dict[str, int] = {}
    for name, _ in model.named_parameters():
        _, found, own = name.partition(TOWER)
        if not found or "lora_" in own:
            continue
        if block := _BLOCK.match(own):
            layers[name] = blocks.setdefault(block[1], len(blocks) + 1)
        elif not blocks:
            layers[name] = 0
    return layers, len(blocks)


def freeze_layers(model: nn.Module, count: int) -> None:
    """Freeze the embeddings and the first blocks of the vision tower.

    Args:
        model: With the tower at `vision_model`.
        count: Blocks, >= 1 and at most as many as there are.

    Raises:
        InputError: The tower has fewer blocks.
    """
    layers, blocks = layers_of(model)
    if not 1 <= count <= blocks:
        raise InputError(
            f"freeze_layers={count} cannot work, since the encoder has {blocks} blocks: give 1 to {blocks}."
        )
    parameters = dict(model.named_parameters())
    for name, layer in layers.items():
        if layer <= count:
            parameters[name].requires_grad_(False)
