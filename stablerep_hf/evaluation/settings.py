"""What is measured and how, as plain values: nothing here imports torch, so the command line reads it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..setting import setting

METRICS = ("accuracy", "mean_per_class", "11_point_map")
DINO_NEIGHBOURS = (10, 20, 100, 200)
DEFAULT_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What results are about.

    Attributes:
        encoder: what they call the encoder; its own name if empty.
        dataset: id or name of the data set.
        revision: its commit or content digest; empty if unknown.
        split: the split that is scored.
        seeds: seeds of the training runs behind the encoder; empty if it came from elsewhere.
    """

    encoder: str = ""
    dataset: str = ""
    revision: str = ""
    split: str = "test"
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Columns:
    """What the columns of the data sets mean.

    Attributes:
        label: what kNN, the probes, few-shot and zero-shot predict; integers, strings, a ClassLabel, or, for the
            logistic regression and 11-point mAP, lists of these.
        group: the concept of an image: what cross-artist retrieval looks for, and what splits, episodes and the
            bootstrap keep together. Without it every image is a group of its own.
        artist: who drew an image; cross-artist retrieval finds images by others.
        caption: a text or several of each image, for image-text retrieval.
        caption_id: which images are siblings.
        image_id: rows of one id are one image with several captions; without it every row is an image.
        slices: columns whose values part the test images; every score is also given for each part.
    """

    label: str | None = None
    group: str | None = None
    artist: str | None = None
    caption: str | None = None
    caption_id: str | None = None
    image_id: str | None = None
    slices: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Columns | Mapping[str, Any] | None, features: Mapping[str, Any]) -> Columns:
        """Columns as they are given, a mapping's as its keys say, or else those that a data set has.

        Args:
            given: as `columns` of `evaluate_encoder`.
            features: of the data set. Its label is `label` or the only column of classes, its captions are `caption`
                or `text`, its siblings have one `caption_id` or else one caption.

        Raises:
            InputError: a mapping has a key that is not an attribute of this class.
        """
        if isinstance(given, Columns):
            return given
        if given is not None:
            known = [entry.name for entry in fields(cls)]
            if unknown := sorted(set(given) - set(known)):
                raise InputError(f"columns= has the key {unknown[0]!r}, and its keys are some of {', '.join(known)}.")
            return cls(**{**given, "slices": tuple(given.get("slices", ()))})
        classes = [name for name, kind in features.items() if hasattr(kind, "names") and hasattr(kind, "num_classes")]
        label = "label" if "label" in features else classes[0] if len(classes) == 1 else None
        caption = next((name for name in ("caption", "text") if name in features), None)
        siblings = "caption_id" if "caption_id" in features else None
        if siblings is None and caption is not None and getattr(features[caption], "dtype", "") == "string":
            siblings = caption
        return cls(label=label, caption=caption, caption_id=siblings)


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the protocols; each field's help says what it means.

    The defaults are those of the functions that the settings go to. `seed` changes no feature. `templates` may name a
    file with one sentence a line.
    """

    metric: str = setting(
        "accuracy",
        "Score of labels: accuracy; mean_per_class, the custom on Aircraft, Caltech-101, Flowers-102 and Pets; "
        "11_point_map, on VOC2007.",
    )
    knn_neighbours: list[int] | None = setting(
        None, "Values of k; 10 20 100 200 if not given, as far as there are images."
    )
    knn_temperature: float = setting(0.07, "Temperature of the votes of kNN.")
    probe_c_values: int = setting(45, "Regularisations that linear_probe tries, log-spaced over eleven decades.")
    probe_validation_fraction: float = setting(0.2, "Share of the training set that chooses a probe's settings.")
    sgd_epochs: int = setting(90, "Epochs of linear_probe_sgd.")
    sgd_augmentation: bool = setting(
        False, "Encode a new crop of each training image in each epoch, as the release did; the first process does."
    )
    few_shot_ways: int | None = setting(
        None, "Classes in an episode of few_shot; 5, or all where there are fewer, if not given."
    )
    few_shot_shots: int = setting(5, "Labelled images of each class in an episode.")
    few_shot_queries: int = setting(15, "Images of each class that an episode asks for.")
    few_shot_episodes: int = setting(600, "Number of few_shot episodes.")
    templates: list[str] = setting(
        list(DEFAULT_TEMPLATES), "Sentences for zero_shot with {} for the class, or a file with one a line."
    )
    recall_at: list[int] = setting([1, 5], "Ranks of retrieval.")
    text_recall_at: list[int] = setting([1, 5, 10], "Ranks of text_retrieval.")
    num_resamples: int = setting(1000, "Bootstrap samples of each interval.")
    seed: int = setting(0, "Seed of splits, episodes and the bootstrap.")

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InputError(f"There is no metric={self.metric!r} of labels; choose from {', '.join(METRICS)}.")
        for name in ("knn_neighbours", "recall_at", "text_recall_at"):
            numbers = getattr(self, name)
            if numbers is not None and min(numbers, default=0) < 1:
                raise InputError(f"{name}={list(numbers)} must be 1 or more, and at least one number.")
        if self.probe_c_values < 2:
            raise InputError(f"probe_c_values={self.probe_c_values} leaves nothing to choose from; give 2 or more.")
        if self.few_shot_episodes < 2:
            raise InputError(
                f"few_shot_episodes={self.few_shot_episodes} have no spread to make an interval from; give at least 2."
            )
        if self.seed < 0:
            raise InputError(f"seed={self.seed} is below 0, which no generator takes; give 0 or more.")
        only = Path(self.templates[0]) if len(self.templates) == 1 and "{}" not in self.templates[0] else None
        if only is not None and only.is_file():
            lines = [line for line in only.read_text("utf-8").splitlines() if line.strip()]
            object.__setattr__(self, "templates", lines)
        check_templates(self.templates)


def check_templates(templates: Any) -> None:
    """Refuse sentences that do not say where the class name goes, or have braces besides.

    Raises:
        InputError: a sentence has no place for the name, or another brace, or there are no sentences.
    """
    if not templates or any(
        template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")) for template in templates
    ):
        raise InputError(
            f"The templates {list(templates)} must each hold '{{}}' once, where the class name goes, and no other "
            f"brace; as in {DEFAULT_TEMPLATES[0]!r}."
        )
