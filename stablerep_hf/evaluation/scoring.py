"""Features and their columns on the way to results: labels, intervals, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .features import Features
from .intervals import bootstrap_values, percentile_interval, seed_interval
from .metrics import MeanScore, Statistic, Weights
from .results import BOOTSTRAP, CLUSTER_BOOTSTRAP, OVER_EPISODES, TEXT_BOOTSTRAP, EvaluationResult
from .settings import Columns, EvaluationSettings, Subject
from .sgd_probe import AugmentedFeatures
from .zero_shot import EmbedTexts


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a protocol found, on the way to a result.

    Attributes:
        protocol: its name.
        metric: what is counted.
        statistic: the number, as a function of how often each item counts.
        count: items.
        settings: the protocol's own.
        groups: (count,) ids of items that are drawn together; None: each for itself.
        rows: (count,) the test image of each item; None if the items are texts or episodes, which have no slices.
        chance: what knowing nothing would give.
        variant: which of several numbers this is.
        episodes: whether the items are episodes, of which there may be any number.
    """

    protocol: str
    metric: str
    statistic: Statistic
    count: int
    settings: dict[str, Any]
    groups: NDArray[Any] | None = None
    rows: NDArray[np.int64] | None = None
    chance: float | None = None
    variant: str = ""
    episodes: bool = False


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One encoder's features, what belongs to them, and the way from a finding to results.

    Attributes:
        train: bank of kNN and training set of the probes; None if neither is wanted.
        test: what is scored.
        validation: chooses the logistic regression's C, in place of a part of `train`.
        columns: what the columns mean.
        hands: artist -> hand, for artists that share outlines and must count as one; each other artist is one hand.
        class_names: the name of each integer label; empty for labels that are names.
        classes: the class of each feature, where the features are a classifier's logits.
        embed_texts: of the dual encoder.
        augmented: the training features of an epoch of the release's probe.
        train_split: what results call the training set.
        subject: what results are about.
        settings: of the protocols.
        device: where similarities and probes are computed; None: the CPU.
    """

    train: Features | None
    test: Features
    columns: Columns
    subject: Subject = field(default_factory=Subject)
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    validation: Features | None = None
    hands: Mapping[str, str] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    classes: Sequence[str] = ()
    embed_texts: EmbedTexts | None = None
    augmented: AugmentedFeatures | None = None
    train_split: str = "train"
    device: str | torch.device | None = None

    def finding_of_images(self, protocol: str, metric: str, statistic: Statistic, **others: Any) -> Finding:
        """A finding whose items are the test images in order; `others` are its other fields."""
        rows = np.arange(len(self.test))
        return Finding(
            protocol=protocol,
            metric=metric,
            statistic=statistic,
            count=len(rows),
            groups=self.groups(self.test),
            rows=rows,
            **others,
        )

    def groups(self, features: Features) -> NDArray[Any] | None:
        """(N,) the group of each image, if there are groups."""
        return None if self.columns.group is None else features.columns[self.columns.group]

    def labels(self, *sides: Features) -> list[NDArray[np.int64]]:
        """The labels of each side as one numbering (a test label may be new)."""
        assert self.columns.label is not None
        values = [side.columns[self.columns.label] for side in sides]
        for side, column in zip(sides, values, strict=True):
            check_label_values(self.columns.label, self.subject.split if side is self.test else "training", column)
        if len({column.dtype.kind for column in values}) > 1:
            raise InputError(
                f"The label column {self.columns.label!r} holds {values[0].dtype} in one data set and "
                f"{values[-1].dtype} in the other, so labels cannot be compared; cast them to one type."
            )
        codes = np.unique(np.concatenate(values), return_inverse=True)[1].astype(np.int64)
        return np.split(codes, np.cumsum([len(column) for column in values])[:-1])

    def multi_labels(self, *sides: Features) -> list[NDArray[np.bool_]]:
        """Of labels that are lists: (N, K) bool for each side, the classes being those of any side."""
        assert self.columns.label is not None
        lists = [side.columns[self.columns.label] for side in sides]
        for side, column in zip(sides, lists, strict=True):
            check_label_lists(self.columns.label, self.subject.split if side is self.test else "training", column)
        shown = [label for column in lists for entry in column for label in entry]
        if not shown:
            raise InputError(f"The lists in column {self.columns.label!r} are all empty; name a column with labels.")
        classes = np.unique(shown)
        return [np.stack([np.isin(classes, np.asarray(entry)) for entry in column]) for column in lists]

    def has_label_lists(self) -> bool:
        """Whether an image may have several labels."""
        assert self.columns.label is not None
        return any(isinstance(value, list) for value in self.test.columns[self.columns.label])

    def settings_of_data(self) -> dict[str, Any]:
        """What every result says of the data and the interval."""
        own: dict[str, Any] = {"seed": self.settings.seed, "num_resamples": self.settings.num_resamples}
        skipped = len(self.test.skipped) + (len(self.train.skipped) if self.train else 0)
        return own | ({"group": self.columns.group} if self.columns.group else {}) | {"bad_images": skipped}

    def settings_of_training(self, num_labels: int) -> dict[str, Any]:
        """What a result says where labels were learned from a training set."""
        assert self.train is not None
        own = {"label": self.columns.label, "num_labels": num_labels, **self.settings_of_data()}
        own |= {"train_split": self.train_split, "train_images": len(self.train)}
        if self.columns.group is not None:
            both = np.intersect1d(self.train.columns[self.columns.group], self.test.columns[self.columns.group])
            own["groups_in_both"] = len(both)  # 0 says that no concept that is scored was trained on
        return own

    def results(self, finding: Finding) -> list[EvaluationResult]:
        """The number with its interval; then, for each slice column, each slice, the worst, and the gap.

        The interval of a slice is its own. Those of the worst and of the gap follow from intervals of the K slices
        that hold together (each at 1 - 0.05 / K, Bonferroni), because the least of several noisy scores lies below
        the least of the true ones, and their spread above the true one: a bootstrap of either repeats that.
        """
        if finding.episodes:
            assert isinstance(finding.statistic, MeanScore)
            each = finding.statistic.scores
            ends = seed_interval([float(value) for value in each])
            return [self._result(finding, each.mean(), ends, len(each), drawn=each)]
        parts = self._slices(finding)
        masks = [mask for slices in parts.values() for mask in slices.values()]

        def whole_and_parts(weights: Weights) -> NDArray[np.float64]:
            scores = [finding.statistic(weights), *(finding.statistic(weights * mask) for mask in masks)]
            return np.stack(scores, axis=1)

        drawn = bootstrap_values(
            whole_and_parts,
            finding.count,
            finding.groups,
            num_resamples=self.settings.num_resamples,
            seed=self.settings.seed,
        )
        exact = whole_and_parts(np.ones((1, finding.count)))[0]
        results = [self._result(finding, exact[0], percentile_interval(drawn[:, 0]), finding.count, drawn=drawn[:, 0])]
        place = 1
        for column, slices in parts.items():
            own = range(place, place + len(slices))
            place += len(slices)
            counts = {name: int(mask.sum()) for name, mask in slices.items()}
            known = [(index, name) for index, name in zip(own, slices, strict=True) if np.isfinite(exact[index])]
            for index, name in known:
                extra: dict[str, Any] = {"slice_column": column, "slice": name}
                ends = percentile_interval(drawn[:, index])
                results.append(self._result(finding, exact[index], ends, counts[name], f"{column} = {name}", extra))
            if len(known) < 2:
                continue
            scores = exact[[index for index, _ in known]]
            lows, highs = np.transpose(
                [percentile_interval(drawn[:, index], confidence=1 - 0.05 / len(known)) for index, _ in known]
            )
            worst = known[int(scores.argmin())][1]
            extra = {"slice_column": column, "worst": worst, "slice_counts": counts}
            ends = (lows.min(), highs.min())
            results.append(self._result(finding, scores.min(), ends, counts[worst], f"worst {column}", extra))
            ends = (max(0.0, lows.max() - highs.min()), highs.max() - lows.min())
            results.append(self._result(finding, np.ptp(scores), ends, finding.count, f"gap over {column}", extra))
        return results

    def _slices(self, finding: Finding) -> dict[str, dict[str, NDArray[np.bool_]]]:
        """Slice column -> value -> which items have it, (count,)."""
        parts: dict[str, dict[str, NDArray[np.bool_]]] = {}
        for column in self.columns.slices if finding.rows is not None else ():
            values = np.asarray(["missing" if value is None else str(value) for value in self.test.columns[column]])
            own = values[finding.rows]
            parts[column] = {str(name): own == name for name in np.unique(own)}
        return parts

    def _result(
        self,
        finding: Finding,
        value: float,
        ends: tuple[float, float],
        count: int,
        part: str = "",
        extra: Mapping[str, Any] | None = None,
        drawn: NDArray[np.float64] | None = None,
    ) -> EvaluationResult:
        low, high = map(float, ends)
        interval = BOOTSTRAP if finding.groups is None else CLUSTER_BOOTSTRAP
        if finding.rows is None:
            interval = OVER_EPISODES if finding.episodes else TEXT_BOOTSTRAP
        return EvaluationResult(
            protocol=finding.protocol,
            metric=finding.metric,
            value=float(value),
            low=low,
            high=high,
            interval=interval,
            n=count,
            chance=None if part else finding.chance,
            settings={**finding.settings, **(extra or {})},
            variant=", ".join(name for name in (finding.variant, part) if name),
            drawn=drawn,
            **vars(self.subject),
        )


def check_label_lists(column: str, split: str, labels: NDArray[Any]) -> None:
    """Refuse labels (N,) that are not all lists, or lists in which a label is missing."""
    wrong = sum(not isinstance(entry, list) or None in entry for entry in labels)
    if wrong:
        raise InputError(
            f"{wrong} of {len(labels)} entries in the label column {column!r} of split {split!r} are not lists of "
            "labels (null, one label without a list, or null in a list), and others are; make all of them lists."
        )


def check_label_values(column: str, split: str, labels: NDArray[Any]) -> None:
    """Refuse labels (N,) that are not integers or strings, or of which some are missing."""
    if labels.dtype.kind == "O" and any(isinstance(label, list) for label in labels):
        raise InputError(
            f"The label column {column!r} of split {split!r} holds several labels an image, and this protocol gives "
            "one answer; use linear_probe with the metric 11_point_map."
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iubUO":
        raise InputError(
            f"The label column {column!r} of split {split!r} holds {labels.dtype} of shape {labels.shape}; name a "
            "column with one integer or string for each image."
        )
    # an object array comes from a column with nulls; -1 is how the Hub marks the hidden labels of a test split
    missing = (
        sum(label is None for label in labels)
        if labels.dtype.kind == "O"
        else int((labels == -1).sum())
        if labels.dtype.kind in "iu"
        else 0
    )
    if missing:
        raise InputError(
            f"{missing} of {len(labels)} labels in column {column!r} of split {split!r} are missing (null or -1); "
            "filter those rows out or name a labelled split."
        )
