"""Encoders between a start and what it was adapted to: what each knows of the domain and of the rest, and one of them.

Weight interpolation (WiSE-FT, Wortsman et al. 2022, equation 1): both have the same architecture and the one was
trained from the other, so that the weights in between are good encoders, too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..assets import EMBEDDED
from ..errors import InputError
from ..setting import setting
from .encoding import ExtractionSettings

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult, VisionEncoder
    from .evaluation import Sides

BLEND = "blend.json"
"""File of the curve and of what was chosen, in the folder of the blended encoder."""


@dataclass
class BlendingSettings(ExtractionSettings):
    """What is blended, and what it is measured on."""

    weights: list[float] = setting(
        [0.0, 0.25, 0.5, 0.75, 1.0], "Shares of ADAPTED in the weights, from 0 to 1; 0 and 1 are measured anyway."
    )
    data: str = setting(EMBEDDED, "Labelled images of the domain: a folder, a Hub id, 'embedded'.")
    general_data: str | None = setting(None, "Labelled images of what must not get worse: a folder or a Hub id.")
    split: str | None = setting(None, "Split of the domain's data that is reported.")
    general_split: str | None = setting(None, "Split of the general data that is reported.")
    label_column: str | None = setting(None, "Column of the domain's labels.")
    general_label_column: str | None = setting(None, "Column of the general labels.")
    protocol: Literal["knn", "linear_probe"] = setting(
        "knn", "What measures: 20 nearest neighbours, or a linear probe."
    )
    max_general_loss: float = setting(
        0.01, "Most that the general score may lie below START's, as a share, where the weight is chosen."
    )
    seed: int = setting(0, "Random seed that draws the parts of the training splits on which the share is chosen.")


@dataclass(frozen=True)
class BlendingPoint:
    """One share and its scores.

    Attributes:
        weight: Share of the adapted weights.
        chosen_by: Scores, of the domain and in general, on parts held out of the training splits.
        reported: The same on the splits that are reported, with intervals.
    """

    weight: float
    chosen_by: tuple[float, float]
    reported: tuple[EvaluationResult, EvaluationResult]


@dataclass(frozen=True)
class Blending:
    """A curve and the point on it that was exported."""

    points: Sequence[BlendingPoint]
    chosen: BlendingPoint

    def table(self) -> str:
        """The curve in Markdown, with 95 % intervals."""
        from ..evaluation.tables import percent

        lines = ["| share of ADAPTED | domain | general | |", "| --- | --- | --- | --- |"]
        for point in self.points:
            cells = [f"{percent(r.value)} [{percent(r.low)}, {percent(r.high)}]" for r in point.reported]
            lines.append(f"| {point.weight:g} | {' | '.join(cells)} | {'chosen' if point is self.chosen else ''} |")
        return "\n".join(lines) + "\n"


def blend(start: str, adapted: str, output: str | Path, settings: BlendingSettings | None = None) -> Blending:
    """Measure encoders between two, choose one and write it in the stock class of their type.

    Chosen is the share with the best domain score among those whose general score lies at most `max_general_loss`
    below the start's, both on a fifth that is held out of the training splits; what is reported chooses nothing.

    Args:
        start: Encoder before its adaptation: a folder, a Hub id, or a name of `assets.ENCODERS`.
        adapted: The encoder after it.
        output: Folder to write to; it may exist if it is empty.
        settings: What to measure on.

    Returns:
        The curve; it is also in `blend.json`.

    Raises:
        InputError: Encoders of different architecture, or data, columns or shares that cannot work.
    """
    from .. import assets
    from ..files.atomic import readable_disk_errors
    from ..files.locks import lock_folder
    from .conversion import filling, refuse_other_files
    from .evaluation import MeasuringSettings, load_sides

    settings = settings or BlendingSettings()
    output = Path(output)
    if settings.general_data is None:
        raise InputError(
            "A blend is chosen by what must not get worse, too: name such labelled images by `general_data`."
        )
    if wrong := [weight for weight in settings.weights if not 0 <= weight <= 1]:
        raise InputError(f"The share {wrong[0]} is not between START and ADAPTED: give `weights` from 0 to 1.")
    refuse_other_files(output)
    settings.check_places(str(output), settings.data, settings.general_data, is_file=False)
    places = assets.find_encoder(start), assets.find_encoder(adapted)
    between = interpolation(*places)
    measured = [
        load_sides(MeasuringSettings(data=data, split=split, label_column=label, protocols=[settings.protocol]))
        for data, split, label in (
            (settings.data, settings.split, settings.label_column),
            (settings.general_data, settings.general_split, settings.general_label_column),
        )
    ]
    points = []
    for weight in sorted({0.0, 1.0, *settings.weights}):
        vision = between(weight)
        scores = [_score(vision, sides, settings) for sides in measured]
        held, reported = zip(*scores, strict=True)
        points.append(BlendingPoint(weight, (held[0], held[1]), (reported[0], reported[1])))
    least = points[0].chosen_by[1] - settings.max_general_loss
    allowed = [point for point in points if point.chosen_by[1] >= least]
    chosen = max(allowed, key=lambda point: (point.chosen_by[0], -point.weight))
    blending = Blending(points, chosen)
    with readable_disk_errors(output), lock_folder(output), filling(output) as folder:
        _write(folder, output.resolve().name, blending, between(chosen.weight), places)
    return blending


def interpolation(start: str, adapted: str) -> Callable[[float], VisionEncoder]:
    """Load two encoders, and make those between them.

    Args:
        start: Encoder before its adaptation, a folder or a Hub id.
        adapted: The encoder after it.

    Returns:
        From a share of `adapted` in the weights, in [0, 1], to an encoder for features and scores.

    Raises:
        InputError: The encoders are of different architecture, or one cannot be loaded.
    """
    from ..evaluation import VisionEncoder

    (one, other), processor = _load([start, adapted])
    first, last = one.state_dict(), other.state_dict()

    def between(weight: float) -> VisionEncoder:
        blended = copy.deepcopy(one)
        blended.load_state_dict(
            {
                name: value.lerp(last[name], weight) if value.is_floating_point() else value
                for name, value in first.items()
            }
        )
        return VisionEncoder(blended.eval(), processor, f"share {weight:g}")

    return between


def _load(places: Sequence[str]) -> tuple[tuple[Any, Any], Any]:
    """Both vision towers, and what prepares their images."""
    import torch

    from ..models import StableRepConfig, load_backbone
    from ..models.export import encoder_image_processor

    try:
        (one, mean, std), (other, *normalisation) = (load_backbone(place, dtype=torch.float32) for place in places)
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    shapes = [{name: tuple(value.shape) for name, value in tower.state_dict().items()} for tower in (one, other)]
    if one.config.model_type != other.config.model_type or shapes[0] != shapes[1]:
        differing = sorted(
            name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
        )
        raise InputError(
            f"{places[0]} is a {type(one).__name__} and {places[1]} a {type(other).__name__} of another architecture "
            f"({differing[0] if differing else one.config.model_type!r} differs), so nothing lies between them: give "
            "an encoder and what was trained from it."
        )
    if [mean, std] != normalisation:
        raise InputError(
            f"{places[0]} and {places[1]} normalise images differently, so one was not trained from the other: give "
            "an encoder and what was trained from it."
        )
    return (one, other), encoder_image_processor(
        StableRepConfig(vision_config=one.config, image_mean=mean, image_std=std)
    )


def _score(vision: VisionEncoder, sides: Sides, settings: BlendingSettings) -> tuple[float, EvaluationResult]:
    """The score that chooses, and the one that is reported; both learn from four fifths of the training split."""
    from ..evaluation import EvaluationSettings, evaluate_features, extract_features, move
    from ..evaluation.hold_out import hold_out

    assert sides.train is not None  # both protocols learn from one
    columns = sides.columns
    rest, held = hold_out(sides.train, columns.label, columns.group, seed=settings.seed)
    names = [name for name in (columns.label, columns.group) if name is not None]
    move(vision.model, settings.device)
    train, choosing, test = (
        extract_features(vision, part, columns=names, **settings.options()) for part in (rest, held, sides.test)
    )
    subject = replace(sides.subject, encoder=vision.name)
    results = [
        evaluate_features(
            train,
            part,
            columns=columns,
            protocols=[settings.protocol],
            subject=subject,
            train_split=f"four fifths of {sides.train_split}",
            settings=EvaluationSettings(knn_neighbours=[min(20, len(train))], seed=settings.seed),
        )[0]
        for part in (choosing, test)
    ]
    return results[0].value, results[1]


def _write(folder: Path, name: str, blending: Blending, vision: VisionEncoder, places: Sequence[str]) -> None:
    from ..evaluation.tables import public_name
    from ..hub import write_model_card
    from ..models import export_encoder
    from .cards import encoder_facts, write_converted_card
    from .record import TRAINING, write_record

    encoder: Any = vision.model
    export_encoder(encoder, folder, vision.image_processor)
    chosen = blending.chosen
    curve = [
        {"weight": p.weight, "chosen_by": p.chosen_by, "reported": [result.to_dict() for result in p.reported]}
        for p in blending.points
    ]
    summary = {"start": places[0], "adapted": places[1], "chosen": chosen.weight, "points": curve}
    write_record(folder / BLEND, summary)
    record = Path(places[1], TRAINING)
    if not record.is_file():
        write_converted_card(folder, places[1], "encoder", name=name)
        return
    facts = encoder_facts(
        folder,
        json.loads(record.read_text("utf-8")),
        name,
        [replace(result, encoder=name) for result in chosen.reported],
        limits=(
            f"its weights lie between those of {public_name(places[0])} (share {1 - chosen.weight:g}) and of the "
            f"training below (share {chosen.weight:g}); the share was chosen on held-out parts of the training splits",
        ),
    )
    write_model_card(folder, facts)
