"""Folders that can be published, small, and with what must never be."""

from __future__ import annotations

import random
from pathlib import Path

CARDS = {
    "model": "---\nlicense: mit\nlibrary_name: transformers\n---\n\n# Model\n\nload('path/to/this/folder')\n",
    "dataset": "---\nlicense: mit\nsize_categories:\n- n<1K\n---\n\n# Data\n\nload('path/to/this/folder')\n",
    "space": "---\ntitle: Space\nsdk: gradio\napp_file: app.py\ncolorFrom: red\ncolorTo: blue\nlicense: mit\n---\n",
}
UNWANTED = (
    "training_args.bin",
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.pkl",
    "checkpoints/checkpoint-2/model.safetensors",
    "checkpoint-7/optimizer.pt",
    "last-checkpoint/rng_state.pth",
    "__pycache__/app.cpython-311.pyc",
    ".env",
    ".cache/huggingface/token",
    ".git/config",
    "hub_token.txt",
    "credentials.json",
    "secrets/prod.json",
    "data/.train-00000-of-00002.parquet.1.tmp",
    "runs/events.out.tfevents.1",
    "pretraining/model.safetensors",
)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(kind: str, seed: int = 0, shards: int = 3, size: int = 20_000) -> dict[str, bytes]:
    """The files of a model, data set or Space; large ones hold noise."""
    noise = random.Random(seed)
    files = {"README.md": CARDS[kind].encode()}
    if kind == "model":
        files |= {"config.json": b'{"model_type": "vit"}', "model.safetensors": noise.randbytes(size)}
    elif kind == "dataset":
        names = [f"data/train-{shard:05d}-of-{shards:05d}.parquet" for shard in range(shards)]
        files |= {name: noise.randbytes(size) for name in names}
    else:
        files |= {"app.py": b"print('a page')", "requirements.txt": b"gradio"}
    return files


def published(kind: str, repository: str, **how: int) -> dict[str, bytes]:
    """What `contents` becomes on the Hub."""
    files = contents(kind, **how)
    return files | {"README.md": files["README.md"].replace(b"path/to/this/folder", repository.encode())}
