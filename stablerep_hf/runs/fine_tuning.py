"""Fine-tuning as a run: an encoder and labelled images to a classifier, or to adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..assets import EMBEDDED
from ..errors import InputError
from ..progress import say
from ..setting import setting
from .data import check_data, find_data
from .image_run import ADAPTER, ImageTrainingRun
from .record import FINE_TUNING, settings_of, write_record

if TYPE_CHECKING:
    import datasets

    from ..evaluation import EvaluationResult, Subject
    from ..hub import ModelFacts
    from ..training import FineTuningArguments

RESULTS = "results.json"


@dataclass
class FineTuningSettings:
    """What a fine-tuning run trains, and on what; `FineTuningArguments` say how."""

    data: str = setting(EMBEDDED, "Labelled images: a folder, a Hub id, or 'embedded'.")
    split: str = setting("train", "Split to learn from.")
    validation_split: str | None = setting(
        None, "Split measured while it trains, where --eval_strategy says; none if not given."
    )
    test_split: str | None = setting(
        None,
        "Split measured once at the end, 'none' for none; 'test' if not given, and where there is none a fifth of the "
        "split to learn from, held out class by class, the one that `stablerep evaluate` scores.",
    )
    image_column: str = setting("image", "Column of the images.")
    label_column: str | None = setting(
        None, "Column with an integer or a string of each image, or a list of them; 'label' unless embedded."
    )
    slice_columns: list[str] = setting(
        [], "Columns for whose every value the test score is given too, with the worst and the gap."
    )
    metric: str | None = setting(None, "accuracy or mean_per_class; 11_point_map where an image has several labels.")
    shots: int | None = setting(
        None, "Learn from this many images of each class, drawn by the seed; all if not given."
    )
    mode: Literal["full", "linear", "lora", "dora"] = setting(
        "full", "Train everything, a classifier on the frozen encoder, or it and adapters (extra: lora)."
    )
    rank: int = setting(8, "Rank of the adapters.")
    adapter_targets: Literal["attention", "all"] = setting(
        "attention", "What gets adapters: queries and values, or every linear layer of the encoder."
    )
    base_model: str | None = setting(
        None, "Hub id by which users of the adapters find the encoder; ENCODER if not given."
    )
    license: str = setting("unknown", "Licence of the weights, for their card: a Hub licence id.")

    def __post_init__(self) -> None:
        if self.data == EMBEDDED:
            self.test_split = self.test_split or "held_out_concepts"
        self.label_column = self.label_column or ("group" if self.data == EMBEDDED else "label")

    def check(self) -> None:
        """Refuse data that is not there, before anything that takes seconds is imported.

        Raises:
            InputError: It is not there, is damaged or lacks a split.
        """
        splits = [self.split, *([self.test_split] if self.test_split not in (None, "none") else [])]
        check_data(self.data, *map(str, splits), *([self.validation_split] if self.validation_split else []))


class FineTuningRun(ImageTrainingRun):
    """A fine-tuning run, as `stablerep finetune` starts it.

    The finished folder holds the classifier as a plain `ViTForImageClassification` (adapters merged into it),
    `adapter/` with the adapters by themselves, `checkpoints/`, `results.json`, a card, and the record
    `finetuning.json`.

    Args:
        encoder: Folder or Hub id of the encoder, 'embedded' or 'embedded-stablerep'.
        output: Folder of the run.
        settings: What is trained on what.
        arguments: Arguments of the trainer.

    Attributes:
        results: Scores on the test split of a finished run; empty without a test split.
    """

    RECORD = FINE_TUNING
    settings: FineTuningSettings
    arguments: FineTuningArguments

    def __init__(
        self, encoder: str, output: str | Path, settings: FineTuningSettings, arguments: FineTuningArguments
    ) -> None:
        from .. import assets

        self.encoder = assets.find_encoder(encoder)  # adapters name a path that can be loaded
        super().__init__(output, settings, arguments)

    def _asked(self) -> dict[str, Any]:
        return {"encoder": self.encoder} | settings_of(self.settings, self.arguments)

    @property
    def results(self) -> list[EvaluationResult]:
        """Scores on the test split; empty until the run has finished, and without a test split."""
        from ..evaluation import load_results

        file = self.output / RESULTS
        return load_results(file) if self.record.get("finished") and file.exists() else []

    def prepare(self) -> None:
        """Load the data, make the model and the trainer; nothing is written.

        Raises:
            InputError: Encoder, settings, arguments and data do not fit together, or the disk has no room for the run.
        """
        from ..evaluation import EvaluationSettings
        from ..extras import require
        from ..training import ClassifierProbe, FineTuningTrainer
        from ..training.fine_tuning import classes_of, targets_of

        settings = self.settings
        if settings.mode in ("lora", "dora"):
            require(f"mode={settings.mode}", "lora", "peft")
        train = _images(settings, settings.split)
        label = str(settings.label_column)
        train, self._test, self._subject = _test_side(settings, train, self.arguments.seed)
        if settings.shots is not None:
            train = _few(train, label, settings.shots, self.arguments.seed)
        validation = None if settings.validation_split is None else _images(settings, settings.validation_split)
        if (validation is None) != (self.arguments.eval_strategy == "no"):
            raise InputError(
                "`validation_split` says what is measured while it trains and `eval_strategy` (steps or epoch) when: "
                "give both, or neither."
            )
        self._classes, several = classes_of(train, label)
        self._metric = settings.metric or ("11_point_map" if several else "accuracy")
        model = self._build_model(several)
        probe = None if validation is None else ClassifierProbe(validation, label, self._metric)
        # found now, not after the training
        if (EvaluationSettings(metric=self._metric).metric == "11_point_map") != several:
            raise InputError(
                f"metric={self._metric} does not go with {'several labels' if several else 'one label'} an image: use "
                "11_point_map where an image has several, and accuracy or mean_per_class where it has one."
            )
        for measured in (self._test, validation):
            if measured is not None:
                targets_of(measured, label, self._classes)
        for column in settings.slice_columns:
            if self._test is not None and column not in self._test.column_names:
                raise InputError(
                    f"`slice_columns` names {column!r}, and the test images have the columns "
                    f"{self._test.column_names}: name some of those."
                )
        with self._making():
            trainer = FineTuningTrainer(model, self.arguments, train, label, probe=probe)
        self._made(trainer, train)

    def _build_model(self, several: bool) -> Any:
        import torch
        import transformers

        from ..models import StableRepForImageClassification, load_backbone
        from ..training import lora_config

        settings = self.settings
        transformers.set_seed(self.arguments.seed)
        try:
            backbone, mean, std = load_backbone(self.encoder, dtype=torch.float32)
            model = StableRepForImageClassification.from_encoder(
                backbone, self._classes, multi_label=several, image_mean=mean, image_std=std
            )
        except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
            raise InputError(str(error)) from error
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        if settings.mode == "linear":
            model.vision_model.requires_grad_(False)
        elif settings.mode != "full":
            from peft import get_peft_model

            dora = settings.mode == "dora"
            config = lora_config(model, rank=settings.rank, adapter_targets=settings.adapter_targets, dora=dora)
            return get_peft_model(model, config)
        return model

    def describe(self) -> dict[str, Any]:
        """What the record says of the run as it is now."""
        from .cards import peak_memory

        return super().describe() | {
            "classes": self._classes,
            "trained_parameters": sum(p.numel() for p in self.trainer.model.parameters() if p.requires_grad),
            "parameters": self._parameters,
            "peak_memory": peak_memory(self.arguments),
        }

    def export(self, model: Any) -> None:
        """Write the classifier, the adapters by themselves if there are any, and the scores of the test split."""
        from ..evaluation import save_results
        from ..evaluation.adapters import CLASSES
        from ..models import export_classifier
        from ..training import save_adapter

        if (base := self._base) is not None:
            save_adapter(model, self.output / ADAPTER, base)
            write_record(self.output / ADAPTER / CLASSES, self._classes)
            model = model.merge_and_unload()
        export_classifier(model, self.output)
        if self._test is not None:
            save_results(self.output / RESULTS, self._score(self._test))

    def write_cards(self) -> None:
        """Write the cards of the classifier and of its adapters."""
        from .cards import write_classifier_card

        write_classifier_card(self.output, self.record, self.results)
        if (base := self._base) is not None:
            write_classifier_card(self.output / ADAPTER, self.record, self.results, base=base)

    @property
    def published(self) -> Path:
        """The adapters if there are any, else the classifier."""
        return self.output if self._base is None else self.output / ADAPTER

    def facts(self, folder: Path) -> ModelFacts:
        """What the card says of the model in a folder while it trains."""
        from .cards import classifier_facts

        return classifier_facts(folder, self.describe(), self.output.resolve().name, base=self._base)

    @property
    def _base(self) -> str | None:
        """What adapters are trained on; None without adapters."""
        return (self.settings.base_model or self.encoder) if self.settings.mode in ("lora", "dora") else None

    def _score(self, test: datasets.Dataset) -> list[EvaluationResult]:
        """Measure what was written, not what is in memory."""
        from ..evaluation import Columns, EvaluationSettings, evaluate_encoder, load_classifier

        settings = self.settings
        embedded = settings.data == EMBEDDED
        return evaluate_encoder(
            load_classifier(self.output),
            None,
            test,
            columns=Columns(
                label=settings.label_column,
                group="concept" if embedded else None,  # drawings of one concept are not independent of each other
                slices=tuple(settings.slice_columns),
            ),
            protocols=("classification",),
            subject=self._subject,
            settings=EvaluationSettings(metric=self._metric),
            max_bad_images=self.arguments.max_bad_images,
        )


def _images(settings: FineTuningSettings, split: str) -> datasets.Dataset:
    from ..evaluation.images import load_images

    dataset = load_images(find_data(settings.data), split)
    if settings.image_column not in dataset.column_names:
        raise InputError(
            f"data={settings.data} has the columns {dataset.column_names} but no {settings.image_column!r}: name its "
            "images with `image_column`."
        )
    return dataset if settings.image_column == "image" else dataset.rename_column(settings.image_column, "image")


def _test_side(
    settings: FineTuningSettings, train: datasets.Dataset, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None, Subject]:
    """What may be learned from, what is measured at the end, and what results say of that."""
    from ..evaluation import Subject
    from ..evaluation.hold_out import hold_out
    from ..evaluation.images import image_splits
    from .content import content_revision

    def subject(measured: datasets.Dataset, split: str) -> Subject:
        return Subject(
            dataset="embedded pictograms" if settings.data == EMBEDDED else settings.data,
            revision=content_revision(find_data(settings.data), measured),
            split=split,
            seeds=(seed,),
        )

    split = settings.test_split
    if split == "none":
        return train, None, Subject()
    if split is None and "test" not in image_splits(find_data(settings.data)):
        label = settings.label_column if settings.label_column in train.column_names else None
        # The rows that `evaluate` scores, whatever the seed of the training, and named as it names them.
        of_results = subject(train, f"a fifth of {settings.split} (seed 0)")
        train, test = hold_out(train, label, seed=0)
        say(f"{settings.data}: {len(train):,} images to learn from, {len(test):,} to score, {of_results.split}")
        return train, test, of_results
    test = _images(settings, split or "test")
    return train, test, subject(test, split or "test")


def _few(dataset: datasets.Dataset, column: str, shots: int, seed: int) -> datasets.Dataset:
    """`shots` images of each class.

    Raises:
        InputError: That is none, a class has fewer, or an image has several classes.
    """
    import numpy as np

    from ..training.fine_tuning import classes_of

    if shots < 1:
        raise InputError(f"shots={shots} leaves nothing to learn from: give at least 1.")
    if classes_of(dataset, column)[1]:
        raise InputError("`shots` draws images of a class, and here an image has several: leave it out.")
    labels = np.asarray(dataset.with_format(None)[column][:])
    classes, counts = np.unique(labels, return_counts=True)
    if shots > counts.min():
        raise InputError(
            f"shots={shots} asks for more images than the class {classes[counts.argmin()].item()!r} has, "
            f"{counts.min()}: give at most so many, or leave it out to learn from all."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    rows = [order[labels[order] == label][:shots] for label in classes]
    return dataset.select(np.sort(np.concatenate(rows)))
