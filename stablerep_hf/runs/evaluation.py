"""`stablerep evaluate`: any encoder, measured on images with labels, captions, or the hands that drew them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import EMBEDDED
from ..errors import InputError

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult, VisionEncoder

NO_CACHE = "none"


@dataclass
class EvaluateCommand:
    """Flags of `stablerep evaluate`, beside the encoder's name."""

    data: str = field(default=EMBEDDED, metadata={"help": "Images: a folder, a Hub id, or 'embedded' (pictograms)."})
    subset: str | None = field(default=None, metadata={"help": "Configuration of a data set that has several."})
    protocols: list[str] | None = field(
        default=None,
        metadata={
            "help": "Some of knn, linear_probe, linear_probe_sgd, linear_probe_sgd_optimistic, few_shot, zero_shot "
            "(all of labels), classification (a fine-tuned classifier by itself), retrieval and retrieval_displaced "
            "(of groups and artists), text_retrieval (of captions), sibling_retrieval (of caption ids); knn, "
            "linear_probe and, if its columns are named, retrieval, if not given."
        },
    )
    train_split: str = field(
        default="train", metadata={"help": "Split that is the bank of kNN and the training set of the probes."}
    )
    validation_split: str | None = field(
        default=None, metadata={"help": "Chooses linear_probe's C; a fifth of the training set if not given."}
    )
    split: str | None = field(default=None, metadata={"help": "Split that is scored; 'test' unless embedded."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    label_column: str | None = field(default=None, metadata={"help": "Column to predict; 'label' unless embedded."})
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of groups: images that are not independent of each other, and what retrieval looks for."
        },
    )
    artist_column: str | None = field(
        default=None, metadata={"help": "Column of artists: retrieval finds images by other artists only."}
    )
    caption_column: str = field(default="caption", metadata={"help": "Column with a text or several of each image."})
    caption_id_column: str = field(
        default="caption_id", metadata={"help": "Column that tells which images are siblings."}
    )
    image_id_column: str | None = field(
        default=None,
        metadata={"help": "Column of image ids: rows of one id are one image; every row is one if not given."},
    )
    slice_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Columns for whose every value each score is given too, with the worst and the gap."},
    )
    metric: str = field(
        default="accuracy",
        metadata={
            "help": "Score of labels: accuracy; mean_per_class, the custom on Aircraft, Caltech-101, Flowers-102 and "
            "Pets; 11_point_map, on VOC2007."
        },
    )
    knn_neighbours: list[int] | None = field(
        default=None, metadata={"help": "Values of k; 10 20 100 200 if not given, as far as there are images."}
    )
    probe_c_values: int = field(
        default=45, metadata={"help": "Regularisations that linear_probe tries, log-spaced over eleven decades."}
    )
    sgd_epochs: int = field(default=90, metadata={"help": "Epochs of linear_probe_sgd."})
    sgd_augmentation: bool = field(
        default=False, metadata={"help": "Encode a new crop of each training image in each epoch, as the release did."}
    )
    few_shot_ways: int = field(default=5, metadata={"help": "Classes in an episode of few_shot."})
    few_shot_shots: int = field(default=5, metadata={"help": "Labelled images of each class in an episode."})
    few_shot_episodes: int = field(default=600, metadata={"help": "Number of few_shot episodes."})
    templates: list[str] | None = field(
        default=None, metadata={"help": "Sentences for zero_shot with {} for the class, or a file with one a line."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of an encoder on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the encoder."})
    output: str | None = field(default=None, metadata={"help": "File of the results; none is written if not given."})
    cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps features, so that a killed run goes on; a folder in HF_HOME if not given, "
            f"'{NO_CACHE}' for none."
        },
    )
    batch_size: int = field(default=128, metadata={"help": "Images in a forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    device: str | None = field(default=None, metadata={"help": "cuda, mps, cpu; the fastest there is if not given."})
    max_bad_images: int = field(default=0, metadata={"help": "Images that may fail to decode before the run stops."})
    seed: int = field(default=0, metadata={"help": "Seed of splits, episodes, displacements and the bootstrap."})

    def __post_init__(self) -> None:
        if self.data == EMBEDDED:
            self.split = self.split or "held_out_concepts"
            self.label_column = self.label_column or "group"
            self.group_column = self.group_column or "concept"
            self.artist_column = self.artist_column or "artist"
        self.split = self.split or "test"
        self.label_column = self.label_column or "label"
        if self.protocols is None:
            retrieval = ["retrieval"] if self.group_column and self.artist_column else []
            self.protocols = ["knn", "linear_probe", *retrieval]


def run(
    encoder: str | Path | VisionEncoder,
    command: EvaluateCommand,
    *,
    name: str | None = None,
    seeds: Sequence[int] = (),
) -> list[EvaluationResult]:
    """Measure an encoder by the chosen protocols.

    Args:
        encoder: Folder or Hub id, or an encoder that is loaded.
        command: What to measure on.
        name: What the results call it; its folder's name if not given.
        seeds: Of the training behind it.

    Returns:
        The results, which also stand in `command.output` if given.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit.
    """
    import numpy as np

    from .. import assets
    from ..evaluation import (
        MEASURES,
        Columns,
        EvaluationSettings,
        evaluate_encoder,
        load_classifier,
        load_encoder,
        save_results,
    )
    from ..evaluation.feature_cache import default_cache_dir
    from ..files.places import check_place
    from ..hub.model_card import weights_sha256
    from ..models import StableRepModel  # noqa: F401  # importing it makes the pre-training model known to transformers
    from .content import content_revision, load_images

    cache = command.cache if command.cache is not None else str(default_cache_dir())
    if command.output is not None:
        check_place("--output", command.output, is_file=True)
    if cache != NO_CACHE:
        check_place("--cache", cache)
    source = assets.pictograms_path() if command.data == EMBEDDED else command.data
    assert command.split is not None and command.protocols is not None  # filled in when the command was made
    if command.probe_c_values < 2:
        raise InputError(f"--probe_c_values {command.probe_c_values} leaves nothing to choose from; give 2 or more.")
    trains = any(MEASURES[name].trains for name in command.protocols if name in MEASURES)
    splits = [command.train_split, *([command.validation_split] if command.validation_split else []), command.split]
    if trains and len(set(splits)) < len(splits):
        raise InputError(
            f"The splits of training, validation and test are {', '.join(splits)}, and a score on images that were "
            "fitted to or chosen on says nothing; name another split for each."
        )
    train = load_images(source, command.train_split, command.subset) if trains else None
    validation = None
    if trains and command.validation_split is not None:
        validation = load_images(source, command.validation_split, command.subset)
    test = load_images(source, command.split, command.subset)
    classifies = "classification" in command.protocols
    if classifies and len(command.protocols) > 1:
        raise InputError(
            "The protocol 'classification' scores a classifier's logits and the others an encoder's features: measure "
            "them in two commands."
        )
    load: Any = load_classifier if classifies else load_encoder
    if encoder in assets.ENCODERS:
        name, encoder = name or str(encoder), assets.find_encoder(str(encoder))
    vision = load(
        encoder,
        name=name,
        revision=command.revision,
        trust_remote_code=command.trust_remote_code,
        device=command.device,
    )
    results = evaluate_encoder(
        vision,
        train,
        test,
        validation_dataset=validation,
        columns=Columns(
            label=command.label_column,
            group=command.group_column,
            artist=command.artist_column,
            caption=command.caption_column,
            caption_id=command.caption_id_column,
            image_id=command.image_id_column,
            slices=tuple(command.slice_columns),
        ),
        protocols=command.protocols,
        encoder_name=name,
        dataset_name="embedded pictograms" if command.data == EMBEDDED else command.data,
        dataset_revision=content_revision(source, test),
        train_split=command.train_split,
        split=command.split,
        seeds=seeds,
        settings=EvaluationSettings(
            metric=command.metric,
            knn_neighbours=tuple(command.knn_neighbours) if command.knn_neighbours else None,
            probe_c_values=tuple(float(c) for c in np.logspace(-5, 6, command.probe_c_values)),
            sgd_epochs=command.sgd_epochs,
            sgd_augmentation=command.sgd_augmentation,
            few_shot_ways=command.few_shot_ways,
            few_shot_shots=command.few_shot_shots,
            few_shot_episodes=command.few_shot_episodes,
            seed=command.seed,
            **_templates(command.templates),
        ),
        image_column=command.image_column,
        cache_dir=None if cache == NO_CACHE else cache,
        batch_size=command.batch_size,
        num_workers=command.num_workers,
        device=command.device,
        max_bad_images=command.max_bad_images,
    )
    if weights := weights_sha256(encoder) if isinstance(encoder, (str, Path)) else "":
        results = [replace(result, settings={**result.settings, "weights_sha256": weights}) for result in results]
    if command.output is not None:
        save_results(command.output, results)
    return results


def _templates(given: Sequence[str] | None) -> dict[str, Any]:
    """The setting, if there is one: sentences, or the lines of the one file that is named."""
    if given and len(given) == 1 and "{}" not in given[0] and Path(given[0]).is_file():
        given = [line for line in Path(given[0]).read_text("utf-8").splitlines() if line.strip()]
    return {"templates": tuple(given)} if given else {}
