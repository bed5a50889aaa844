"""`stablerep finetune`: an encoder and labelled images to a classifier, or adapters, or an encoder for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..assets import EMBEDDED
from ..errors import InputError

if TYPE_CHECKING:
    import datasets

    from ..evaluation import EvaluationResult
    from ..training import FineTuningArguments

RECORD = "finetuning.json"


ADAPTER = "adapter"


@dataclass
class FineTuneCommand:
    """Flags of `stablerep finetune`, after the encoder's name and beside those of `FineTuningArguments`."""

    data: str = field(default=EMBEDDED, metadata={"help": "Labelled images: a folder, a Hub id, or 'embedded'."})
    split: str = field(default="train", metadata={"help": "Split to learn from."})
    validation_split: str | None = field(
        default=None,
        metadata={"help": "Split measured while it trains, where --eval_strategy says; none if not given."},
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split measured once at the end; 'test' unless embedded, 'none' for none."}
    )
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with an integer or a string of each image, or a list of them; 'label' unless embedded."
        },
    )
    slice_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns for whose every value the test score is given too, with the worst and the gap."},
    )
    metric: str | None = field(
        default=None,
        metadata={"help": "accuracy or mean_per_class; 11_point_map where an image has several labels."},
    )
    shots: int | None = field(
        default=None,
        metadata={"help": "Learn from this many images of each class, drawn by the seed; all if not given."},
    )
    mode: Literal["full", "linear", "lora", "dora"] = field(
        default="full",
        metadata={"help": "Train everything, a classifier on the frozen encoder, or it and adapters (extra: lora)."},
    )
    rank: int = field(default=8, metadata={"help": "Rank of the adapters."})
    adapter_targets: Literal["attention", "all"] = field(
        default="attention",
        metadata={"help": "What gets adapters: queries and values, or every linear layer of the encoder."},
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "Hub id by which users of the adapters find the encoder; ENCODER if not given."},
    )
    output: str = field(default="classifier", metadata={"help": "Folder of the classifier; checkpoints go below it."})
    license: str = field(
        default="unknown", metadata={"help": "Licence of the weights, for their card: a Hub licence id."}
    )

    def __post_init__(self) -> None:
        embedded = self.data == EMBEDDED
        self.test_split = self.test_split or ("held_out_concepts" if embedded else "test")
        self.label_column = self.label_column or ("group" if embedded else "label")


def run(encoder: str, command: FineTuneCommand, arguments: FineTuningArguments) -> list[EvaluationResult]:
    """Fine-tune, go on with it, or find it finished.

    The folder then holds the classifier as a plain `ViTForImageClassification` (adapters merged into it), `adapter/`
    with the adapters by themselves, `checkpoints/`, `results.json`, a card, and the record `finetuning.json`.

    Returns:
        What the test split says; nothing without one.

    Raises:
        InputError: Encoder, data and flags do not fit together, or the folder holds another fine-tuning. A push that
            failed at the end is made up for by the same command, and a licence is changed by it.
    """
    from ..evaluation import load_results
    from .cards import check_license
    from .record import push_finished, read_record, settings_of, write_record

    output = Path(command.output)
    check_license(command.license)
    settings = {"encoder": encoder} | settings_of(command, arguments)
    record = read_record(output, RECORD, settings)
    if not record.get("finished"):
        record, results = _finetune(encoder, command, arguments, settings)
    else:
        results_file = output / "results.json"
        results = load_results(results_file) if results_file.exists() else []
        if record["settings"] != settings and arguments.process_index == 0:  # by another licence
            record = {**record, "settings": settings, "pushed": None}
            _write_cards(output, record, results)
            write_record(output / RECORD, record)
    adapter = output / ADAPTER
    push_finished(adapter if adapter.is_dir() else output, record, output / RECORD, arguments)
    return results


