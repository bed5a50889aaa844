"""Measuring encoders on a data set that is named: what `stablerep evaluate` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import EMBEDDED
from ..errors import InputError
from ..evaluation.settings import Columns, EvaluationSettings, Subject
from ..progress import say
from ..setting import setting
from .data import find_data
from .encoding import NO_CACHE as NO_CACHE, EncodingSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from ..evaluation import EvaluationResult, VisionEncoder
    from ..evaluation.image_transforms import Placement

PIXELS = "pixels"
UNTRAINED = "untrained"
# one value of C a decade is near the best of 45
PICTOGRAM_SETTINGS = EvaluationSettings(knn_neighbours=[20], probe_c_values=12)


@dataclass
class MeasuringSettings(EncodingSettings):
    """Settings of `evaluate`, beside the encoders and the protocols' own."""

    data: str = setting(EMBEDDED, "Images: a folder, a Hub id, or 'embedded' (pictograms).")
    subset: str | None = setting(None, "Configuration of a data set that has several.")
    protocols: list[str] | None = setting(
        None,
        "Some of knn, linear_probe, linear_probe_sgd, linear_probe_sgd_optimistic, few_shot, zero_shot (all of "
        "labels), classification (a fine-tuned classifier by itself), retrieval (of groups and artists), "
        "text_retrieval (of captions), sibling_retrieval (of caption ids); if not given, knn and linear_probe of "
        "labels, retrieval of groups and artists, or else those of captions.",
    )
    pixels: bool = setting(True, "Measure the bare pixels beside the encoders: what colour and layout give.")
    placed: bool | None = setting(
        None,
        "Show every picture at a random size and place on light paper, so that its position "
        "gives nothing away; if not given, the embedded pictograms alone.",
    )
    train_split: str = setting("train", "Split that is the bank of kNN and the training set of the probes.")
    validation_split: str | None = setting(None, "Chooses linear_probe's C; a fifth of the training set if not given.")
    split: str | None = setting(
        None,
        "Split that is scored; 'test' or else 'validation' if not given, and where there is neither a fifth of the "
        "training split, held out by the seed class by class.",
    )
    label_column: str | None = setting(None, "Column to predict; 'label' or the only column of classes if not given.")
    group_column: str | None = setting(
        None, "Column of groups: images that are not independent of each other, and what retrieval looks for."
    )
    artist_column: str | None = setting(None, "Column of artists: retrieval finds images by other artists only.")
    caption_column: str | None = setting(
        None, "Column with a text or several of each image; 'caption' or 'text' if not given."
    )
    caption_id_column: str | None = setting(
        None, "Column that tells which images are siblings; 'caption_id', or the captions, if not given."
    )
    image_id_column: str | None = setting(
        None, "Column of image ids: rows of one id are one image; every row is one if not given."
    )
    slice_columns: list[str] = setting(
        [], "Columns for whose every value each score is given too, with the worst and the gap."
    )
    output: str | None = setting(None, "File of the results; none is written if not given.")

    def columns(self, features: Mapping[str, Any]) -> Columns:
        """What the columns of the data set mean: as named here, else as `Columns.of` finds them."""
        if self.data == EMBEDDED:
            found = Columns(
                label="group", group="concept", artist="artist", caption="caption", caption_id="caption_id"
            )
        else:
            found = Columns.of(None, features)
        named = {
            name: value
            for name in ("label", "group", "artist", "caption", "caption_id", "image_id")
            if (value := getattr(self, f"{name}_column")) is not None
        }
        return replace(found, **named, slices=tuple(self.slice_columns))

    @property
    def transform(self) -> Placement | None:
        """What is done to every picture."""
        from ..evaluation.image_transforms import Placement

        return Placement() if (self.data == EMBEDDED if self.placed is None else self.placed) else None

    @property
    def variant(self) -> str:
        """What tells the results from those that `placed` gives by default."""
        placed = self.transform is not None
        return "" if placed == (self.data == EMBEDDED) else "placed" if placed else "aligned"


