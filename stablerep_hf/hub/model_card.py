"""The card of a model: an encoder, what was fine-tuned from one, a LoRA of a generator."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from ..errors import InputError
from ..evaluation.catalogue import MEASURES
from ..evaluation.results import EvaluationResult
from ..evaluation.tables import measure_name, public_name, results_table
from ..files.atomic import write_file
from .facts import PLACEHOLDER, ModelFacts, check_license
from .rendering import plain, render, render_body

_LIBRARIES = {  # form -> (library, pipeline)
    "encoder": ("transformers", "image-feature-extraction"),
    "pretraining": ("transformers", "image-feature-extraction"),
    "timm": ("timm", "image-feature-extraction"),
    "sentence-transformers": ("sentence-transformers", "sentence-similarity"),
    "classifier": ("transformers", "image-classification"),
    "adapter": ("peft", "image-classification"),
    "lora": ("diffusers", "text-to-image"),
}
_SIZES = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_TIMM_NAMES = dict(zip(_SIZES, ("img_size", "patch_size", "embed_dim", "depth", "num_heads"), strict=True))
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def render_model_card(facts: ModelFacts) -> ModelCard:
    """A model card whose every number comes from `facts`; the same facts give the same text.

    Raises:
        InputError: the licence is "other" without a name, or there are results and none is this model's.
    """
    check_license(facts.license, facts.license_name)
    results = [replace(result, dataset=public_name(result.dataset)) for result in facts.results]
    own = [result for result in results if result.encoder == facts.name]
    if results and not own:
        names = ", ".join(dict.fromkeys(repr(result.encoder) for result in results))
        raise InputError(
            f"The card is for {facts.name!r} and its results are of {names}; call the model what its results call it."
        )
    library, pipeline = _LIBRARIES[facts.form]
    fine_tuned, lora = facts.form in ("classifier", "adapter") and bool(facts.classes), facts.form == "lora"
    if facts.form == "adapter" and not fine_tuned:
        pipeline = "image-feature-extraction"
    of_repository = _REPOSITORY.fullmatch(facts.base_model) is not None
    data = ModelCardData(
        license=facts.license,
        license_name=facts.license_name or None,
        license_link=facts.license_link or None,
        library_name=library,
        pipeline_tag=pipeline,
        base_model=facts.base_model if of_repository else None,
        tags=[
            "stablerep",
            *(["lora"] if lora else [] if fine_tuned else ["self-supervised", "contrastive"]),
            *_synthetic_tag(facts),
            *facts.tags,
        ],
        datasets=[part.hub_id for part in facts.data.parts if part.hub_id] or None if facts.data else None,
        model_name=facts.name,
        eval_results=model_index_results(own) or None,
        co2_eq_emissions=_emissions(facts),
    )
    text = render(
        "lora_card.md.jinja" if lora else "model_card.md.jinja",
        data,
        facts=facts,
        base=public_name(facts.base_model),
        base_is_repository=of_repository,
        placeholder=PLACEHOLDER,
        fine_tuned=fine_tuned,
        **_stock(facts),
        settings=_that_applied(facts),
        **_results_section(facts.name, results),
    )
    return ModelCard(text)


def _stock(facts: ModelFacts) -> dict[str, str]:
    """The class of an encoder in transformers, and how it gives the feature of an image."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    from ..models import BACKBONES

    kind = str(facts.architecture.get("model_type", "vit"))
    kind = "timm_wrapper" if kind.startswith("timm ") else kind
    known = BACKBONES.get(kind, BACKBONES["vit"])
    return {"stock_class": str(MODEL_MAPPING_NAMES.get(kind, "ViTModel")), "feature": known.description}


