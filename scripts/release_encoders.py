"""The released encoders of the embedded world: trained, measured and described in cards, by one command.

    python scripts/release_encoders.py      # an hour or so on two busy cores

Draws four images of each embedded caption, trains SimCLR, StableRep and StableRep+ by their presets (seed 0), measures
each, an untrained twin and the bare pixels on real pictograms of concepts that no encoder saw, and writes

- `model_cards/NAME/`: the card, and the facts that it is made from;
- `stablerep_hf/assets/encoder`: StableRep as a plain `ViTModel`;
- `stablerep_hf/assets/dual_encoder`: StableRep+ with its text tower;

both with matrices in half precision, and measured as they are stored.

SimCLR, the baseline, does not ship: it stands in `OUTPUT/simclr`. Killed and started again, the command goes on where
it was; what is finished is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stablerep_hf import assets
from stablerep_hf.evaluation import EvaluationResult, EvaluationSettings, load_results, pixel_encoder
from stablerep_hf.evaluation.tables import measure_name
from stablerep_hf.hub import Form, save_facts, write_model_card
from stablerep_hf.models import export_encoder
from stablerep_hf.runs.cards import encoder_facts
from stablerep_hf.runs.evaluation import NO_CACHE, MeasuringSettings, evaluate
from stablerep_hf.runs.generation import GenerationRun
from stablerep_hf.runs.training import TrainingRun
from stablerep_hf.synthesis import GenerationSettings
from stablerep_hf.training import ModelSettings, build_model

CARDS = Path(__file__).parents[1] / "model_cards"
SEED = 0
OF_IMAGES = ["knn", "linear_probe", "retrieval"]
OF_TEXTS = ["zero_shot", "text_retrieval"]
PRESETS = {"StableRep+": "pictograms-text", "StableRep": "pictograms", "SimCLR": "pictograms-simclr"}
CONFIGURATIONS = ("config.json", "preprocessor_config.json")
LIMIT = (
    "One short training, on drawings of 32 pixels, with one seed: other seeds give other numbers, and none of it says "
    "anything about photos."
)
OF_WORDS = "Its text tower has read the captions of its training and nothing else: other words mean little to it."


def limits_of(name: str, form: Form, results: list[EvaluationResult]) -> tuple[str, ...]:
    """What the card says that the encoder cannot do, and where the bare picture does better."""
    pixels = pixel_encoder().name
    values = {(result.encoder, measure_name(result)): result.value for result in results}
    above = [
        label for encoder, label in values if encoder == name and values.get((pixels, label), 0) > values[name, label]
    ]
    baseline = (
        f"The picture itself, shrunk to {pixels}, scores higher than this encoder in {', '.join(above)}: the drawings "
        "are all cropped to their ink, and what is cropped alike can be compared point by point.",
    )
    return (LIMIT, *(baseline if above else ()), *((OF_WORDS,) if form == "pretraining" else ()))


PROTOCOL_SETTINGS = EvaluationSettings(knn_neighbours=[20], probe_c_values=12)


def train_all(output: Path) -> None:
    """Draw the data set, train the encoders and make an untrained twin, each in a folder of its own."""
    images = output / "images"
    GenerationRun(GenerationSettings(images_per_caption=4, output=str(images))).run()
    for name, preset in PRESETS.items():
        TrainingRun.from_preset(preset, output / name.lower(), data=str(images), seed=SEED).run()
    settings = ModelSettings.from_preset(PRESETS["StableRep"])
    export_encoder(build_model(settings, SEED)[0], output / "untrained")


def ship(source: Path, folder: Path) -> None:
    """Copy what loads, and nothing of the training, into the assets; matrices are stored in half precision.

    config.json says float32, so that is what they are loaded as. Biases, norms and statistics lose nothing.
    """
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.name in CONFIGURATIONS or file.name.startswith("tokenizer"):
            shutil.copy(file, folder)
    tensors = load_file(source / "model.safetensors")
    halves = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone


def measure(folder: Path, name: str, kept: Path, texts: bool = False) -> list[EvaluationResult]:
    """Score an encoder, or read the scores it got before."""
    if kept.exists():
        return load_results(kept)
    measuring = MeasuringSettings(
        protocols=OF_IMAGES + OF_TEXTS * texts, cache=NO_CACHE, output=str(kept), pixels=False
    )
    return evaluate({name: folder}, measuring, PROTOCOL_SETTINGS, seeds=(SEED,))


def write_cards(output: Path) -> None:
    """Measure what was trained, as it ships, and write the cards."""
    folders: dict[str, tuple[Path, Form]] = {
        "SimCLR": (output / "simclr", "encoder"),
        "StableRep": (assets.encoder_path(), "encoder"),
        "StableRep+": (assets.dual_encoder_path(), "pretraining"),
    }
    results = evaluate(pixel_encoder(), MeasuringSettings(cache=NO_CACHE), PROTOCOL_SETTINGS)
    results += measure(output / "untrained", "untrained", output / "results" / "untrained.json")
    for name, (folder, form) in folders.items():
        results += measure(folder, name, output / "results" / f"{name.lower()}.json", texts=form == "pretraining")
    for name, (folder, form) in folders.items():
        record = json.loads((output / name.lower() / TrainingRun.RECORD).read_text("utf-8"))
        with_text = form == "pretraining"
        shown = [result for result in results if with_text or result.protocol in OF_IMAGES]
        said = encoder_facts(folder, record, name, shown, form, limits_of(name, form, shown))
        write_model_card(folder, said)
        card = CARDS / f"{name.lower().replace('+', '-plus')}-pictograms"
        card.mkdir(exist_ok=True)
        write_model_card(card, said)
        save_facts(card / "facts.json", said)
        print(f"{name}: weights in {folder}, card in {card}")


def main() -> None:
    """Train, ship, measure, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(".cache/release"))
    parser.add_argument("--threads", type=int, default=None, help="of this process")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    train_all(arguments.output)
    ship(arguments.output / "stablerep", assets.encoder_path())
    ship(arguments.output / "stablerep+" / "pretraining", assets.dual_encoder_path())
    write_cards(arguments.output)


if __name__ == "__main__":
    main()
