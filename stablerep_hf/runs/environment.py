"""What a run depends on beside its settings: versions, devices and folders of this machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from ..files.places import free_bytes

PACKAGES = (
    "stablerep_hf",
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "diffusers",
    "accelerate",
    "huggingface_hub",
    "numpy",
    "pillow",
    "timm",
    "peft",
    "onnxruntime",
    "gradio",
)
"""What is built on, then what extras bring."""

# Variables that change what is read from where, or on what; none of them is a secret.
_VARIABLES = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE")


def environment() -> dict[str, str]:
    """Versions, devices and caches by name, for a bug report; no token and no other secret is among them."""
    import datasets
    import torch
    from huggingface_hub import constants

    facts = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["CPU"] = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    facts["accelerator"] = "none" if accelerator is None else accelerator.type
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        facts[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    for name, folder in (
        ("models cache", constants.HF_HUB_CACHE),
        ("datasets cache", datasets.config.HF_DATASETS_CACHE),
    ):
        facts[name] = f"{folder}, {free_bytes(folder) / 2**30:.0f} GiB free"
    facts |= {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return facts
