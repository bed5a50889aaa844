"""Several encoders on the same images, side by side, with intervals of their differences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from ..errors import InputError
from .encoder import VisionEncoder, load_encoder
from .intervals import percentile_interval, seed_interval
from .protocols import evaluate_encoder
from .results import OVER_EPISODES, EvaluationResult
from .settings import Subject

logger = logging.getLogger(__name__)


def compare_encoders(
    encoders: Mapping[str, str | Path | nn.Module | VisionEncoder] | Sequence[str | Path | VisionEncoder],
    train_dataset: Dataset | None,
    test_dataset: Dataset,
    *,
    subject: Subject | None = None,
    **arguments: Any,
) -> list[EvaluationResult]:
    """Measure every encoder as `evaluate_encoder` does, and each pair by the difference of their scores.

    The differences are paired: both encoders are scored on the same bootstrap samples of the test images or groups (on
    the same episodes in few-shot), so what makes a sample easy for both does not widen the interval. One that does
    not contain 0 says that the difference would hold on other images of the kind; with several encoders and measures
    look at it as at one of many.

    Args:
        encoders: by the names that results call them, or in order by their own; see `pixel_encoder` and
            `untrained_encoder` for baselines.
        train_dataset: as for `evaluate_encoder`.
        test_dataset: likewise.
        subject: likewise; its `encoder` is not used.
        arguments: the others of `evaluate_encoder`.

    Returns:
        The results of the encoders in order. Their `settings` hold under "minus" for each later encoder that was
        measured on the same items [difference, low, high].

    Raises:
        InputError: two encoders have one name, or none can be measured: as `evaluate_encoder`.
    """
    subject = subject or Subject()
    named = [("", encoder) for encoder in encoders] if not isinstance(encoders, Mapping) else list(encoders.items())
    measured: dict[str, list[EvaluationResult]] = {}
    failed: dict[str, InputError] = {}
    for name, encoder in named:
        vision = load_encoder(encoder, name=name or None, device=arguments.get("device"))
        about = replace(subject, encoder=name or vision.name)
        if about.encoder in measured.keys() | failed.keys():
            raise InputError(
                f"Two encoders are called {about.encoder!r}; name them apart, as in {{'a': ..., 'b': ...}}."
            )
        try:
            measured[about.encoder] = evaluate_encoder(vision, train_dataset, test_dataset, subject=about, **arguments)
        except InputError as error:
            failed[about.encoder] = error
    if failed and not measured:
        raise next(iter(failed.values()))
    for name, reason in failed.items():
        logger.warning("%s is left out: %s", name, reason)
    return with_differences([result for results in measured.values() for result in results])


def with_differences(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """The results, each with its differences to those of later encoders on the same items, where these are known."""
    minus: dict[int, dict[str, list[float]]] = {}
    for (place, one), (_, other) in combinations(enumerate(results), 2):
        found = _difference(one, other)
        if found is not None:
            minus.setdefault(place, {})[other.encoder] = found
    return [
        replace(result, settings={**result.settings, "minus": minus[place]}) if place in minus else result
        for place, result in enumerate(results)
    ]


def _difference(one: EvaluationResult, other: EvaluationResult) -> list[float] | None:
    """[difference, low, high], or None if the two cannot be paired."""
    if one.key()[1:] != other.key()[1:] or one.encoder == other.encoder or one.n != other.n:
        return None
    if one.drawn is None or other.drawn is None or one.drawn.shape != other.drawn.shape:
        return None
    drawn = one.drawn - other.drawn
    of_episodes = one.interval == OVER_EPISODES
    ends = seed_interval([float(value) for value in drawn]) if of_episodes else percentile_interval(drawn)
    return [float(np.subtract(one.value, other.value)), *ends]
