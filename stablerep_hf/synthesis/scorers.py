"""What measures an image: its alignment with the prompt, whether it is unsafe, the diversity among its siblings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..assets import ENCODERS, find_encoder
from ..errors import InputError, refusing
from .pipeline_folder import content_digest
from .settings import ScoringSettings
from .tokenizers import load_tokenizer

BATCH_SIZE = 64


class Scorer(Protocol):
    """Anything that gives each image of a shard a number.

    Attributes:
        column: The column it fills: "alignment", "nsfw" or "diversity".
    """

    column: str

    def describe(self) -> Mapping[str, object]:
        """Say what measured, as JSON values: rows that this measured already are not measured again."""
        ...

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        """Score the images of a shard: N finite numbers for N images in RGB.

        `rows` are their N rows, without the image; siblings are adjacent.
        """
        ...


class AlignmentScorer:
    """Cosine of image and prompt, in [-1, 1], in the space of a CLIP-like model of transformers (or our StableRep+).

    Radford et al. 2021; the CLIP score of Hessel et al. 2021 is 2.5 times its positive part. Of a long prompt
    the beginning counts, as much as the model reads.
    """

    column = "alignment"

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        tokenizer: str | None = None,
        image_processor: str | None = None,
        device: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: Folder or Hub id of a model with `get_image_features` and `get_text_features`, or "embedded".
            revision: Branch, tag or commit of a Hub id.
            tokenizer: Folder or Hub id, where the model's has none.
            image_processor: Likewise.
            device: By default the fastest there is.

        Raises:
            InputError: Something cannot be loaded, or the model has no text side.
        """
        from transformers import AutoImageProcessor, AutoModel

        from ..models import StableRepModel  # noqa: F401  # makes its type known to transformers

        source = find_encoder(model)
        self._model = _load(AutoModel, source, revision, device)
        sides = ("get_text_features", "get_image_features")
        text = getattr(self._model.config, "text_config", self._model.config)  # None: our model without its text tower
        if text is None or not all(hasattr(self._model, side) for side in sides):
            raise InputError(
                f"The model {model!r} is a {type(self._model).__name__}, which compares no images with text; give "
                "a CLIP-like one."
            )
        self._tokenizer = load_tokenizer(tokenizer or source, f"The tokenizer of {tokenizer or model!r}", revision)
        self._image_processor = _load_from(AutoImageProcessor, image_processor or source, revision)
        # Not every tokenizer says how much the model reads; without it nothing would be cut.
        most = getattr(text, "max_position_embeddings", None)
        self._most_tokens = None if most is None else min(most, self._tokenizer.model_max_length)
        self._described = _public("model", model, revision)

    def describe(self) -> Mapping[str, object]:
        """See `Scorer`."""
        return self._described

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """See `Scorer`."""
        import torch

        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(row["prompt"] for row in rows))}
        prompts = list(places)
        pad = "max_length" if "siglip" in str(self._model.config.model_type) else True  # as SigLIP was trained
        with torch.inference_mode():
            texts = []
            for start in range(0, len(prompts), BATCH_SIZE):
                tokens = self._tokenizer(
                    prompts[start : start + BATCH_SIZE],
                    padding=pad,
                    truncation=True,
                    max_length=self._most_tokens,
                    return_tensors="pt",
                )
                known = {
                    key: tokens[key].to(self._model.device) for key in ("input_ids", "attention_mask") if key in tokens
                }
                texts.append(_unit(self._model.get_text_features(**known)))
            pictures = [
                _unit(self._model.get_image_features(pixel_values=values.to(self._model.device, self._model.dtype)))
                for values in _pixels(self._image_processor, images)
            ]
            text = torch.cat(texts)[[places[row["prompt"]] for row in rows]]
            cosines: list[float] = (torch.cat(pictures) * text).sum(-1).tolist()
        return cosines


