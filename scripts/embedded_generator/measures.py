"""Measures of drawn pictures: in features, in pixels, in seconds."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline

from . import drawing

TIMED_BATCHES = 3


def recall(queries: torch.Tensor, query_ids: list[str], gallery: torch.Tensor, ids: list[str]) -> dict[str, float]:
    """Share of queries whose concept is the first, or among the first five, of the gallery."""
    order = (queries @ gallery.T).topk(5).indices
    hits = torch.tensor([[ids[j] == own for j in row] for own, row in zip(query_ids, order.tolist(), strict=True)])
    return {"r@1": hits[:, 0].float().mean().item(), "r@5": hits.any(1).float().mean().item()}


def spread(features: torch.Tensor, siblings: int) -> float:
    """Mean cosine distance between siblings; unit features (captions * siblings, D), siblings contiguous."""
    groups = features.view(-1, siblings, features.shape[1])
    similarity = groups @ groups.transpose(1, 2)
    off_diagonal = (similarity.sum((1, 2)) - siblings) / (siblings * (siblings - 1))
    return float(1 - off_diagonal.mean())


def halved(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] as rows of half their size, spanning 1."""
    return F.avg_pool2d(pictures, 2).flatten(1) / 2


def nearest(pictures: torch.Tensor, training: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Root mean square distance of pictures to the nearest row of `training` (see `halved`), and which it is."""
    small = halved(pictures)
    distance, index = torch.cdist(small, training).min(1)
    return distance / small.shape[1] ** 0.5, index


def kernel_distance(
    drawn: torch.Tensor, real: torch.Tensor, subsets: int = 50, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID: squared maximum mean discrepancy with the kernel (x . y / D + 1)^3 (Binkowski et al. 2018), unbiased.

    Args:
        drawn: Features (N, D).
        real: Features (M, D).
        subsets: Random subsets of both.
        size: Of a subset; no larger than the smaller of the two sets.
        seed: Of the subsets.

    Returns:
        Mean and standard deviation over subsets. The mean may be slightly negative.
    """
    size = min(size, len(drawn), len(real))
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x, y = (s[torch.randperm(len(s), generator=generator)[:size]].double() for s in (drawn, real))
        xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = sum((k.sum() - k.diagonal().sum()) / (size * (size - 1)) for k in (xx, yy))
        values.append(float(within - 2 * xy.mean()))
    all_values = torch.tensor(values)
    return all_values.mean().item(), all_values.std().item()


def seconds_per_image(
    pipeline: StableDiffusionPipeline, prompt: str, guidance: float, steps: int, batch: int = drawing.BATCH
) -> float:
    """The fastest of a few batches: on a shared machine the others measure the other work."""
    times = []
    for _ in range(TIMED_BATCHES):
        started = time.perf_counter()
        drawing.draw(pipeline, [prompt] * batch, guidance, steps)
        times.append(time.perf_counter() - started)
    return min(times) / batch