def _that_applied(facts: ModelFacts) -> dict[str, Any]:
    """Settings of the training without those that had no part in it: of a text tower that is not there, say."""
    settings = dict(facts.training)
    idle = [name for name in ("dora", "adapter_targets") if not settings.get("lora_rank")]
    if settings.get("teacher") is None:
        idle += ["distill_"]
    if facts.objective and facts.objective not in ("stablerep+", "clip"):
        idle += ["text_", "image_text_"]
    if facts.objective and facts.objective != "supcon":
        idle += ["label_column"]
    if settings.get("probe_data") is None:
        idle += ["probe_"]
    if (settings.get("max_steps") or 0) > 0:
        idle += ["num_train_epochs"]
    return {name: value for name, value in settings.items() if not name.startswith(tuple(idle))}


def add_results(card: str, results: Sequence[EvaluationResult], weights: str) -> str:
    """Put results into the index and the table of a model's card, in place of those it has.

    Args:
        card: its text.
        results: the model's own and, to compare, others'. Its own are those of the same `weights_sha256` in their
            settings, whatever they call it; of results without one, those that call it as the card does.
        weights: `weights_sha256` of the model's folder.

    Raises:
        InputError: none of them is this model's, or some are of other weights under its name.
    """
    made = ModelCard(card, ignore_metadata_errors=True)
    name = plain(found[1]) if (found := re.search(r"^# (.+)$", made.text, re.MULTILINE)) else ""
    shown, own = [], []
    for result in results:
        result = replace(result, dataset=public_name(result.dataset))
        measured = result.settings.get("weights_sha256")
        if measured == weights or (measured is None and result.encoder == name):
            result = replace(result, encoder=name)
            own.append(result)
        elif result.encoder == name:
            raise InputError(f"The results of {name!r} are of other weights than these: evaluate the folder itself.")
        shown.append(result)
    if not own:
        names = ", ".join(dict.fromkeys(repr(result.encoder) for result in results))
        raise InputError(
            f"The card is for {name!r} and the results are of {names}, none of them with its weights: evaluate the "
            "folder itself."
        )
    made.data["model_name"], made.data["eval_results"] = name, model_index_results(own)
    section = render_body("results.md.jinja", **_results_section(name, shown))
    body = re.sub(r"^## Results\n.*?(?=^## |\Z)", "", made.text, flags=re.MULTILINE | re.DOTALL)
    before, limits, after = body.partition("## Limits and bias\n")
    made.text = f"{before.rstrip()}\n\n{section}\n{limits}{after}"
    return str(made)


