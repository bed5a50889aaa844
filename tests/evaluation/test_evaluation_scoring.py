from __future__ import annotations

import numpy as np
import pytest

from stablerep_hf.evaluation import Columns, EvaluationSettings, Features, Subject
from stablerep_hf.evaluation.metrics import MeanScore
from stablerep_hf.evaluation.scoring import Finding, Scoring

SUBJECT = Subject(encoder="e", dataset="d")


def scored(right: np.ndarray, slices: np.ndarray, seed: int) -> dict:
    """Variant -> result of scores (N,) in slices (N,)."""
    test = Features(np.zeros((len(right), 1), np.float32), np.arange(len(right)), {"hue": slices})
    scoring = Scoring(
        train=None,
        test=test,
        columns=Columns(slices=("hue",)),
        subject=SUBJECT,
        settings=EvaluationSettings(num_resamples=500, seed=seed),
    )
    finding = Finding(
        protocol="knn",
        metric="accuracy",
        statistic=MeanScore(right.astype(np.float64)),
        count=len(right),
        settings={},
        rows=np.arange(len(right)),
    )
    return {result.variant: result for result in scoring.results(finding)}


@pytest.mark.parametrize("shares", [[0.8] * 10, [0.6, 0.7, 0.8, 0.9]], ids=["no gap", "a gap"])
def test_intervals_of_the_worst_and_of_the_gap_hold_the_truth(shares):
    """Of ten slices that are equally good the worst measured one lies well below what all of them are."""
    worst = gap = 0
    studies = 30
    slices = np.arange(100 * len(shares)) % len(shares)
    for seed in range(studies):
        right = np.random.default_rng(seed).random(len(slices)) < np.asarray(shares)[slices]
        found = scored(right, slices, seed)
        worst += found["worst hue"].low <= min(shares) <= found["worst hue"].high
        gap += found["gap over hue"].low <= np.ptp(shares) + 1e-9 and np.ptp(shares) <= found["gap over hue"].high
    assert worst >= 0.9 * studies
    assert gap >= 0.9 * studies


def test_the_worst_and_the_gap_lie_in_their_intervals_and_a_wide_gap_is_above_zero():
    slices = np.repeat([0, 1], 200)
    right = np.random.default_rng(0).random(400) < np.where(slices, 0.9, 0.4)
    found = scored(right, slices, 0)
    for variant in ("worst hue", "gap over hue"):
        assert found[variant].low < found[variant].value < found[variant].high
    assert found["gap over hue"].low > 0.2
    assert found["worst hue"].low < found["hue = 0"].low, "wider than the interval of that slice alone"
