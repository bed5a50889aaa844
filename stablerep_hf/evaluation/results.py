"""A number with everything needed to trust it, and the file such numbers live in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files.atomic import write_file
from .intervals import seed_interval

BOOTSTRAP = "bootstrap over test images"
CLUSTER_BOOTSTRAP = "bootstrap over test groups"
TEXT_BOOTSTRAP = "bootstrap over test texts"  # those of an image, or of its group, together
OVER_EPISODES = "Student t over episodes"
OVER_SEEDS = "Student t over training seeds"


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """One measured number.

    Attributes:
        encoder: what was measured.
        protocol: how: "knn", "linear_probe", another of `PROTOCOLS`.
        metric: what is counted: "accuracy", "recall@1".
        value: the number, in [0, 1] for shares.
        low: lower end of its 95 % interval.
        high: upper end.
        interval: what the interval is over; without it the ends mean nothing.
        n: test items that were scored: images, or what the interval is over where that is something else.
        dataset: id or name of the data set.
        revision: its commit or content digest; empty if unknown.
        split: the split that was scored.
        seeds: seeds of the training runs behind the number; empty for an encoder that came from elsewhere.
        chance: what knowing nothing would give, if that is defined.
        settings: the protocol's settings and choices, JSON values.
        variant: which of several numbers of one protocol and metric this is: "with BatchNorm", "artist = fluent".
        drawn: (R,) the number on each bootstrap sample, or in each episode: by it encoders that were measured on the
            same items are compared. It is kept in memory only.
    """

    encoder: str
    protocol: str
    metric: str
    value: float
    low: float
    high: float
    interval: str
    n: int
    dataset: str
    revision: str
    split: str
    seeds: tuple[int, ...] = ()
    chance: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    drawn: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = [self.value, self.low, self.high, *([] if self.chance is None else [self.chance])]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise InputError(
                f"The result {self.key()} holds {numbers}, which are not all finite numbers; measure anew."
            )
        if self.low > self.high or self.n < 1:
            raise InputError(
                f"The result {self.key()} has the interval [{self.low}, {self.high}] over n = {self.n}, which cannot "
                "be; the low end comes first and n is at least 1."
            )
        object.__setattr__(self, "seeds", tuple(self.seeds))

    def key(self) -> tuple[str, ...]:
        """What tells this result from others in a table: encoder, protocol, metric, k, variant, data set and split."""
        k = "" if self.settings.get("k") is None else str(self.settings["k"])
        return (self.encoder, self.protocol, self.metric, k, self.variant, self.dataset, self.split)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields."""
        values = dataclasses.asdict(dataclasses.replace(self, drawn=None))
        del values["drawn"]
        return {**values, "seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EvaluationResult:
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is unknown or missing.
        """
        known = {entry.name for entry in dataclasses.fields(cls)} - {"drawn"}
        needed = {
            entry.name
            for entry in dataclasses.fields(cls)
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        }
        if wrong := sorted((set(values) - known) | (needed - set(values))):
            raise InputError(
                f"A result has the unknown or missing fields {', '.join(wrong)}, so it was not written by this "
                f"version; its fields are {', '.join(sorted(known))}."
            )
        return cls(**values)


def save_results(path: str | Path, results: Iterable[EvaluationResult]) -> None:
    """Write results as a JSON list; the file is whole or is not there, also after a kill."""
    text = json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False, allow_nan=False)
    write_file(path, f"{text}\n".encode())


def load_results(path: str | Path) -> list[EvaluationResult]:
    """Read a file of `save_results`.

    Raises:
        InputError: no such file, no JSON list, or fields of another version.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"There is no results file {str(path)!r}; run the evaluation that writes it.") from error
    except ValueError as error:
        raise InputError(f"The results file {str(path)!r} is not JSON ({error}); write it anew.") from error
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"The results file {str(path)!r} holds no JSON list of results; write it anew.")
    return [EvaluationResult.from_dict(value) for value in values]


def combine_seeds(results: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """One result for each measure from runs that differ in their training seed: the mean with its t interval.

    Results belong together when encoder, protocol, metric, k, data set and split agree. What they disagree on in
    `settings` is dropped, and the single values are kept there as `values`. Where all runs know their bootstrap
    samples, the mean has samples too, over test items and over seeds, so that differences are paired in both; episodes
    are not such samples.

    Args:
        results: at least two of each measure, each with one seed of its own.

    Raises:
        InputError: a measure has one result only, a seed occurs twice, or the runs were scored on different data.
    """
    together: dict[tuple[str, ...], list[EvaluationResult]] = {}
    for result in results:
        together.setdefault(result.key(), []).append(result)
    return [_combine(runs) for runs in together.values()]


def _combine(runs: list[EvaluationResult]) -> EvaluationResult:
    first = runs[0]
    seeds = tuple(seed for run in runs for seed in run.seeds)
    if len(seeds) != len(runs) or len(set(seeds)) != len(seeds):
        raise InputError(
            f"{len(runs)} runs of {first.encoder!r} name the seeds {seeds}, and each must have one of its own; pass "
            "seeds=(seed,) to the evaluation."
        )
    scored = sorted({(run.revision, run.n) for run in runs})
    if len(scored) > 1:
        raise InputError(
            f"The runs of {first.encoder!r} were scored on {scored} (revision and images), so "
            "their mean says nothing; score them on the same data."
        )
    low, high = seed_interval([run.value for run in runs])
    common = {
        name: value for name, value in first.settings.items() if all(run.settings.get(name) == value for run in runs)
    }
    return dataclasses.replace(
        first,
        value=sum(run.value for run in runs) / len(runs),
        low=low,
        high=high,
        interval=OVER_SEEDS,
        drawn=_drawn_over_seeds(runs),
        seeds=seeds,
        settings={**common, "values": [run.value for run in runs]},
    )


def _drawn_over_seeds(runs: Sequence[EvaluationResult]) -> NDArray[np.float64] | None:
    """(R,) the mean of runs on each bootstrap sample of the items, each with a sample of the runs; None if unknown.

    A sample of n runs spreads as if there were n - 1, so what it adds is stretched by the root of n / (n - 1).
    """
    drawn = [run.drawn for run in runs if run.drawn is not None and run.interval != OVER_EPISODES]
    if len(drawn) < len(runs) or len({one.shape for one in drawn}) > 1:
        return None
    values, count = np.stack(drawn), len(runs)
    sampled = np.random.default_rng(0).integers(0, count, values.shape)
    means = values.mean(axis=0)
    stretched: NDArray[np.float64] = means + np.sqrt(count / (count - 1)) * (
        np.take_along_axis(values, sampled, axis=0).mean(axis=0) - means
    )
    return stretched