def evaluate(
    encoders: str | Path | VisionEncoder | Sequence[str | Path | VisionEncoder] | Mapping[str, Any],
    measuring: MeasuringSettings | None = None,
    settings: EvaluationSettings | None = None,
    *,
    seeds: Sequence[int] = (),
) -> list[EvaluationResult]:
    """Measure encoders side by side on a data set.

    Args:
        encoders: One or several, by the names of results or in order: folders, Hub ids, 'embedded',
            'embedded-stablerep', encoders that are loaded; 'pixels' for the bare pixels, 'untrained' for the first
            encoder with weights as before training.
        measuring: What to measure on, and by what.
        settings: Of the protocols.
        seeds: Of the training behind the encoders.

    Returns:
        The results of the encoders in order, with the differences of each to those after it (see
        `evaluation.compare_encoders`). They are also written to `measuring.output` if it is given. None in a process
        of a launcher that is not the first, which encodes its part only.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit.
    """
    measuring, settings = measuring or MeasuringSettings(), settings or EvaluationSettings()
    measuring.check_places(measuring.output, measuring.data, is_file=True)
    classifies = "classification" in (measuring.protocols or ())
    if classifies and len(measuring.protocols or ()) > 1:
        raise InputError(
            "The protocol 'classification' scores a classifier's logits and the others an encoder's features: measure "
            "them in two commands."
        )
    sides = load_sides(measuring, settings.seed)
    of_training = "" if sides.train is None else f"{len(sides.train):,} images of {sides.train_split} to learn from, "
    say(f"{measuring.data}: {of_training}{len(sides.test):,} of {sides.subject.split} to score", only_to_people=True)
    from ..evaluation import save_results  # what follows takes seconds to import
    from ..evaluation.comparison import compare_encoders

    named = _loaded(encoders, measuring, classifies)
    results = compare_encoders(
        {name: vision for name, (vision, _) in named.items()},
        sides.train,
        sides.test,
        validation_dataset=sides.validation,
        columns=sides.columns,
        protocols=measuring.protocols,
        train_split=sides.train_split,
        subject=replace(sides.subject, seeds=tuple(seeds)),
        settings=settings,
        **measuring.options(),
        transform=measuring.transform,
    )
    results = [
        replace(
            result,
            settings={**result.settings, **named[result.encoder][1]},
            variant=", ".join(filter(None, (result.variant, measuring.variant))),
        )
        for result in results
    ]
    if measuring.output is not None and results:
        save_results(measuring.output, results)
    return results


