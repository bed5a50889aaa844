"""What cards are made of. Whoever ran something fills these in; a card adds words and no number."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, refusing
from ..evaluation.results import EvaluationResult
from ..files.atomic import write_file

Form = Literal["encoder", "pretraining", "timm", "sentence-transformers", "classifier", "adapter", "lora"]

PLACEHOLDER = "path/to/this/folder"
"""What usage examples load when the repository has no name yet."""


@dataclass(frozen=True, kw_only=True)
class LicensedPart:
    """One thing that went in, and on what terms.

    Attributes:
        name: its name.
        role: what it was used for, such as "captions" or "weights of the generator".
        license: SPDX identifier, or the licence's own name.
        url: where it comes from; empty if nowhere public.
        attribution: the credit that the licence asks for; empty if none.
    """

    name: str
    role: str
    license: str
    url: str = ""
    attribution: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data set a model was trained on.

    Attributes:
        name: its name.
        num_captions: distinct captions.
        num_images: images of all captions.
        revision: commit or plan hash; empty if unknown.
        generator: what drew the images, as `SynthesisPlan.settings["generator"]`; empty for real images.
        hub_id: its repository on the Hub; empty if it is not there.
        sources: the data sets that it was joined of, if there are several.
    """

    name: str
    num_captions: int
    num_images: int
    revision: str = ""
    generator: Mapping[str, Any] = field(default_factory=dict)
    hub_id: str = ""
    sources: list[TrainingData] = field(default_factory=list)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TrainingData:
        """From its `dataclasses.asdict`."""
        return cls(**{**record, "sources": list(map(cls.of, record.get("sources", ())))})

    @property
    def parts(self) -> list[TrainingData]:
        """The data sets that it was joined of, or itself."""
        return self.sources or [self]

    @property
    def is_drawn(self) -> bool:
        """Whether a generator drew some of it."""
        return any(part.generator for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the cards of models and of data sets share.

    Attributes:
        name: the heading of the card, and what a model's results call it.
        license: Hub licence id of the weights or the data, such as "apache-2.0" or "other".
        license_name: name of the licence where `license` is "other".
        license_link: where that licence can be read.
        limits: sentences on what the model or the data cannot do, beside those that every such card has.
        licensed_parts: the chain from captions and generator to what the card is about.
        versions: package -> version.
        location: repository id or path in the usage examples.
        tags: Hub tags beside those that every card of this kind has.
    """

    name: str
    license: str
    license_name: str = ""
    license_link: str = ""
    limits: tuple[str, ...] = ()
    licensed_parts: tuple[LicensedPart, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    location: str = PLACEHOLDER
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelFacts(CardFacts):
    """Facts of a trained model, beside those of `CardFacts`.

    Attributes:
        form: What loads it: "encoder" is the stock class of its type, such as `ViTModel`, "pretraining" the full
            `StableRepModel` with remote code, "timm" a checkpoint of timm, "sentence-transformers" both towers as a
            stock dual encoder, "classifier" a stock classifier, "adapter" low-rank adapters for peft, "lora" those of
            a diffusers pipeline; its `data` are captioned images, and `training` has its "prompt_template".
        base_model: what the training started from, a Hub id; of adapters also where their examples load that from.
        classes: of a classifier or of adapters that make one.
        objective: "stablerep", "stablerep+", "simclr", "clip", "distill"; empty for an untrained or a converted model.
        origin: what it was converted from; empty for a model that was trained here.
        architecture: name -> value, as `describe_encoder` reads it from a folder.
        data: what it was trained on; None for an untrained model.
        training: setting -> value of the training run, JSON values, in the order to show.
        hardware: what it ran on; empty if unknown.
        training_seconds: how long; None if unknown.
        energy_kwh: what codecarbon estimated that the training used; None if it did not run.
        emissions_kg: CO2 equivalent of that, by the same estimate.
        results: measured numbers of this and of other encoders, to compare; those whose `encoder` is `name` go into
            the model index.
    """

    form: Form = "encoder"
    base_model: str = ""
    classes: tuple[str, ...] = ()
    objective: str = ""
    origin: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    data: TrainingData | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    hardware: str = ""
    training_seconds: float | None = None
    energy_kwh: float | None = None
    emissions_kg: float | None = None
    results: tuple[EvaluationResult, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetFacts(CardFacts):
    """Facts of a caption-grouped data set, beside those of `CardFacts`; `dataset_facts` reads most of them.

    Attributes:
        num_captions: captions that have images.
        num_images: rows.
        num_bytes: size of the files.
        plan: settings of the plan (`SynthesisPlan.settings`): generator, images_per_caption, templates, seed, format.
        revision: the plan's hash.
        files: names the content of the files: rows may get other values under one plan, such as scores.
        num_redrawn: frames that carried no picture, or resembled a sibling, and were drawn again.
        num_near_siblings: those of them that resembled a sibling.
        num_failed_captions: captions left out because they got no picture.
        num_truncated: prompts whose end the text encoder did not read.
        caption_history: what `stablerep captions` read, dropped and audited (`CaptionSet.history`); empty if the
            captions came straight from a source.
        seconds: time spent on drawing, over all workers.
        columns: column -> type, in order.
        scores: column of scores -> "mean", "lowest" and "highest" over the rows.
        score_histograms: what `stablerep_hf.synthesis.score_histograms` says of them.
        data_files: split -> pattern of its files.
        grid: picture of sample rows, a path relative to the card; empty if there is none.
        language: of the captions, ISO 639-1; empty if unknown.
    """

    num_captions: int
    num_images: int
    num_bytes: int
    plan: Mapping[str, Any]
    revision: str = ""
    files: str = ""
    num_redrawn: int = 0
    num_near_siblings: int = 0
    num_failed_captions: int = 0
    num_truncated: int = 0
    caption_history: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    score_histograms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data_files: Mapping[str, str] = field(default_factory=lambda: {"train": "data/train-*.parquet"})
    grid: str = ""
    language: tuple[str, ...] = ()


def save_facts(path: str | Path, facts: ModelFacts | DatasetFacts) -> None:
    """Write facts as JSON, so that the card can be made again from the file."""
    values = {"facts": type(facts).__name__, **dataclasses.asdict(facts)}
    if isinstance(facts, ModelFacts):
        values["results"] = [result.to_dict() for result in facts.results]
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    write_file(path, f"{text}\n".encode())


def load_facts(path: str | Path) -> ModelFacts | DatasetFacts:
    """Read what `save_facts` wrote.

    Raises:
        InputError: no such file, no facts in it, or facts of another version.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        kind = {"ModelFacts": ModelFacts, "DatasetFacts": DatasetFacts}[values.pop("facts")]
    except FileNotFoundError as error:
        raise InputError(f"There is no file of facts {str(path)!r}; make the card where the run was.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The file {str(path)!r} holds no facts of a card; give one that save_facts wrote."
        ) from error
    known = {entry.name for entry in dataclasses.fields(kind)}
    if wrong := sorted(set(values) - known):
        raise InputError(
            f"The facts in {str(path)!r} have the unknown fields {', '.join(wrong)}, so another version wrote them; "
            "make them anew."
        )
    with refusing(f"The facts in {str(path)!r} are not whole", "make them anew", (TypeError, AttributeError)):
        if "results" in values:
            values["results"] = tuple(EvaluationResult.from_dict(result) for result in values["results"])
        if "licensed_parts" in values:
            values["licensed_parts"] = tuple(LicensedPart(**part) for part in values["licensed_parts"])
        if values.get("data") is not None:
            values["data"] = TrainingData.of(values["data"])
        for name in ("limits", "tags", "language", "classes"):
            if name in values:
                values[name] = tuple(values[name])
        facts: ModelFacts | DatasetFacts = kind(**values)
    return facts


def check_license(license: object, license_name: str = "") -> None:
    """Refuse what the Hub refuses in a card.

    Raises:
        InputError: It is not the name of a licence, or "other" without a name beside it.
    """
    if not isinstance(license, str) or re.fullmatch(r"[\d.\s]+", license):
        raise InputError(f"license={license} is a number and not a licence: give the id of one, such as cc-by-4.0.")
    if not license or (license == "other" and not license_name):
        raise InputError(
            f"license={license or repr(license)} names none, and the Hub refuses a card without: give the id of a "
            "licence, such as cc-by-4.0, or leave it out."
        )
