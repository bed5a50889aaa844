"""Extracted features on the disk, under a name made of everything they depend on."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..files.atomic import write_file
from .encoder import VisionEncoder
from .image_transforms import ImageTransform

SHARD_ROWS = 1024


@dataclass(frozen=True)
class Shard:
    """Features of `SHARD_ROWS` consecutive rows, the last shard's of fewer.

    Attributes:
        rows: (n,) int64, those that decoded.
        features: (n, D) float32.
        embeds: (n, E) float32; E is 0 where the encoder has no shared space.
        bad_rows: (b,) int64, those that did not.
        reasons: (b,) why.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    embeds: NDArray[np.float32]
    bad_rows: NDArray[np.int64]
    reasons: NDArray[np.str_]


class FeatureCache:
    """The shards of one encoder, data set and preparation.

    Each is written whole or not at all, so an extraction that is killed goes on behind its last shard; one that is
    damaged is made again.

    Args:
        directory: of all caches; this one is a folder in it.
        identity: what the features depend on, JSON values.

    Raises:
        InputError: the folder holds features of something else.
    """

    def __init__(self, directory: str | Path, identity: dict[str, Any]) -> None:
        text = json.dumps(identity, indent=2, sort_keys=True)
        self.folder = Path(directory) / hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        record = self.folder / "identity.json"
        if not record.exists():
            write_file(record, text.encode())
        elif record.read_text("utf-8") != text:
            try:
                theirs = json.loads(record.read_text("utf-8"))
                differ = [name for name in identity if theirs.get(name) != identity[name]] or ["another format"]
            except (ValueError, AttributeError):
                differ = ["nothing that can be read"]
            raise InputError(
                f"The feature cache {str(self.folder)!r} was made from something else ({', '.join(differ)}), so its "
                "features cannot be used; remove that folder or name another cache."
            )

    def load(self, shard: int) -> Shard | None:
        """A shard, or None if it is not there or damaged."""
        try:
            with np.load(self._path(shard), allow_pickle=False) as arrays:
                return Shard(**{name: arrays[name] for name in Shard.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, shard: int, content: Shard) -> None:
        """Write a shard."""
        stream = io.BytesIO()
        arrays: dict[str, Any] = vars(content)
        np.savez(stream, **arrays)
        write_file(self._path(shard), stream.getvalue())

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.npz"


def feature_identity(
    vision: VisionEncoder,
    dataset: Dataset,
    image_column: str,
    transform: ImageTransform | None,
    precision: str = "float32",
) -> dict[str, Any]:
    """What features depend on: the encoder's weights and form, its preparation of images, the data, the transform.

    Batch size, workers and device are not in it: they change a feature by float rounding only.

    Raises:
        InputError: the image processor cannot say what it does.
    """
    describe = getattr(vision.image_processor, "to_json_string", None)
    if describe is None:
        raise InputError(
            f"The image processor {type(vision.image_processor).__name__} has no to_json_string, so features that it "
            "prepared cannot be distinguished from others; extract without a cache, or index in memory."
        )
    config = getattr(vision.whole, "config", None)
    return {
        "weights": weights_digest(vision.whole),
        "form": _digest(f"{vision.whole!r}\n{config.to_json_string() if config is not None else ''}".encode()),
        "feature": vision.feature,
        "pictures": "RGB, transparent parts on white, more than 8 bits scaled",
        "image processor": _digest(describe().encode()),
        "transform": transform.describe() if transform is not None else None,
        "data": dataset._fingerprint,
        "rows": len(dataset),
        "precision": precision,
        "image column": image_column,
        "shard rows": SHARD_ROWS,
    }


def weights_digest(model: torch.nn.Module) -> str:
    """Hash of the names, dtypes, shapes and values of a model's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # as bytes, because NumPy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
