"""What of a folder belongs on the Hub, and as what."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import RepoCard

from ..errors import InputError
from ..evaluation.results import EvaluationResult
from ..files.shards import check_shards
from .facts import PLACEHOLDER
from .model_card import add_results, weights_sha256

# Only what is known to be data, weights, text or pictures leaves the machine: neither pickles (`training_args.bin`,
# `optimizer.pt`, `rng_state.pth`) nor anything nobody thought of.
_TEXTS = frozenset(
    ".json .jsonl .jinja .md .txt .py .pyi .csv .yaml .yml .toml .css .html .js .svg".split()  # noqa: SIM905
)
_WEIGHTS = (".safetensors", ".onnx")
_BINARIES = frozenset({*_WEIGHTS, ".parquet", ".model", ".png", ".jpg", ".jpeg", ".webp", ".gif"})
PUBLISHED_SUFFIXES = _TEXTS | _BINARIES
PUBLISHED_NAMES = frozenset({"LICENSE", "NOTICE"})
# State of a training run and its record, which may name folders of this machine (the card says what is in it), caches,
# hidden files, and the full model, which is published as a repository of its own.
LEFT_OUT = (
    "training.json",
    "finetuning.json",
    "adaptation.json",
    "checkpoints",
    "checkpoint-*",
    "last-checkpoint",
    "pretraining",
    "adapter",
    "__pycache__",
    "runs",
    "wandb",
    ".*",
)
# What loaders read: of an earlier version it must not stay beside the new one, or they would mix the two.
_LOADED = re.compile(
    r"(.+/)?([^/]+\.(safetensors|onnx|model)|[^/]*(config|tokenizer|tokens|modules|index)[^/]*\.json|vocab\.\w+|merges\.txt)"
)
_REPLACED = {
    "dataset": re.compile(r"data/.+\.parquet|(provenance|manifest)/.+"),
    "model": _LOADED,
    "adapter": _LOADED,
    "lora": _LOADED,
    "generator": _LOADED,
    "space": re.compile(r"stablerep_hf/.+"),
}
_SECRET_NAME = re.compile(r"(^|[._-])(secrets?|credentials?|token|passwords?|id_rsa)([._-]|$)", re.IGNORECASE)
_SECRET = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}\b|\bgh[opsur]_[A-Za-z0-9]{36}|\bgithub_pat_\w{22}"  # Hugging Face, GitHub
    rb"|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bsk-(proj|ant|svcacct)-[\w-]{20}|\bsk-[A-Za-z0-9]{40}"  # AWS, OpenAI, Anthropic
    rb"|(?i:wandb_api_key)\W{1,5}\w{40}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_LONGEST_SECRET = 256  # bytes of one that suffice to know it
_MOST_FILES_IN_A_FOLDER = 10_000  # of the Hub: https://huggingface.co/docs/hub/storage-limits

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_PHOTOS = (
    "; a folder of pictures is published by `datasets.load_dataset('imagefolder', data_dir=FOLDER)` and its "
    "`push_to_hub(REPOSITORY)`, which needs no package of ours."
)

REPO_TYPES = {
    "model": "model",
    "adapter": "model",
    "lora": "model",
    "generator": "model",
    "dataset": "dataset",
    "space": "space",
}
_NAMED = {
    "model": "a model (config.json)",
    "adapter": "adapters (adapter_config.json)",
    "lora": "a LoRA of a diffusers pipeline (pytorch_lora_weights.safetensors)",
    "generator": "a diffusers pipeline (model_index.json)",
    "dataset": "a data set (data/*.parquet)",
    "space": "a Space (app.py)",
}


@dataclass(frozen=True)
class Publication:
    """What would go where.

    Attributes:
        folder: The local folder.
        kind: A key of `REPO_TYPES`, as the folder's content says.
        files: Paths in the repository and their sizes in bytes, in order.
        left_out: Paths of the folder that stay where they are.
        metadata: The YAML of the card.
        text: The card, with the results that were given to `plan_publication`.
    """

    folder: Path
    kind: str
    files: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]
    metadata: dict[str, Any]
    text: str

    @property
    def repo_type(self) -> str:
        """The Hub's: "model", "dataset" or "space"."""
        return REPO_TYPES[self.kind]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(size for _, size in self.files)

    def replaced(self, there: Iterable[str]) -> list[str]:
        """Which files of a repository this version takes the place of and does not have: shards, weights, settings."""
        names = {name for name, _ in self.files}
        return [
            path
            for path in sorted(there)
            if path not in names and _is_published(path) and _REPLACED[self.kind].fullmatch(path)
        ]

    def card(self, repository: str) -> str:
        """The card as it is published: its examples load the repository instead of the folder."""
        return self.text.replace(f"local-dir:{PLACEHOLDER}", f"hf-hub:{repository}").replace(PLACEHOLDER, repository)


