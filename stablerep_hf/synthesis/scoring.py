"""Scores of stored images, written into their rows: alignment with the prompt, nsfw, diversity among siblings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from ..errors import InputError
from .pipeline_folder import content_digest, first_line
from .verification import open_store

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
        """Score the images of a shard.

        Args:
            images: N images, RGB.
            rows: N rows, without their image; siblings stand together.

        Returns:
            N finite numbers.
        """
        ...


@dataclass(frozen=True)
class ScoringSummary:
    """What one call of `score_store` did.

    Attributes:
        num_images: Images scored now.
        num_kept: Images that had these scores already.
        means: Column -> mean over all images of the folder.
    """

    num_images: int
    num_kept: int
    means: Mapping[str, float]


def score_store(folder: str | Path, scorers: Sequence[Scorer], *, progress: bool = True) -> ScoringSummary:
    """Fill score columns of a folder that `synthesize` drew into.

    Shard by shard, each replaced at once: a kill leaves every shard whole, and another call goes on with those that
    lack a score or have it from something else. The images are not touched.

    Args:
        folder: The folder; it must be whole.
        scorers: What measures.
        progress: Whether to show a bar.

    Raises:
        InputError: If a shard is missing or damaged, an image cannot be read, or a scorer gives no finite number.
    """
    store = open_store(folder)
    records = [store.find_record(shard) for shard in range(store.plan.num_shards)]
    if absent := sum(record is None for record in records):
        raise InputError(
            f"{absent} of {len(records)} shards of {str(folder)!r} are missing or damaged, so the whole cannot be "
            "scored; finish or repair the folder first."
        )
    num_images = num_kept = 0
    sums = {scorer.column: 0.0 for scorer in scorers}
    for shard, record in enumerate(tqdm(records, desc="Scoring", unit="shard", leave=False, disable=not progress)):
        assert record is not None
        missing = [
            scorer for scorer in scorers if record.get("scores", {}).get(scorer.column) != dict(scorer.describe())
        ]
        rows = pq.read_table(store.shard_path(shard)).to_pylist()
        if missing and rows:
            bare = [{key: value for key, value in row.items() if key != "image"} for row in rows]
            images = [_open(row) for row in rows]
            for scorer in missing:
                _fill(rows, scorer.column, scorer(images, bare))
            scores = {**record.get("scores", {}), **{scorer.column: dict(scorer.describe()) for scorer in missing}}
            store.replace_rows(shard, record, rows, {"scores": scores})
            num_images += len(rows)
        else:
            num_kept += len(rows)
        for column in sums:
            sums[column] += sum(row[column] for row in rows)
    total = max(1, num_images + num_kept)
    return ScoringSummary(num_images, num_kept, {column: value / total for column, value in sums.items()})


def score_histograms(folder: str | Path, bins: int = 20) -> dict[str, dict[str, Any]]:
    """What a card says of the scores of a folder that `score_store` filled.

    Args:
        folder: The folder.
        bins: Bars of a histogram.

    Returns:
        For each score that every row has, as JSON values: `scorer` (what measured), `mean`, `edges` (bins + 1) and
        `counts` (bins). Diversity is counted once a caption.
    """
    store = open_store(folder)
    found = [record for shard in range(store.plan.num_shards) if (record := store.find_record(shard)) is not None]
    if not found:
        return {}
    paths = [store.shard_path(record["shard"]) for record in found]
    columns = ["caption_id", "alignment", "nsfw", "diversity"]
    table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    first_rows = np.unique(table["caption_id"].to_numpy(), return_index=True)[1]
    result: dict[str, dict[str, Any]] = {}
    for column, scorer in found[0].get("scores", {}).items():
        if not table[column].null_count:
            values = table[column].to_numpy().astype(np.float64)
            values = values[first_rows] if column == DiversityScorer.column else values
            counts, edges = np.histogram(values, bins)
            numbers = {"mean": float(values.mean()), "edges": edges.tolist(), "counts": counts.tolist()}
            result[column] = {"scorer": scorer, **numbers}
    return result


def _open(row: Mapping[str, Any]) -> Image.Image:
    try:
        return Image.open(BytesIO(row["image"]["bytes"])).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"Image {row['image_index']} of caption_id {row['caption_id']} cannot be decoded ({error}); "
            "`stablerep verify --repair` draws it again."
        ) from error


def _fill(rows: list[dict[str, Any]], column: str, values: Sequence[float]) -> None:
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (len(rows),) or not np.isfinite(numbers).all():
        raise InputError(
            f"The scorer of {column!r} gave {numbers.shape} numbers for {len(rows)} images, or some that are not "
            "finite; look at its model."
        )
    for row, value in zip(rows, numbers.tolist(), strict=True):
        row[column] = value


class AlignmentScorer:
    """Cosine of image and prompt, in [-1, 1], in the space of a CLIP-like model of transformers (or our StableRep+).

    Radford et al. 2021; the CLIP score of Hessel et al. 2021 is 2.5 times its positive part.
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
            model: Folder or Hub id of a model with `get_image_features` and `get_text_features`.
            revision: Branch, tag or commit of a Hub id.
            tokenizer: Folder or Hub id, where the model's has none; so for `image_processor`.
            image_processor: See there.
            device: By default the fastest there is.

        Raises:
            InputError: If something cannot be loaded, or the model has no text side.
        """
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self._model = _load(AutoModel, model, revision, device)
        self._tokenizer = _load_from(AutoTokenizer, tokenizer or model, revision)
        self._image_processor = _load_from(AutoImageProcessor, image_processor or model, revision)
        if not hasattr(self._model, "get_text_features") or not hasattr(self._model, "get_image_features"):
            raise InputError(
                f"The model {model!r} is a {type(self._model).__name__}, which compares no images with text; give "
                "a CLIP-like one."
            )
        self._name = _public(model, revision)

    def describe(self) -> Mapping[str, object]:
        """See `Scorer`."""
        return {"model": self._name[0], "revision": self._name[1]}

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
                    prompts[start : start + BATCH_SIZE], padding=pad, truncation=True, return_tensors="pt"
                )
                known = {
                    key: tokens[key].to(self._model.device) for key in ("input_ids", "attention_mask") if key in tokens
                }
                texts.append(_unit(self._model.get_text_features(**known)))
            pictures = []
            for start in range(0, len(images), BATCH_SIZE):
                pixels = self._image_processor(images=list(images[start : start + BATCH_SIZE]), return_tensors="pt")
                values = pixels["pixel_values"].to(self._model.device, self._model.dtype)
                pictures.append(_unit(self._model.get_image_features(pixel_values=values)))
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
            InputError: If it cannot be loaded, or lacks a label.
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
        self._labels = tuple(labels)
        self._name = _public(model, revision)

    def describe(self) -> Mapping[str, object]:
        """See `Scorer`."""
        return {"model": self._name[0], "revision": self._name[1], "labels": list(self._labels)}

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """See `Scorer`."""
        import torch

        result: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH_SIZE):
                pixels = self._image_processor(images=list(images[start : start + BATCH_SIZE]), return_tensors="pt")
                logits = self._model(pixels["pixel_values"].to(self._model.device, self._model.dtype)).logits
                result += logits.float().softmax(-1)[:, self._columns].sum(-1).clamp(0, 1).tolist()
        return result


class DiversityScorer:
    """Vendi score of the images of one caption in an encoder's features; every sibling gets the same number."""

    column = "diversity"

    def __init__(self, encoder: str, *, device: str | None = None) -> None:
        """Load an encoder.

        Args:
            encoder: Folder or Hub id of a vision model, see `stablerep_hf.evaluation.load_encoder`.
            device: By default the fastest there is.
        """
        from ..evaluation import load_encoder

        self._encoder = load_encoder(encoder, device=device)
        self._name = _public(encoder, None)

    def describe(self) -> Mapping[str, object]:
        """See `Scorer`."""
        return {"encoder": self._name[0], "revision": self._name[1]}

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """See `Scorer`."""
        import torch

        from ..evaluation.encoder import inference
        from ..evaluation.vendi import vendi_score

        parts = []
        with inference(self._encoder.model):
            for start in range(0, len(images), BATCH_SIZE):
                pixels = self._encoder.image_processor(
                    images=list(images[start : start + BATCH_SIZE]), return_tensors="pt"
                )
                parts.append(self._encoder.encode(pixels["pixel_values"])[0].cpu())
        features = torch.cat(parts).numpy()
        ids = np.array([row["caption_id"] for row in rows])
        scores = {caption_id: vendi_score(features[ids == caption_id]) for caption_id in dict.fromkeys(ids.tolist())}
        return [scores[caption_id] for caption_id in ids.tolist()]


def _unit(output: Any) -> Any:
    """Features of a model of transformers 4 or 5, as unit vectors in float32."""
    features = getattr(output, "pooler_output", output).float()
    return features / features.norm(dim=-1, keepdim=True)


def _load(kind: Any, name: str, revision: str | None, device: str | None) -> Any:
    from ..evaluation.encoder import default_device

    return _load_from(kind, name, revision).eval().to(device or default_device())


def _load_from(kind: Any, name: str, revision: str | None) -> Any:
    try:
        return kind.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{kind.__name__} cannot load {name!r} ({first_line(error)}); give a folder or a Hub id that has one."
        ) from error


def _public(name: str, revision: str | None) -> tuple[str, str | None]:
    """What a record may say of a model: no path; of a folder its content's digest."""
    folder = Path(name)
    return (folder.resolve().name, content_digest(folder)) if folder.is_dir() else (name, revision)
