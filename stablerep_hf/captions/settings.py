"""Settings of captions, apart from what reads and writes them, so that their help is there in no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..setting import setting

Allocation = Literal["uniform", "sqrt", "target"]


@dataclass(frozen=True, kw_only=True)
class WritingSettings:
    """How captions of class names are written. Lists are UTF-8 files with one entry a line."""

    classes: str | None = setting(None, "In place of a source: list of class names to write captions of.")
    per_class: int | None = setting(
        None, "Captions to write of each class; 16, or fewer if the templates give no more."
    )
    templates: str | None = setting(None, "List of sentences with {class} in them; four simple ones if not given.")
    backgrounds: str | None = setting(None, "List for {background} in templates; a short one ships.")
    relations: str | None = setting(None, "List for {relation} in templates; a short one ships.")
    language_model: str | None = setting(
        None,
        "Language model that writes in place of templates: Hub id or folder, or https://HOST/v1 (OpenAI's chat "
        "endpoint).",
    )
    language_model_revision: str | None = setting(None, "Branch, tag or commit of the language model.")
    served_model: str | None = setting(
        None, "What a server that writes calls the model; the only one that it serves if not given."
    )
    concurrency: int = setting(8, "Requests to a server at a time.")
    prompt: str | None = setting(
        None,
        "File with the text that the language model continues; {class} and the like are filled. Three kinds, with "
        "examples, if not given.",
    )

    def __post_init__(self) -> None:
        if self.language_model is None and self.prompt is not None:
            raise InputError(f"prompt={self.prompt} is what a language model continues: give `language_model` too.")
        if self.per_class is not None and self.per_class < 1:
            raise InputError(f"per_class={self.per_class} writes nothing: give 1 or more.")


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(WritingSettings):
    """How captions are read or written, cleaned, balanced and audited.

    The help of each field is that of the flag of `stablerep captions`. Lists are UTF-8 files with one entry a line.
    """

    column: str | None = setting(None, "Column of the captions, where the source has several text columns.")
    label_column: str | None = setting(None, "Column with a label of each caption, for the allocation.")
    split: str = setting("train", "Split to read, where the source is a data set.")

    repair: bool = setting(True, "Repair mojibake and HTML entities (ftfy).")
    min_words: int = setting(1, "Drop shorter captions.")
    max_words: int | None = setting(None, "Drop longer captions.")
    languages: list[str] | None = setting(None, "Keep captions in these languages (en, de ...); all if not given.")
    blocked_words: str = setting(
        "shipped", "Drop captions with a term of this list; 'shipped' is a short English list, 'none' no list."
    )
    keep_personal: bool = setting(False, "Keep captions with e-mail or web addresses, handles, phone or card numbers.")
    near_duplicates: float | None = setting(
        None,
        "Merge captions that share at least this part of their words and word pairs (4 kB of memory a caption); 0 "
        "merges equal captions only. 0.8, and 0 for captions that are written from class names.",
    )
    classifier: str | None = setting(None, "Text classifier (Hub id or folder) that finds unsafe captions.")
    classifier_labels: list[str] | None = setting(None, "Labels of the classifier that mean unsafe.")
    max_unsafe: float = setting(0.5, "Drop captions to which the classifier gives a higher score.")

    concepts: str | None = setting(None, "List of terms to balance by and to count; labels if not given.")
    cap: int | None = setting(None, "Most captions that a concept keeps (MetaCLIP).")
    keep_unmatched: bool = setting(False, "With --cap: keep captions without a concept.")
    allocation: Allocation | None = setting(None, "Give captions of rare concepts more images.")
    images_per_caption: int = setting(4, "With --allocation: the mean number of images (target: the least).")
    target: int | None = setting(None, "With --allocation target: images of each concept.")
    max_images: int | None = setting(None, "With --allocation: most images of one caption; 16 times the mean.")

    evaluation_sets: list[str] | None = setting(
        None,
        "Captions or class names of evaluation sets, to look for among the captions: files, or data sets, whose "
        "split is test unless named as in NAME:validation.",
    )
    drop_overlaps: bool = setting(False, "Drop captions that are (nearly) equal to one of an evaluation set.")
    seed: int = setting(0, "Seed of the balancing and of captions that are written.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.classifier is None) != (not self.classifier_labels):
            raise InputError(
                f"classifier={self.classifier} and classifier_labels={self.classifier_labels} go together, as the "
                "labels say what counts as unsafe: give both or neither."
            )
        if self.drop_overlaps and not self.evaluation_sets:
            raise InputError("`drop_overlaps` has nothing to compare the captions with: name `evaluation_sets`.")