def plan_publication(folder: str | Path, results: Sequence[EvaluationResult] = ()) -> Publication:
    """Look at a folder and list what publishing it uploads.

    Args:
        folder: The folder.
        results: Of a model, for its published card; see `add_results`. The folder stays as it is.

    Raises:
        InputError: It is not there, nothing in it can be published, its card is missing or unreadable, weights or
            shards are missing or damaged, a file holds a secret, there are more files than the Hub takes, or the
            results are of another model.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"There is no folder {folder}: name one that `stablerep` wrote.")
    files = (path for path in root.rglob("*") if path.is_file() or _is_broken(path))
    paths = sorted(path.relative_to(root).as_posix() for path in files)
    for path in paths:
        if path.encode("utf-8", "replace") != path.encode("utf-8", "surrogateescape"):
            raise InputError(f"{folder} has a file named {path!a}, which is not UTF-8 as on the Hub: rename it.")
    kind = kind_of(paths)
    if kind is None:
        raise InputError(
            f"{folder} holds none of {', '.join(_NAMED.values())}: give a folder that `stablerep generate` or "
            "`stablerep train` finished, a diffusers pipeline or a Space"
            + (_PHOTOS if any(PurePosixPath(path).suffix.lower() in _PICTURES for path in paths) else ".")
        )
    if "README.md" not in paths:
        raise InputError(f"{folder} has no card (README.md), so its making was not finished: run that command again.")
    kept = [path for path in paths if _is_published(path)]
    for path in kept:
        if _is_broken(root / path):
            raise InputError(f"{path} in {folder} is a link to a file that is not there: put the file in its place.")
        if PurePosixPath(path).suffix.lower() not in _BINARIES and _holds_secret(root / path):
            raise InputError(
                f"{path} in {folder} holds what looks like a token or a private key, which must not be published: "
                "remove it and revoke it."
            )
    fullest, count = Counter(str(PurePosixPath(path).parent) for path in kept).most_common(1)[0]
    if count > _MOST_FILES_IN_A_FOLDER:
        raise InputError(
            f"{folder} has {count:,} files in {fullest!r}, and the Hub takes {_MOST_FILES_IN_A_FOLDER:,} in a folder: "
            "draw with more `captions_per_shard`."
        )
    if kind == "dataset":
        check_shards(root)
    else:
        _refuse_missing_weights(root, kind, kept)
    sizes = tuple((path, (root / path).stat().st_size) for path in kept)
    text, metadata = _read_card(root / "README.md")
    if results:
        if kind not in ("model", "adapter"):
            raise InputError(f"{folder} is {_NAMED[kind]}, and results are of models: leave out `results`.")
        text = add_results(text, results, weights_sha256(root))
    return Publication(root, kind, sizes, tuple(path for path in paths if path not in set(kept)), metadata, text)


def kind_of(paths: Iterable[str]) -> str | None:
    """What the files of a folder or repository are: a key of `REPO_TYPES`; None if nothing that is published here."""
    names = set(paths)
    for kind, pattern in (
        ("generator", "model_index.json"),
        ("model", "config.json"),
        ("adapter", "adapter_config.json"),
        ("lora", "pytorch_lora_weights.safetensors"),
        ("dataset", "data/*.parquet"),
        ("space", "app.py"),
    ):
        if any(fnmatch(name, pattern) for name in names):
            return kind
    return None


def describe_kind(kind: str) -> str:
    """A kind in words."""
    return _NAMED[kind]


def _is_published(path: str) -> bool:
    parts = PurePosixPath(path).parts
    if any(_SECRET_NAME.search(part) or any(fnmatch(part, pattern) for pattern in LEFT_OUT) for part in parts):
        return False
    return parts[-1] in PUBLISHED_NAMES or PurePosixPath(path).suffix.lower() in PUBLISHED_SUFFIXES


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _holds_secret(path: Path) -> bool:
    end = b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if _SECRET.search(end + block):
                return True
            end = block[-_LONGEST_SECRET:]
    return False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}), so it was damaged: make it again.") from error


def _refuse_missing_weights(root: Path, kind: str, kept: list[str]) -> None:
    """Every model needs weights that are published, which pickles are not; one in several files needs all of them."""
    models = {
        "model": ["config.json"],
        "adapter": ["adapter_config.json"],
        "generator": [path for path in kept if PurePosixPath(path).name == "config.json"],
    }.get(kind, [])
    for model in models:
        folder = PurePosixPath(model).parent
        if not any(fnmatch(path, str(folder / f"*{suffix}")) for path in kept for suffix in _WEIGHTS):
            raise InputError(
                f"{root / folder} has no weights that can be published ({' or '.join(_WEIGHTS)}; pickles are not): "
                "save them as safetensors."
            )
    for index in (path for path in kept if path.endswith(".safetensors.index.json")):
        parts = set(_read_json(root / index)["weight_map"].values())
        if missing := sorted(part for part in parts if str(PurePosixPath(index).parent / part) not in kept):
            raise InputError(f"{index} in {root} names {missing[0]}, which is not there: save the model again.")


def _read_card(path: Path) -> tuple[str, dict[str, Any]]:
    """Text and YAML of the card."""
    try:
        text = path.read_text("utf-8")
        metadata: dict[str, Any] = RepoCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError) as error:
        problem = re.sub(r"\s+", " ", str(error)).strip()
        raise InputError(
            f"The card {path} begins with YAML that cannot be read ({problem[:160]}): correct it."
        ) from error
    return text, metadata