def evaluate_on_pictograms(
    encoders: Any,
    protocols: list[str] | None = None,
    *,
    output: str | Path | None = None,
    seeds: Sequence[int] = (),
) -> list[EvaluationResult]:
    """Measure encoders on the embedded pictograms as the demo, the cards and the claims do.

    Every picture of every split lies elsewhere, at another size, on other paper (`Placement`); results of the variant
    "aligned" are of the same pictures as they are stored, cropped to their ink.

    Args:
        encoders: As for `evaluate`; nothing is measured beside them.
        protocols: As in `MeasuringSettings`.
        output: File of the results; none is written if not given.
        seeds: As for `evaluate`.
    """
    from ..evaluation import save_results

    results: list[EvaluationResult] = []
    for placed in (True, False):
        measuring = MeasuringSettings(protocols=protocols, cache=NO_CACHE, pixels=False, placed=placed)
        results += evaluate(encoders, measuring, PICTOGRAM_SETTINGS, seeds=seeds)
    if output is not None:
        save_results(output, results)
    return results


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The splits of a data set that is measured on.

    Attributes:
        train: Training set; None if nothing is learned from one.
        test: What is scored.
        validation: Chooses the logistic regression's C, if there is one.
        columns: What the columns mean.
        train_split: What results call the training set.
        subject: Of results, without an encoder.
    """

    train: Dataset | None
    test: Dataset
    validation: Dataset | None
    columns: Columns
    train_split: str
    subject: Subject


def load_sides(measuring: MeasuringSettings, seed: int = 0) -> Sides:
    """Load what is trained on and what is scored; without a split to score a fifth of the training split is held out.

    Raises:
        InputError: There is no such data set or split, or one split is to serve twice.
    """
    from ..evaluation.catalogue import MEASURES, default_protocols
    from ..evaluation.hold_out import hold_out
    from ..evaluation.images import image_splits, load_images
    from .content import content_revision

    source, split, train_split = find_data(measuring.data), measuring.split, measuring.train_split
    if measuring.data == EMBEDDED:
        split = split or "held_out_concepts"
    splits = [train_split, split] if split is not None else image_splits(source, measuring.subset)
    if split is None:
        split = next((name for name in ("test", "validation") if name in splits), None)
    loaded = load_images(source, split or train_split, measuring.subset)
    columns = measuring.columns(loaded.features)
    protocols = measuring.protocols
    if protocols is None:
        protocols = list(default_protocols(columns, has_train=train_split in splits, has_texts=False))
    trains = any(MEASURES[name].trains for name in protocols if name in MEASURES)
    name, revision = split or train_split, content_revision(source, loaded)
    train = validation = None
    test = loaded
    if trains and split is None:
        check_columns_of(loaded, columns)
        train, test = hold_out(loaded, columns.label, columns.group, seed=seed)
        name, train_split = f"a fifth of {train_split} (seed {seed})", f"the rest of {train_split}"
    elif trains:
        of = [train_split, *([measuring.validation_split] if measuring.validation_split else []), name]
        if len(set(of)) < len(of):
            raise InputError(
                f"The splits of training, validation and test are {', '.join(of)}, and a score on images that were "
                "fitted to or chosen on says nothing; name another split for each."
            )
        train = load_images(source, train_split, measuring.subset)
    if trains and measuring.validation_split is not None:
        validation = load_images(source, measuring.validation_split, measuring.subset)
    return Sides(
        train=train,
        test=test,
        validation=validation,
        columns=columns,
        train_split=train_split,
        subject=Subject(
            dataset="embedded pictograms" if measuring.data == EMBEDDED else measuring.data,
            revision=revision,
            split=name,
        ),
    )


def check_columns_of(dataset: Dataset, columns: Columns) -> None:
    """Refuse columns that are named and not there, before the data set is split by them."""
    for name in (columns.label, columns.group):
        if name is not None and name not in dataset.column_names:
            raise InputError(
                f"The data set has no column {name!r}, it has {', '.join(map(repr, dataset.column_names))}; name one "
                "of those."
            )


def _loaded(
    encoders: Any, measuring: MeasuringSettings, classifies: bool
) -> dict[str, tuple[VisionEncoder, dict[str, str]]]:
    """Name -> encoder, and what else its results say."""
    from .. import assets
    from ..evaluation import VisionEncoder, pixel_encoder, untrained_encoder
    from ..hub.model_card import weights_sha256

    if isinstance(encoders, (str, Path, VisionEncoder)):
        encoders = [encoders]
    wanted = list(encoders.items()) if isinstance(encoders, Mapping) else [(None, encoder) for encoder in encoders]
    if measuring.pixels and not classifies and all(encoder != PIXELS for _, encoder in wanted):
        wanted.append((None, PIXELS))
    found: dict[str, tuple[VisionEncoder, dict[str, str]]] = {}
    for name, encoder in wanted:
        said = {}
        if isinstance(encoder, str) and encoder == PIXELS and not Path(PIXELS).exists():
            vision = pixel_encoder()
        elif isinstance(encoder, str) and encoder == UNTRAINED and not Path(UNTRAINED).exists():
            if not found:
                raise InputError("'untrained' is the first encoder before its training: name that one before it.")
            vision = untrained_encoder(next(iter(found.values()))[0])
        else:
            vision = measuring.load(encoder, classifier=classifies)
            place = assets.find_encoder(str(encoder)) if not isinstance(encoder, VisionEncoder) else ""
            if digest := weights_sha256(place) if place else "":
                said = {"weights_sha256": digest}
        key = name or vision.name
        if key in found and isinstance(encoder, (str, Path)) and encoder != PIXELS:
            key = str(encoder)  # folders of one name
        if key in found or [other for _, other in wanted].count(encoder) > 1:
            raise InputError(f"The encoder {key!r} is named twice: name each once.")
        found[key] = (vision, said)
    return found