def _results_section(name: str, results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """What `results.md.jinja` is filled with."""
    encoders = {result.encoder for result in results}
    measures = {measure_name(result) for result in results}
    return {
        "name": name,
        "results": results_table(results, measures_as_rows=len(measures) > len(encoders) > 1) if results else "",
        "compared": len(encoders) > 1,
        "chosen_inside_train": any("validation_fraction" in result.settings for result in results),
    }


def write_model_card(folder: str | Path, facts: ModelFacts) -> Path:
    """Write the card as `README.md` into the folder of the model, in place of one that is there."""
    path = Path(folder) / "README.md"
    write_file(path, str(render_model_card(facts)).encode())
    return path


def model_index_results(results: Sequence[EvaluationResult]) -> list[EvalResult]:
    """Results as entries of the Hub's model index; values are shares in [0, 1], rounded to four decimals.

    The interval, n, seeds and the protocol's settings are in the metric's arguments.
    """
    return [
        EvalResult(
            task_type=MEASURES[result.protocol].task[0],
            task_name=MEASURES[result.protocol].task[1],
            dataset_type=_dataset_id(result.dataset),
            dataset_name=result.dataset,
            dataset_split=result.split,
            dataset_revision=result.revision or None,
            metric_type=result.metric.replace("@", "_at_"),
            metric_name=measure_name(result),
            metric_value=round(result.value, 4),
            metric_args={
                "protocol": result.protocol,
                "low": round(result.low, 4),
                "high": round(result.high, 4),
                "interval": result.interval,
                "n": result.n,
                **({"seeds": list(result.seeds)} if result.seeds else {}),
                **({"chance": round(result.chance, 4)} if result.chance is not None else {}),
                **({"variant": result.variant} if result.variant else {}),
                "settings": result.settings,
            },
        )
        for result in results
    ]


def results_in_card(card: ModelCard, encoder: str) -> list[EvaluationResult]:
    """What `model_index_results` wrote into a card, as results of `encoder`; entries of other makers are left out."""
    found = []
    for entry in getattr(card.data, "eval_results", None) or []:
        values = {
            "encoder": encoder,
            "metric": entry.metric_type.replace("_at_", "@"),
            "value": entry.metric_value,
            "dataset": entry.dataset_name,
            "revision": entry.dataset_revision or "",
            "split": entry.dataset_split or "",
        }
        with suppress(InputError):
            found.append(EvaluationResult.from_dict(values | (entry.metric_args or {})))
    return found


def describe_encoder(folder: str | Path) -> dict[str, Any]:
    """Architecture of a saved vision model, from its `config.json`, processor and weights; no weight is loaded.

    Returns:
        Fit for `ModelFacts.architecture`: model type, sizes, parameters, and how images are prepared.

    Raises:
        InputError: the folder lacks a readable config or safetensors weights.
    """
    root = Path(folder)
    try:
        config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"The folder {str(folder)!r} has no readable config.json; give one that save_pretrained wrote."
        ) from error
    described: dict[str, Any]
    if "architecture" in config:  # timm's
        args, prepared = config.get("model_args") or {}, config["pretrained_cfg"]
        described = {"model_type": f"timm {config['architecture']}"}
        described |= {ours: args[theirs] for ours, theirs in _TIMM_NAMES.items() if theirs in args}
        prepared = {f"image_{name}": prepared[name] for name in ("mean", "std")}
    else:
        vision, text = config.get("vision_config") or config, config.get("text_config") or {}
        described = {"model_type": config["model_type"]}
        described |= {name: vision[name] for name in _SIZES if name in vision}
        described |= {f"text_{name}": text[name] for name in _SIZES[2:] if name in text}
        prepared = _image_processor(root)
    described["parameters"] = _count_parameters(root)
    return described | {name: prepared[name] for name in ("image_mean", "image_std") if prepared.get(name) is not None}


def weights_sha256(folder: str | Path) -> str:
    """Digest of the safetensors files of a folder, names and bytes; empty if it has none."""
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest() if files else ""


def _image_processor(root: Path) -> dict[str, Any]:
    """Settings of the image processor, from its own file or from that of a processor of images and texts."""
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (root / name).is_file():
            settings: dict[str, Any] = json.loads((root / name).read_text(encoding="utf-8"))
            return settings if key is None else settings.get(key, {})
    return {}


def _count_parameters(root: Path) -> int:
    files = sorted(root.glob("model*.safetensors"))  # a checkpoint has an average of the weights besides
    if not files:
        raise InputError(f"The folder {str(root)!r} has no safetensors weights; save the model into it first.")
    total = 0
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def _emissions(facts: ModelFacts) -> dict[str, Any] | None:
    """As the Hub wants it, in grams (https://huggingface.co/docs/hub/model-cards-co2)."""
    if facts.emissions_kg is None:
        return None
    reported: dict[str, Any] = {
        "emissions": round(1000 * facts.emissions_kg, 3),
        "source": "codecarbon",
        "training_type": "fine-tuning" if facts.form in ("classifier", "adapter") else "pre-training",
    }
    return reported | ({"hardware_used": facts.hardware} if facts.hardware else {})


def _synthetic_tag(facts: ModelFacts) -> list[str]:
    return ["synthetic-data"] if facts.data and facts.data.is_drawn else []


def _dataset_id(name: str) -> str:
    """The Hub wants an id: a repository's as it is, any other name in lower case with hyphens."""
    return name if _REPOSITORY.fullmatch(name) else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
