"""`stablerep demo`: the whole road on what ships in the package, in minutes on a laptop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .evaluate import NO_CACHE, EvaluateCommand
from .generate import GenerateCommand

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult

# What is compared: each encoder's preset, trained on the same images for the same number of steps and views.
PRESETS = {"StableRep": "pictograms", "SimCLR": "pictograms-simclr"}
UNTRAINED = "untrained"
# The picture itself, shrunk: what colour and layout alone can tell.
PIXELS = "8 x 8 pixels"


@dataclass
class DemoCommand:
    """Flags of `stablerep demo`."""

    output: str = field(default="demo", metadata={"help": "Folder for everything the demo makes."})
    num_captions: int = field(default=240, metadata={"help": "Number of captions to draw."})
    images_per_caption: int = field(default=4, metadata={"help": "Images of each caption."})
    max_steps: int | None = field(default=None, metadata={"help": "Training steps; the presets' own if not given."})
    seed: int = field(default=0, metadata={"help": "Seed of images and trainings."})


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import parse_command

    (command,) = parse_command(
        [DemoCommand],
        argv,
        name="demo",
        description="Draw images of captions, train on them, measure on real pictograms. Started again, it goes on.",
    )
    run(command)


def run(command: DemoCommand) -> Path:
    """Make data set, encoders, scores and report; whatever stands already is kept.

    Returns:
        The report.

    Raises:
        InputError: The folder holds a demo with other settings.
    """
    from ..evaluation import results_table, write_report
    from . import facts, generate
    from .loading import load_images
    from .places import check_place

    if command.num_captions < 2 or command.images_per_caption < 2:
        raise InputError(
            f"A demo of {command.num_captions} captions x {command.images_per_caption} images has no siblings to "
            "learn from: give at least 2 of each."
        )
    if command.seed < 0:
        raise InputError(f"--seed {command.seed} is below 0, which no generator takes: give 0 or more.")
    check_place("--output", command.output)
    folder = Path(command.output)
    _say(
        1, f"Drawing {command.num_captions} captions x {command.images_per_caption} images with the embedded pipeline"
    )
    data = folder / "dataset"
    generate.run(
        GenerateCommand(
            num_captions=command.num_captions,
            images_per_caption=command.images_per_caption,
            seed=command.seed,
            output=str(data),
        )
    )
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
        facts.write_encoder_card(folder / "encoders" / name.lower(), record, name, results)
    report = write_report(
        folder / "report",
        results,
        title="StableRep on drawings of captions",
        introduction=_INTRODUCTION,
        facts=_facts(command, records),
        caption_images=facts.siblings(load_images(data, "train")),
    )
    print(f"\n{results_table(results)}")
    print(_closing(folder, data, report))
    return report


_INTRODUCTION = """\
A small text-to-image pipeline drew several images of each caption; StableRep and SimCLR learned from the same images,
for the same number of steps and views. They, an untrained twin and the bare pixels were then measured on **real
pictograms by human artists**, of concepts that neither the pipeline nor the encoders ever saw. It is a demonstration
of minutes on one seed: its intervals tell how far the test images carry, not how much another seed would differ."""


def _say(step: int, what: str) -> None:
    print(f"\n[{step}/4] {what}", flush=True)


def _train(command: DemoCommand, preset: str, data: Path, output: Path) -> dict[str, Any]:
    from . import train

    captions, images = min(64, command.num_captions), min(4, command.images_per_caption)
    if preset == PRESETS["SimCLR"]:  # as many views: two of each image
        captions, images = captions * images // 2, 1
    flags = ["--config", preset, "--data", str(data), "--output", str(output), "--seed", str(command.seed)]
    flags += ["--captions_per_batch", str(captions), "--images_per_caption", str(images)]
    if command.max_steps is not None:
        flags += ["--max_steps", str(command.max_steps)]
    return train.run(*train.parse(flags))


def _make_untrained_twin(command: DemoCommand, output: Path) -> None:
    """Save the encoder as a training with this seed finds it, to see what training adds."""
    from ..models import export_encoder
    from . import train

    if not (output / "results.json").exists():  # made in no time, so made again unless it was measured
        training, arguments = train.parse(["--config", PRESETS["StableRep"], "--seed", str(command.seed)])
        model, _ = train.build_model(training, arguments.seed)
        export_encoder(model, output)


def _evaluate_pixels(file: Path) -> list[EvaluationResult]:
    from ..evaluation import load_results, pixel_encoder
    from . import evaluate

    if file.exists():
        return load_results(file)
    return evaluate.run(pixel_encoder(), _measuring(file), name=PIXELS)


def _evaluate(command: DemoCommand, name: str, encoder: Path) -> list[EvaluationResult]:
    from ..evaluation import load_results
    from . import evaluate

    file = encoder / "results.json"
    if file.exists():
        return load_results(file)
    seeds = () if name == UNTRAINED else (command.seed,)
    return evaluate.run(encoder, _measuring(file), name=name, seeds=seeds)


def _measuring(file: Path) -> EvaluateCommand:
    """The headline numbers: k = 20, and one value of C a decade, which is near the best of them all."""
    return EvaluateCommand(knn_neighbours=[20], probe_c_values=12, cache=NO_CACHE, output=str(file))


def _facts(command: DemoCommand, records: dict[str, dict[str, Any]]) -> dict[str, object]:
    facts: dict[str, object] = {"captions": command.num_captions, "images per caption": command.images_per_caption}
    for name, record in records.items():
        facts[f"{name}: steps"] = record["steps"]
        facts[f"{name}: views seen"] = record["views_seen"]
        if record["seconds"] is not None:
            facts[f"{name}: seconds of training"] = record["seconds"]
    facts["encoder parameters"] = record["parameters"]
    facts["device"] = record["device"]
    return facts


def _closing(folder: Path, data: Path, report: Path) -> str:
    return f"""
data set   {data}
encoders   {folder / "encoders"}
report     {report}

from datasets import load_dataset; from transformers import AutoModel
dataset = load_dataset("{data}")
encoder = AutoModel.from_pretrained("{folder / "encoders" / "stablerep"}")"""
