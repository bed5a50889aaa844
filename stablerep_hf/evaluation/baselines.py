"""What an encoder has to beat: itself before it learned anything."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .encoder import VisionEncoder


def untrained_encoder(vision: VisionEncoder, seed: int = 0) -> VisionEncoder:
    """The same architecture and preparation of images with weights as they are before training.

    It shows how much of a score the architecture alone gives. A model of transformers is made anew from its
    configuration; of another model every layer draws its weights anew, and parameters of no layer (class tokens,
    positions) are drawn from N(0, 0.02).

    Args:
        vision: an encoder; it stays as it is.
        seed: of the weights.

    Returns:
        It, on the same device, called "untrained" and the encoder's name; it has no text tower.
    """
    device = next((parameter.device for parameter in vision.model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: Any = vision.model
        fresh: nn.Module = type(model)(model.config) if isinstance(model, PreTrainedModel) else _redrawn(model)
    fresh.to(device).train(vision.model.training)
    return replace(vision, model=fresh, name=f"untrained {vision.name}", dual=None, tokenizer=None)


def _redrawn(model: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(model).cpu()
    for module in fresh.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            for parameter in module.parameters(recurse=False):
                parameter.normal_(std=0.02)
    return fresh
