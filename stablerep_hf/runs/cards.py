"""Cards from the records of runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import EMBEDDED

if TYPE_CHECKING:
    import datasets
    from PIL import Image

    from ..evaluation import EvaluationResult
    from ..hub import Form, LicensedPart, ModelFacts, TrainingData
    from ..training.arguments import ImageTrainingArguments
    from ..training.groups import GroupDataset

CAPTIONS_SHOWN = 12
_NEED_TEXTS = ("zero_shot", "text_retrieval")


def check_license(license: str) -> None:
    """Refuse a licence now that the card would not take at the end.

    Raises:
        InputError: It is not the name of a licence.
    """
    from ..hub.facts import check_license

    check_license(license)


def write_data_card(folder: str | Path, license: str | None = None) -> None:
    """Write the card of a finished synthetic data set, with a grid of siblings; what somebody wrote or edited stays.

    Args:
        folder: The data set.
        license: Of the images; by default that of the card that is there, else that of the embedded generator's
            images, or "unknown".
    """
    from huggingface_hub import DatasetCard

    from ..hub import dataset_facts, write_dataset_card
    from ..hub.dataset_card import is_as_written, renew_files_line
    from ..synthesis import known_words, open_store, read_provenance, sample_captions

    path = Path(folder) / "README.md"
    if path.exists() and not is_as_written(path.read_text("utf-8", "replace")):
        renew_files_line(path)
        print(f"{path} was written or edited by hand, so it stays as it is; remove it to have it written anew.")
        return
    generator = read_provenance(folder).settings["generator"]
    embedded = generator.get("name") == EMBEDDED
    kind = "real" if "retrieved_from" in generator else "synthetic"
    known = DatasetCard.load(path).data.license if path.exists() else None
    facts = dataset_facts(
        folder,
        name=f"{Path(folder).resolve().name}: {kind} images grouped by caption",
        license=license or known or ("cc-by-4.0" if embedded else "unknown"),
        grid="grid.png",
        limits=(str(known_words(open_store(folder).plan.captions)),) if embedded else (),
        licensed_parts=embedded_parts() if embedded else (),
    )
    write_dataset_card(folder, facts, sample_captions(folder, CAPTIONS_SHOWN))


def renew_data_card(folder: str | Path) -> None:
    """Write the card again, if there is one, after rows got other values, such as scores; its licence stays."""
    if (Path(folder) / "README.md").exists():
        write_data_card(folder)


def write_encoder_card(
    folder: str | Path,
    record: dict[str, Any],
    name: str,
    results: Sequence[EvaluationResult] = (),
    form: Form = "encoder",
) -> None:
    """Write the card of a trained model, in whichever form, from its record and, once there are any, its results."""
    from ..hub import write_model_card

    write_model_card(folder, encoder_facts(folder, record, name, results, form))


def encoder_facts(
    folder: str | Path,
    record: dict[str, Any],
    name: str,
    results: Sequence[EvaluationResult] = (),
    form: Form = "encoder",
    limits: Sequence[str] = (),
) -> ModelFacts:
    """What the card of a trained model says.

    Args:
        folder: The model's, for its architecture.
        record: Of its run, as `TrainingRun` wrote it.
        name: What its results call it.
        results: Its own, and others' to compare.
        form: What the folder is.
        limits: Sentences on what it cannot do.
    """
    from ..hub import ModelFacts, TrainingData, describe_encoder
    from .origins import ROLES, licensed_part

    settings = {**record["settings"], **record.get("chosen", {})}
    data = TrainingData.of(record["data"])
    drawn_by_embedded = any(part.generator.get("name") == EMBEDDED for part in data.parts)
    origins = record.get("origins", {})
    parts = [licensed_part(settings[name], ROLES[name], terms) for name, terms in origins.items()]
    terms: dict[str, Any] = {"license": settings["license"]}
    if settings["license"] == "unknown" and "init_from" in origins:
        terms = origins["init_from"]
    return ModelFacts(
        name=name,
        **terms,
        form=form,
        base_model=settings.get("init_from") or "",
        objective=settings["objective"],
        architecture={} if form == "adapter" else describe_encoder(folder),
        data=data,
        training={
            "preset": preset_of(settings),
            "steps": record["steps"],
            "views seen": record["views_seen"],
            **{key: value for key, value in settings.items() if key not in ("data", "split", "license", "objective")},
        },
        hardware=f"{record['device']}, {record['processes']} processes"
        if record["processes"] > 1
        else record["device"],
        training_seconds=record["seconds"],
        **record.get("energy", {}),
        results=tuple(results),
        limits=tuple(limits),
        licensed_parts=(*parts, *(embedded_parts() if drawn_by_embedded else ())),
        versions=record["versions"],
    )


def write_converted_card(folder: Path, source: str, form: Form, *, name: str) -> None:
    """Write the card of a checkpoint that `stablerep convert` made: that of its training, if it was one of ours."""
    from ..evaluation.tables import public_name
    from ..hub import ModelFacts, describe_encoder, write_model_card
    from ..hub.model_card import results_in_card
    from .origins import card_of, terms_of
    from .record import TRAINING

    card = card_of(source)
    results = results_in_card(card, name) if card else []
    # The same features in another layout; a dual encoder gives others, and its image tower alone reads no texts.
    results = [] if form == "sentence-transformers" else [r for r in results if r.protocol not in _NEED_TEXTS]
    encoder = Path(source).parent if Path(source).name == "pretraining" else Path(source)
    if (encoder / TRAINING).is_file():
        record = json.loads((encoder / TRAINING).read_text("utf-8"))
        if record.get("finished"):
            write_encoder_card(folder, record, name, results, form)
            return
    architecture = describe_encoder(folder)
    facts = ModelFacts(
        name=name,
        **terms_of(source, architecture["model_type"]),
        form=form,
        results=tuple(results),
        origin=public_name(source),
        architecture=architecture,
        versions={package: version(package) for package in ("stablerep_hf", "transformers", "torch")},
    )
    write_model_card(folder, facts)


def write_classifier_card(
    folder: str | Path, record: dict[str, Any], results: Sequence[EvaluationResult] = (), base: str | None = None
) -> None:
    """Write the card of a fine-tuned model, or with `base` of its adapters alone, from its record and its results."""
    from ..hub import write_model_card

    root = Path(folder).resolve()
    name = root.parent.name if base else root.name
    write_model_card(folder, classifier_facts(folder, record, name, results, base))


def classifier_facts(
    folder: str | Path,
    record: dict[str, Any],
    name: str,
    results: Sequence[EvaluationResult] = (),
    base: str | None = None,
) -> ModelFacts:
    """What the card of a fine-tuned model says.

    Args:
        folder: The model's, for its architecture.
        record: Of its run, as `FineTuningRun` wrote it.
        name: What its results call it.
        results: Its own.
        base: Of adapters alone, what they were trained on.
    """
    from ..hub import ModelFacts, TrainingData, describe_encoder

    settings = {**record["settings"], **record.get("chosen", {})}
    return ModelFacts(
        name=name,
        license=settings["license"],
        form="adapter" if base else "classifier",
        base_model=base or settings["base_model"] or settings["encoder"],
        classes=tuple(record["classes"]),
        architecture={} if base else describe_encoder(folder),
        data=TrainingData.of(record["data"]),
        training={
            "steps": record["steps"],
            "trained parameters": record["trained_parameters"],
            **{
                key: value
                for key, value in settings.items()
                if key not in ("encoder", "data", "license", "base_model")
            },
        },
        hardware=record["device"],
        training_seconds=record["seconds"],
        **record.get("energy", {}),
        results=tuple(replace(result, encoder=name) for result in results),
        versions=record["versions"],
    )


def training_data(sources: str | list[str], dataset: Any, groups: GroupDataset) -> TrainingData:
    """What a data set is, from its provenance where this package drew it, and from the groups that were trained on.

    Args:
        sources: A folder or Hub id, or several that were joined.
        dataset: What was loaded of it, or of them by name.
        groups: Of all.
    """
    from ..hub import TrainingData
    from ..synthesis import read_provenance
    from .content import content_revision

    captions, images = groups.num_captions, groups.num_images
    if isinstance(sources, list) and len(sources) > 1:
        counts = zip((groups.source_sizes > 0).sum(0).tolist(), groups.source_sizes.sum(0).tolist(), strict=True)
        parts = [
            replace(training_data(source, dataset[name], groups), name=name, num_captions=captions, num_images=images)
            for source, name, (captions, images) in zip(sources, dataset, counts, strict=True)
        ]
        name = " + ".join(part.name for part in parts)
        return TrainingData(name=name, num_captions=captions, num_images=images, sources=parts)
    source = sources[0] if isinstance(sources, list) else sources
    local = Path(source)
    generator = read_provenance(local).settings["generator"] if (local / "provenance").is_dir() else {}
    return TrainingData(
        name=local.resolve().name if local.exists() else source,
        num_captions=captions,
        num_images=images,
        revision=content_revision(source, dataset),
        generator={} if "retrieved_from" in generator else generator,
        hub_id="" if local.exists() else source,
    )


def siblings(dataset: datasets.Dataset) -> dict[str, list[Image.Image]]:
    """The images of some captions, spread over a caption-grouped data set."""
    import numpy as np

    from ..synthesis import group_rows

    groups = group_rows(np.asarray(dataset["caption_id"][:]))
    chosen = np.unique(np.linspace(0, len(groups) - 1, CAPTIONS_SHOWN).round().astype(int))
    rows = [dataset[groups[int(group)]] for group in chosen]
    return {row["caption"][0]: row["image"] for row in rows}


def preset_of(settings: dict[str, Any]) -> str | None:
    """The preset whose every value a training run has, whatever else it has; None if there is none."""
    from ..training.presets import presets, read_config

    for name in presets():
        values = read_config(name)
        if all(settings[key] == values[key] for key in values.keys() & settings.keys()):
            return name
    return None


def estimated_energy(folder: str | Path) -> dict[str, float]:
    """What codecarbon (`report_to` codecarbon) wrote into the folder of a training run, over all its starts.

    Returns:
        `energy_kwh` and `emissions_kg`; empty if it did not run.
    """
    path = Path(folder) / "emissions.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "energy_kwh": sum(float(row["energy_consumed"]) for row in rows),
        "emissions_kg": sum(float(row["emissions"]) for row in rows),
    }


def training_versions() -> dict[str, str]:
    """Versions of the packages that training depends on."""
    return {name: version(name) for name in ("stablerep_hf", "transformers", "accelerate", "datasets", "torch")}


def embedded_parts() -> tuple[LicensedPart, ...]:
    """The licence chain of whatever the embedded generator drew."""
    from .. import assets
    from ..hub import LicensedPart

    return tuple(LicensedPart(**part) for part in assets.licensed_parts())


def device_name(arguments: ImageTrainingArguments) -> str:
    """What a run trains on, in words."""
    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.get_device_name(arguments.device)
    threads = torch.get_num_threads()
    return f"{arguments.device.type}, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory(arguments: ImageTrainingArguments) -> int:
    """Most bytes that were taken at once: of the accelerator's memory, or by this process since it started."""
    import resource
    import sys

    import torch

    if arguments.device.type == "cuda":
        return torch.cuda.max_memory_allocated(arguments.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
