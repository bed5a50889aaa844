"""Images and texts a second: ONNX Runtime on exported towers beside PyTorch, on the CPU, in the same run.

    python scripts/bench_onnx.py --threads 1

The embedded StableRep+ model (both towers), and a ViT-S/16 at 224 pixels with random weights, since speed does not
depend on them. Each is exported, also with weights of 8 bits, and asked for batches; the ways take turns, and the best
time counts. The last column is the smallest cosine between an output and PyTorch's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import set_seed

from stablerep_hf import StableRepConfig, StableRepModel, assets
from stablerep_hf.models import encode_images
from stablerep_hf.models.onnx_export import export_onnx

Way = Callable[[], NDArray[np.float32]]


def session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """On the CPU, with as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def race(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Best seconds of each, in turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats + 1):  # one turn more, to warm up
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def compare(label: str, ways: dict[str, Way], number: int, repeats: int) -> None:
    """A line for each way."""
    expected = ways["torch"]()
    seconds = race(ways, repeats)
    for name, way in ways.items():
        found = way()
        cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        print(
            f"{label:34} {name:10} {number / seconds[name]:10.0f} /s {seconds['torch'] / seconds[name]:6.2f} x"
            f"   cosine >= {cosines.min():.5f}",
            flush=True,
        )


@torch.no_grad()
def bench(name: str, model: StableRepModel, batches: Sequence[int], threads: int, repeats: int) -> None:
    """Both towers, or the one there is."""
    model.eval()
    size = model.config.vision_config.image_size
    with tempfile.TemporaryDirectory() as folder:
        files = {name: file.path for name, file in export_onnx(model, folder, int8=True).items()}
        sessions = {part: session(file, threads) for part, file in files.items()}
    for batch in batches:
        for part in (part for part in ("model", "vision_model", "text_model") if part in files):
            if part == "text_model":
                ids = torch.randint(3, model.config.text_config.vocab_size, (batch, 12))
                ids[:, -1] = model.config.text_config.eos_token_id
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            else:
                inputs = {"pixel_values": torch.randn(batch, 3, size, size)}
            arrays = {key: value.numpy() for key, value in inputs.items()}

            def by_torch(part: str = part, inputs: dict[str, torch.Tensor] = inputs) -> NDArray[np.float32]:
                if part == "text_model":
                    return model.get_text_features(**inputs).pooler_output.numpy()
                features = encode_images(model.vision_model, **inputs).pooler_output
                return (features if part == "model" else model.image_projection(features)).numpy()

            ways: dict[str, Way] = {"torch": by_torch}
            output = {"model": "pooler_output", "vision_model": "image_embeds", "text_model": "text_embeds"}[part]
            for kind, suffix in (("onnx", ""), ("onnx int8", "_quantized")):
                run = sessions[part + suffix].run
                ways[kind] = lambda run=run, output=output, arrays=arrays: run([output], arrays)[0]  # type: ignore[misc]
            compare(f"{name}, {part}, batch {batch}", ways, batch, repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_seed(0)
    embedded = StableRepModel.from_pretrained(assets.dual_encoder_path())
    small = StableRepModel(StableRepConfig.from_size("small"))
    for name, model in (("embedded", embedded), ("ViT-S/16", small)):
        bench(name, model, options.batches, options.threads, options.repeats)


if __name__ == "__main__":
    main()
