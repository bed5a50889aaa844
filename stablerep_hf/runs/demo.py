"""The demo: captions to images to encoders to scores with what ships in the package, in minutes on a laptop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import progress
from ..errors import InputError
from ..setting import setting
from ..synthesis.settings import GenerationSettings
from ..synthesis.workers import use_one_gpu

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult

# What is compared: each encoder's preset, trained on the same images for the same number of steps and views.
PRESETS = {"StableRep": "pictograms", "SimCLR": "pictograms-simclr"}


UNTRAINED = "untrained"


# The picture itself, shrunk: what colour and layout alone can tell.
PIXELS = "8 x 8 pixels"


@dataclass
class DemoSettings:
    """Settings of the demo."""

    output: str = setting("demo", "Folder for everything the demo makes.")
    num_captions: int = setting(240, "Number of captions to draw.")
    images_per_caption: int = setting(4, "Images of each caption.")
    max_steps: int | None = setting(None, "Training steps; the presets' own if not given.")
    seed: int = setting(0, "Seed of the images and of the training runs.")


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        dataset: Folder for `datasets.load_dataset`.
        encoders: Name, such as "StableRep" -> folder for `transformers.AutoModel.from_pretrained`.
        report: Markdown file with tables and plots.
        results: Every score, of the encoders and of what they are compared with.
    """

    dataset: Path
    encoders: dict[str, Path]
    report: Path
    results: list[EvaluationResult]


def run_demo(settings: DemoSettings | None = None) -> Demo:
    """Make data set, encoders, scores and report; what is there already is kept.

    Args:
        settings: The defaults if not given.

    Returns:
        Where everything is, and the scores.

    Raises:
        InputError: A number cannot work, or the folder holds a demo with other settings.
    """
    use_one_gpu()
    from ..evaluation import write_report
    from ..evaluation.images import load_images
    from ..files.places import check_place
    from . import cards, generation

    command = settings or DemoSettings()
    if command.num_captions < 2 or command.images_per_caption < 2:
        raise InputError(
            f"num_captions={command.num_captions} with images_per_caption={command.images_per_caption} gives no "
            "siblings to learn from: give at least 2 of each."
        )
    if command.seed < 0:
        raise InputError(f"seed={command.seed} is below 0, which no generator takes: give 0 or more.")
    check_place("output", command.output)
    folder = Path(command.output)
    _say(
        1, f"Drawing {command.num_captions} captions x {command.images_per_caption} images with the embedded pipeline"
    )
    data = folder / "dataset"
    generation.GenerationRun(
        GenerationSettings(
            num_captions=command.num_captions,
            images_per_caption=command.images_per_caption,
            seed=command.seed,
            output=str(data),
        )
    ).run()
    records = {}
    for name, preset in PRESETS.items():
        _say(2, f"Training {name}")
        records[name] = _train(command, preset, data, folder / "encoders" / name.lower())
    untrained = folder / "encoders" / UNTRAINED
    _make_untrained_twin(command, untrained)

    _say(3, "Measuring on real pictograms of concepts that neither generator nor encoder saw")
    results = _evaluate_pixels(folder / "pixels.json")
    for name in (UNTRAINED, *PRESETS):
        results += _evaluate(command, name, folder / "encoders" / name.lower())

    _say(4, "Writing the report")
    for name, record in records.items():
        cards.write_encoder_card(folder / "encoders" / name.lower(), record, name, results)
    report = write_report(
        folder / "report",
        results,
        title="StableRep on drawings of captions",
        introduction=_INTRODUCTION,
        facts=_facts(command, records),
        caption_images=cards.siblings(load_images(data, "train")),
    )
    encoders = {name: folder / "encoders" / name.lower() for name in (*PRESETS, UNTRAINED)}
    return Demo(data, encoders, report, results)


def beside_shipped(results: Sequence[EvaluationResult]) -> str:
    """What the demo's StableRep is beside the encoder that ships, in one line.

    Args:
        results: Of the demo.
    """
    from huggingface_hub import metadata_load

    from .. import assets
    from ..evaluation.tables import measure_name

    card = metadata_load(assets.encoder_path() / "README.md") or {}
    shipped = {one["name"]: one["value"] for entry in card["model-index"][0]["results"] for one in entry["metrics"]}
    ours = {measure_name(result): result.value for result in results if result.encoder == "StableRep"}
    name = next(name for name in ours if name in shipped)
    return (
        f"This StableRep of a few minutes has {name} {100 * ours[name]:.1f} %; the one that ships, "
        f"'embedded-stablerep', {100 * shipped[name]:.1f} %."
    )


_INTRODUCTION = """\
A small text-to-image pipeline drew several images of each caption; StableRep and SimCLR learned from the same images,
for the same number of steps and views. They, an untrained twin and the bare pixels were then measured on **real
pictograms by human artists**, of concepts that neither the pipeline nor the encoders ever saw. Every pictogram is seen
at a random size and place on light paper, so that its position gives nothing away; "aligned" scores are of the same
pictograms as they are stored, cropped to their ink. It is a demonstration of minutes on one seed: its intervals tell
how far the test images carry, not how much another seed would differ."""


def _say(step: int, what: str) -> None:
    progress.say(f"[{step}/4] {what}")


def _train(command: DemoSettings, preset: str, data: Path, output: Path) -> dict[str, Any]:
    from .training import TrainingRun

    captions, images = min(64, command.num_captions), min(4, command.images_per_caption)
    if preset == PRESETS["SimCLR"]:  # as many views: two of each image
        captions, images = captions * images // 2, 1
    settings: dict[str, Any] = {"captions_per_batch": captions, "images_per_caption": images, "seed": command.seed}
    if command.max_steps is not None:
        settings["max_steps"] = command.max_steps
    return TrainingRun.from_preset(preset, output, data=str(data), **settings).run()


def _make_untrained_twin(command: DemoSettings, output: Path) -> None:
    """Save the encoder as a training run with this seed starts from it, to see what training adds."""
    from ..models import export_encoder
    from ..training import ModelSettings, build_model

    if not (output / "results.json").exists():  # made in no time, so made again unless it was measured
        model, _ = build_model(ModelSettings.from_preset(PRESETS["StableRep"]), command.seed)
        export_encoder(model, output)


def _evaluate_pixels(file: Path) -> list[EvaluationResult]:
    from ..evaluation import pixel_encoder

    return _measure({PIXELS: pixel_encoder()}, file)


def _evaluate(command: DemoSettings, name: str, encoder: Path) -> list[EvaluationResult]:
    return _measure({name: encoder}, encoder / "results.json", () if name == UNTRAINED else (command.seed,))


def _measure(encoder: dict[str, Any], file: Path, seeds: Sequence[int] = ()) -> list[EvaluationResult]:
    from ..evaluation import load_results
    from .evaluation import evaluate_on_pictograms

    return load_results(file) if file.exists() else evaluate_on_pictograms(encoder, output=file, seeds=seeds)


def _facts(command: DemoSettings, records: dict[str, dict[str, Any]]) -> dict[str, object]:
    facts: dict[str, object] = {"captions": command.num_captions, "images per caption": command.images_per_caption}
    for name, record in records.items():
        facts[f"{name}: steps"] = record["steps"]
        facts[f"{name}: views seen"] = record["views_seen"]
        if record["seconds"] is not None:
            facts[f"{name}: seconds of training"] = record["seconds"]
    facts["encoder parameters"] = record["parameters"]
    facts["device"] = record["device"]
    return facts