class UnsafeScorer:
    """Probability of the unsafe labels of an image classifier of transformers, in [0, 1]; the column `nsfw`."""

    column = "nsfw"

    def __init__(
        self, model: str, labels: Sequence[str] = ("nsfw",), *, revision: str | None = None, device: str | None = None
    ) -> None:
        """Load a classifier.

        Args:
            model: Folder or Hub id.
            labels: Its labels that count as unsafe; their probabilities are added.
            revision: Branch, tag or commit of a Hub id.
            device: By default the fastest there is.

        Raises:
            InputError: It cannot be loaded, or lacks a label.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self._model = _load(AutoModelForImageClassification, model, revision, device)
        self._image_processor = _load_from(AutoImageProcessor, model, revision)
        known = self._model.config.label2id
        if missing := [label for label in labels if label not in known]:
            raise InputError(
                f"The image classifier {model!r} has no label {missing[0]!r}; its labels are {sorted(known)}."
            )
        self._columns = [known[label] for label in labels]
        self._described = {**_public("model", model, revision), "labels": list(labels)}

    def describe(self) -> Mapping[str, object]:
        """See `Scorer`."""
        return self._described

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """See `Scorer`."""
        import torch

        result: list[float] = []
        with torch.inference_mode():
            for values in _pixels(self._image_processor, images):
                logits = self._model(values.to(self._model.device, self._model.dtype)).logits
                result += logits.float().softmax(-1)[:, self._columns].sum(-1).clamp(0, 1).tolist()
        return result


class DiversityScorer:
    """Vendi score of the images of one caption in an encoder's features; every sibling gets the same number."""

    column = "diversity"

    def __init__(self, encoder: str, *, device: str | None = None) -> None:
        """Load an encoder: a folder or Hub id of a vision model, see `evaluation.load_encoder`, or "embedded"."""
        from ..evaluation import load_encoder

        self._encoder = load_encoder(encoder, device=device)
        self._described = _public("encoder", encoder, None)

    def describe(self) -> Mapping[str, object]:
        """See `Scorer`."""
        return self._described

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """See `Scorer`."""
        import torch

        from ..evaluation.encoder import inference
        from ..evaluation.vendi import vendi_score

        with inference(self._encoder.model):
            pixels = _pixels(self._encoder.image_processor, images)
            features = torch.cat([self._encoder.encode(values)[0].cpu() for values in pixels]).numpy()
        ids = np.array([row["caption_id"] for row in rows])
        scores = {caption_id: vendi_score(features[ids == caption_id]) for caption_id in dict.fromkeys(ids.tolist())}
        return [scores[caption_id] for caption_id in ids.tolist()]


def load_scorers(settings: ScoringSettings, device: str | None) -> list[Scorer]:
    """Load the models that the settings name; `InputError` if one cannot be loaded."""
    scorers: list[Scorer] = []
    if settings.alignment_model:
        scorers.append(
            AlignmentScorer(
                settings.alignment_model,
                tokenizer=settings.tokenizer,
                image_processor=settings.image_processor,
                device=device,
            )
        )
    if settings.nsfw_model:
        scorers.append(UnsafeScorer(settings.nsfw_model, settings.nsfw_labels, device=device))
    if settings.diversity_encoder:
        scorers.append(DiversityScorer(settings.diversity_encoder, device=device))
    return scorers


def _pixels(image_processor: Any, images: Sequence[Image.Image]) -> Iterator[Any]:
    """The images as the processor prepares them, in batches."""
    for start in range(0, len(images), BATCH_SIZE):
        yield image_processor(images=list(images[start : start + BATCH_SIZE]), return_tensors="pt")["pixel_values"]


def _unit(output: Any) -> Any:
    """Features of a model of transformers 4 or 5, as unit vectors in float32."""
    features = getattr(output, "pooler_output", output).float()
    return features / features.norm(dim=-1, keepdim=True)


def _load(kind: Any, name: str, revision: str | None, device: str | None) -> Any:
    from ..evaluation.encoder import default_device

    return _load_from(kind, name, revision).eval().to(device or default_device())


def _load_from(kind: Any, name: str, revision: str | None) -> Any:
    safe = {"use_safetensors": True} if kind.__name__.startswith("AutoModel") else {}
    with refusing(f"{kind.__name__} cannot load {name!r}", "give a folder or a Hub id that has one"):
        return kind.from_pretrained(name, revision=revision, trust_remote_code=False, **safe)


def _public(kind: str, name: str, revision: str | None) -> dict[str, object]:
    """What a record may say of a model: no path; of a folder its content's digest."""
    folder = Path(find_encoder(name))
    if folder.is_dir():
        return {kind: name if name in ENCODERS else folder.resolve().name, "revision": content_digest(folder)}
    return {kind: name, "revision": revision}
