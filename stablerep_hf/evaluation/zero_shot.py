"""Zero-shot classification: sentences name the classes, and an image gets the class of the nearest one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from .knn import as_unit_vectors
from .settings import check_templates

EmbedTexts = Callable[[Sequence[str]], Tensor]


def zero_shot_weights(embed_texts: EmbedTexts, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One direction a class: its sentences embedded and normalised, their mean, normalised again.

    The template ensemble of CLIP (Radford et al. 2021, section 3.1.4), as the release's Scaling/clip scripts do it.

    Args:
        embed_texts: texts -> (C, E).
        class_names: K names; underscores become spaces.
        templates: sentences with one `{}` each.

    Returns:
        (K, E) float32, of length 1.

    Raises:
        InputError: no names, a template without its place, or a text whose embedding is not finite.
    """
    check_templates(templates)
    if not class_names:
        raise InputError("There are 0 class names, so there is nothing to choose from; name the classes.")
    names = [str(name).replace("_", " ") for name in class_names]
    sentences = as_unit_vectors(
        embed_texts([template.replace("{}", name) for name in names for template in templates])
    )
    return functional.normalize(sentences.reshape(len(names), len(templates), -1).mean(1), dim=1)


def zero_shot_scores(image_embeds: ArrayLike | Tensor, weights: Tensor) -> Tensor:
    """Cosine similarities (N, K) float32 of images (N, E) with classes (K, E), where the classes are."""
    return as_unit_vectors(image_embeds).to(weights.device) @ weights.T
