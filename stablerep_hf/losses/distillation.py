"""Losses between a student's features and a teacher's, of the same images; the teacher has no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from .gather import count_rows, sum_over_ranks
from .multi_positive import unit_rows


def feature_distillation_loss(mapped: Tensor, teacher: Tensor) -> Tensor:
    """How far features point away from the teacher's: 1 less the mean cosine over the images of all ranks.

    The cosine loss of AM-RADIO (Ranzinger et al. 2024, section 3.3), there for summary tokens, on what a linear map
    makes of the student's features.

    Args:
        mapped: (n, E) of this rank's images, n >= 0; of any length.
        teacher: (n, E), of any length.

    Returns:
        Scalar in [0, 2], the same on all ranks.

    Raises:
        ValueError: The shapes differ.
    """
    if mapped.shape != teacher.shape:
        raise ValueError(f"The features are of shape {tuple(mapped.shape)}, the teacher's {tuple(teacher.shape)}.")
    with torch.autocast(mapped.device.type, enabled=False):
        cosines = (unit_rows(mapped) * unit_rows(teacher)).sum(dim=1)
        return 1 - sum_over_ranks(cosines.sum()) / max(sum(count_rows(mapped)), 1)


def similarity_distillation_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """How far the similarities of images differ from the teacher's: the mean squared difference of cosines, all pairs.

    The loss of similarity-preserving distillation (Tung and Mori 2019, equation 4) with cosines as similarities; it
    needs no map between the spaces. SEED (Fang et al. 2021) compares softmaxes of the same similarities. The sum over
    pairs follows from the Gram matrices of the dimensions, S'S, S'T and T'T: no N x N matrix is made.

    Args:
        features: (n, D) of this rank's images, n >= 0.
        teacher: (n, E), E need not be D.

    Returns:
        Scalar in [0, 4], the same on all ranks.

    Raises:
        ValueError: The numbers of images differ.
    """
    if len(features) != len(teacher):
        raise ValueError(f"There are features of {len(features)} images and of {len(teacher)} from the teacher.")
    with torch.autocast(features.device.type, enabled=False):
        student, teacher = unit_rows(features), unit_rows(teacher).to(features.device)
        own, across, theirs = (
            sum_over_ranks(one.T @ other).square().sum()
            for one, other in ((student, student), (student, teacher.to(student.dtype)), (teacher, teacher))
        )
        return (own - 2 * across + theirs) / max(sum(count_rows(features)), 1) ** 2