def _finetune(
    encoder: str, command: FineTuneCommand, arguments: FineTuningArguments, settings: dict[str, Any]
) -> tuple[dict[str, Any], list[EvaluationResult]]:
    """Train or go on, write what came of it, the record last."""
    import transformers

    from ..evaluation import EvaluationSettings, save_results
    from ..evaluation.classifier import CLASSES
    from ..extras import require
    from ..files.atomic import explaining
    from ..models import StableRepForImageClassification, export_classifier, load_vision_encoder
    from ..training import ClassifierProbe, FineTuningTrainer, lora_config, save_adapter
    from ..training.fine_tuning import classes_of, targets_of
    from . import cards
    from .content import reading
    from .record import device_name, identity_of, making_trainer, peak_memory, train_to_end, write_record

    if command.mode in ("lora", "dora"):
        require(f"--mode {command.mode}", "lora", "peft")
    output = Path(command.output)
    train = _images(command, command.split)
    label = str(command.label_column)
    if command.shots is not None:
        train = _few(train, label, command.shots, arguments.seed)
    test = None if command.test_split == "none" else _images(command, str(command.test_split))
    validation = None if command.validation_split is None else _images(command, command.validation_split)
    if (validation is None) != (arguments.eval_strategy == "no"):
        raise InputError(
            "--validation_split says what is measured while it trains and --eval_strategy (steps or epoch) when: give "
            "both, or neither."
        )
    classes, several = classes_of(train, label)
    metric = command.metric or ("11_point_map" if several else "accuracy")
    transformers.set_seed(arguments.seed)
    try:
        backbone = load_vision_encoder(encoder)
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    classifier = StableRepForImageClassification.from_encoder(backbone, classes, multi_label=several)
    model: Any = classifier
    if command.mode == "linear":
        classifier.vision_model.requires_grad_(False)
    elif command.mode != "full":
        from peft import get_peft_model

        dora = command.mode == "dora"
        config = lora_config(classifier, rank=command.rank, targets=command.adapter_targets, dora=dora)
        model = get_peft_model(classifier, config)
    probe = None if validation is None else ClassifierProbe(validation, label, metric)
    # found now, not after the training
    if (EvaluationSettings(metric=metric).metric == "11_point_map") != several:
        raise InputError(
            f"--metric {metric} does not go with {'several labels' if several else 'one label'} an image: use "
            "11_point_map where an image has several, and accuracy or mean_per_class where it has one."
        )
    for measured in (test, validation):
        if measured is not None:
            targets_of(measured, label, classes)
    for column in command.slice_columns:
        if test is not None and column not in test.column_names:
            raise InputError(
                f"--slice_columns names {column!r}, and the test images have the columns {test.column_names}: name "
                "some of those."
            )
    with making_trainer(output, command.data):
        trainer = FineTuningTrainer(model, arguments, train, label, probe=probe)
    data = asdict(cards.training_data(command.data, train, trainer.train_dataset))
    trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())

    def told(seconds: float | None = None) -> dict[str, Any]:
        return {
            "settings": settings,
            "finished": False,
            "classes": classes,
            "steps": trainer.state.global_step,
            "trained_parameters": trained_parameters,
            "parameters": parameters,
            "peak_memory": peak_memory(arguments),
            "seconds": seconds,
            "processes": arguments.world_size,
            "device": device_name(arguments),
            "data": data,
            "energy": cards.estimated_energy(str(arguments.output_dir)),
            "versions": cards.training_versions(),
            "bad_images": trainer.seen.skipped,
            "log": trainer.state.log_history,
        }

    base = None if model is classifier else command.base_model or encoder
    trainer.identity = identity_of(settings)
    trainer.describe = lambda folder: cards.classifier_facts(folder, told(), output.resolve().name, base=base)
    with explaining(output), reading(command.data):
        record = told(train_to_end(trainer, output / RECORD, settings)) | {"finished": True}
        if trainer.average is not None:
            trainer.average.load_into(model)
        whole: Any = trainer.whole_model()
        results: list[EvaluationResult] = []
        if trainer.is_world_process_zero():
            if base is not None:
                save_adapter(whole, output / ADAPTER, base)
                write_record(output / ADAPTER / CLASSES, classes)
                whole = whole.merge_and_unload()
            export_classifier(whole, output)
            if test is not None:
                results = _score(output, command, metric, test, arguments)
                save_results(output / "results.json", results)
            _write_cards(output, record, results)
            write_record(output / RECORD, record)
    return record, results


def _write_cards(output: Path, record: dict[str, Any], results: Sequence[EvaluationResult]) -> None:
    from . import cards

    cards.write_classifier_card(output, record, results)
    if (output / ADAPTER).is_dir():
        settings = record["settings"]
        base = settings["base_model"] or settings["encoder"]
        cards.write_classifier_card(output / ADAPTER, record, results, base=base)


def _images(command: FineTuneCommand, split: str) -> datasets.Dataset:
    from .. import assets
    from .content import load_images

    source = str(assets.pictograms_path()) if command.data == EMBEDDED else command.data
    dataset = load_images(source, split)
    if command.image_column not in dataset.column_names:
        raise InputError(
            f"--data {command.data} has the columns {dataset.column_names} but no {command.image_column!r}: name its "
            "pictures with --image_column."
        )
    return dataset if command.image_column == "image" else dataset.rename_column(command.image_column, "image")


def _few(dataset: datasets.Dataset, column: str, shots: int, seed: int) -> datasets.Dataset:
    """`shots` images of each class.

    Raises:
        InputError: That is none, a class has fewer, or an image has several classes.
    """
    import numpy as np

    from ..training.fine_tuning import classes_of

    if shots < 1:
        raise InputError(f"--shots {shots} leaves nothing to learn from: give at least 1.")
    if classes_of(dataset, column)[1]:
        raise InputError("--shots draws images of a class, and here an image has several: leave it out.")
    labels = np.asarray(dataset.with_format(None)[column][:])
    classes, counts = np.unique(labels, return_counts=True)
    if shots > counts.min():
        raise InputError(
            f"--shots {shots} asks for more images than the class {classes[counts.argmin()].item()!r} has, "
            f"{counts.min()}: give at most so many, or leave it out to learn from all."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    rows = [order[labels[order] == label][:shots] for label in classes]
    return dataset.select(np.sort(np.concatenate(rows)))


def _score(
    folder: Path, command: FineTuneCommand, metric: str, test: datasets.Dataset, arguments: FineTuningArguments
) -> list[EvaluationResult]:
    """Measure what was written, not what is in memory."""
    from .. import assets
    from ..evaluation import Columns, EvaluationSettings, Subject, evaluate_encoder, load_classifier
    from .content import content_revision

    embedded = command.data == EMBEDDED
    source = str(assets.pictograms_path()) if embedded else command.data
    return evaluate_encoder(
        load_classifier(folder),
        None,
        test,
        columns=Columns(
            label=command.label_column,
            group="concept" if embedded else None,  # drawings of one concept are not independent of each other
            slices=tuple(command.slice_columns),
        ),
        protocols=("classification",),
        subject=Subject(
            dataset="embedded pictograms" if embedded else command.data,
            revision=content_revision(source, test),
            split=str(command.test_split),
            seeds=(arguments.seed,),
        ),
        settings=EvaluationSettings(metric=metric),
        max_bad_images=arguments.max_bad_images,
    )
