"""The protocols by name: what each needs, and what tables, reports and cards say of it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .settings import Columns

if TYPE_CHECKING:
    from .scoring import Finding, Scoring

_FROZEN = ("image-classification", "Image classification (frozen features)")
_IMAGE_RETRIEVAL = ("image-feature-extraction", "Image retrieval")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A protocol.

    Attributes:
        name: what users and results call it.
        title: what tables call it.
        note: what a report explains, Markdown.
        task: the Hub's task, and its name in a model index.
        columns: fields of `Columns` that it needs.
        function: module and function of this package that make findings of features.
        trains: whether it needs a training set.
        texts: whether it needs a dual encoder.
    """

    name: str
    title: str
    note: str
    task: tuple[str, str]
    columns: tuple[str, ...]
    function: str
    trains: bool = False
    texts: bool = False

    def run(self, scoring: Scoring) -> list[Finding]:
        """What it finds in features."""
        module, _, function = self.function.partition(".")
        findings: list[Finding] = getattr(importlib.import_module(f".{module}", __package__), function)(scoring)
        return findings


_ALL = (
    Measure(
        name="knn",
        title="kNN",
        note="the most similar training images (cosine) vote for their label with weight exp(similarity / "
        "temperature), as in DINO; nothing is trained.",
        task=_FROZEN,
        columns=("label",),
        function="measures.knn",
        trains=True,
    ),
    Measure(
        name="linear_probe",
        title="linear probe",
        note="logistic regression on frozen, standardised features. C is chosen on a part held out of the training "
        "set, the regression refitted on all of it, the test set scored once.",
        task=_FROZEN,
        columns=("label",),
        function="measures.linear_probe",
        trains=True,
    ),
    Measure(
        name="linear_probe_sgd",
        title="linear probe (SGD)",
        note="the release's linear heads, trained by SGD on frozen features at ten learning rates. The rate is chosen "
        "on a part held out of the training set.",
        task=_FROZEN,
        columns=("label",),
        function="measures.linear_probe_sgd",
        trains=True,
    ),
    Measure(
        name="linear_probe_sgd_optimistic",
        title="linear probe (SGD, chosen on the test set)",
        note="the same heads, and the maximum over them and over checkpoints on the very images that are reported, as "
        "in the release. Optimistic: it says something only beside the release's own tables.",
        task=_FROZEN,
        columns=("label",),
        function="measures.linear_probe_sgd_optimistic",
        trains=True,
    ),
    Measure(
        name="few_shot",
        title="few-shot",
        note="in each episode a few images of a few classes are labelled, and others get the class whose mean feature "
        "is nearest.",
        task=("image-classification", "Few-shot image classification (frozen features)"),
        columns=("label",),
        function="measures.few_shot",
    ),
    Measure(
        name="zero_shot",
        title="zero-shot",
        note="sentences that name each class are embedded, normalised, averaged and normalised; an image gets the "
        "class it is most similar to.",
        task=("zero-shot-image-classification", "Zero-shot image classification"),
        columns=("label",),
        function="measures.zero_shot",
        texts=True,
    ),
    Measure(
        name="retrieval",
        title="cross-artist retrieval",
        note="each image ranks all images by other artists; a hit is the same concept among the first k. Images whose "
        "concept nobody else drew are left out.",
        task=_IMAGE_RETRIEVAL,
        columns=("group", "artist"),
        function="retrieval_measures.retrieval",
    ),
    Measure(
        name="text_retrieval",
        title="image-text retrieval",
        note="images rank all captions and captions all images; a hit is one of its own among the first k.",
        task=("image-feature-extraction", "Image-text retrieval"),
        columns=("caption",),
        function="retrieval_measures.text_retrieval",
        texts=True,
    ),
    Measure(
        name="sibling_retrieval",
        title="sibling retrieval",
        note="each image ranks all others; the mean over images of the average precision at which the other images of "
        "its caption come.",
        task=_IMAGE_RETRIEVAL,
        columns=("caption_id",),
        function="retrieval_measures.siblings",
    ),
    Measure(
        name="classification",
        title="classification",
        note="a trained classifier by its own logits; nothing is fitted.",
        task=("image-classification", "Image classification"),
        columns=("label",),
        function="classification.classification",
    ),
)
MEASURES = {measure.name: measure for measure in _ALL}
PROTOCOLS = tuple(MEASURES)


def default_protocols(columns: Columns, *, has_train: bool, has_texts: bool) -> tuple[str, ...]:
    """The protocols that are measured by default.

    Of labels kNN and the linear probe, without a training set few-shot and zero-shot; of groups and artists retrieval;
    and without any of these what captions allow.

    Args:
        columns: those of the data set.
        has_train: whether there is a training set.
        has_texts: whether the encoder knows texts.
    """
    chosen: Sequence[str] = ()
    if columns.label is not None:
        chosen = ("knn", "linear_probe") if has_train else ("few_shot", *(("zero_shot",) if has_texts else ()))
    if columns.group is not None and columns.artist is not None:
        chosen = (*chosen, "retrieval")
    if not chosen:
        chosen = (*(("text_retrieval",) if has_texts and columns.caption is not None else ()),)
        chosen = (*chosen, *(("sibling_retrieval",) if columns.caption_id is not None else ()))
    return tuple(chosen)
