"""Time and memory of the multi-positive loss, forward and backward, beside two yardsticks, in the same run.

    python scripts/bench_loss.py --threads 1

- "full matrix": the loss as a cross-entropy over the N x N matrix of similarities, autograd doing the rest; up to
  `--largest-matrix`.
- "products": the matrix products alone that a streamed loss must do (each tile of half the matrix made twice, and
  multiplied with both of its sides), nothing computed from them.

Each measurement has a process of its own, so that the peak of one is not hidden in another's. Memory is what the call
takes beyond the embeddings it is given: of the process on a CPU, of the allocator on CUDA.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from benching import Report, measure, peak_bytes
from torch import Tensor

from stablerep_hf.losses import multi_positive_loss

TEMPERATURE, DIMENSION, SIBLINGS = 0.1, 256, 6


def streamed(embeds: Tensor, ids: Tensor) -> None:
    """Ours."""
    multi_positive_loss(embeds, ids, TEMPERATURE).backward()


def full_matrix(embeds: Tensor, ids: Tensor) -> None:
    """The plain way: mask, log-softmax, mean over positives."""
    unit = torch.nn.functional.normalize(embeds, dim=-1)
    logits = unit @ unit.T / TEMPERATURE
    own = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    logits = logits.masked_fill(own, -1e9)
    positives = ((ids[:, None] == ids) & ~own).to(logits.dtype)
    target = positives / positives.sum(1, keepdim=True).clamp(min=1)
    loss = -(target * torch.log_softmax(logits, dim=1)).sum(1).mean()
    loss.backward()


def products(embeds: Tensor, ids: Tensor, tile: int = 512) -> None:
    """The matrix products of `streamed` and nothing else."""
    rows, grad = embeds.detach(), torch.zeros_like(embeds)
    starts = range(0, len(rows), tile)
    for i in starts:
        for j in starts[i // tile :]:
            torch.mm(rows[i : i + tile], rows[j : j + tile].T)
    for i in starts:
        for j in starts[i // tile :]:
            logits = torch.mm(rows[i : i + tile], rows[j : j + tile].T)
            grad[i : i + tile].addmm_(logits, rows[j : j + tile])
            if i != j:
                grad[j : j + tile].addmm_(logits.T, rows[i : i + tile])


WAYS = {"streamed": streamed, "full matrix": full_matrix, "products": products}


def step(way: str, size: int, options: argparse.Namespace, report: Report) -> None:
    """Best seconds and peak extra bytes of one way at one N; the first call is the one whose memory counts."""
    torch.set_num_threads(options.threads)
    device, generator = options.device, torch.Generator().manual_seed(0)
    small = torch.randn(64, DIMENSION, generator=generator).to(device).requires_grad_()
    WAYS[way](small, torch.arange(64, device=device) // SIBLINGS)  # libraries load themselves on the first call
    embeds = torch.randn(size, DIMENSION, generator=generator).to(device).requires_grad_()
    ids = torch.arange(size, device=device) // SIBLINGS
    before = peak(device)
    seconds = []
    for repeat in range(options.repeats):
        embeds.grad = None
        start = time.perf_counter()
        WAYS[way](embeds, ids)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            extra = peak(device) - before
    report(seconds=min(seconds), bytes=extra)


def peak(device: str) -> int:
    """Bytes: on a CPU the largest the process ever was, on CUDA the largest the allocator was since it was asked."""
    if device == "cpu":
        return peak_bytes()
    used = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return used


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope of log(value) over log(N)."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1)), 1)[0])


def main() -> None:
    """Measure, print a Markdown table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8256, 16384, 32768, 65536])
    parser.add_argument("--largest-matrix", type=int, default=16384)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON of the measurements")
    options = parser.parse_args()
    print("| N | streamed, s | MiB | full matrix, s | MiB | products, s | full / streamed | streamed / products |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for size in options.sizes:
        ways = [way for way in WAYS if way != "full matrix" or size <= options.largest_matrix]
        row = {way: measure(step, way, size, options) for way in ways}
        rows.append({"N": size, **row})
        ours, bare = row["streamed"], row["products"]
        full = row.get("full matrix", {"seconds": float("nan"), "bytes": float("nan")})
        print(
            f"| {size:,} | {ours['seconds']:.3f} | {ours['bytes'] / 2**20:,.0f} | {full['seconds']:.3f} "
            f"| {full['bytes'] / 2**20:,.0f} | {bare['seconds']:.3f} | {full['seconds'] / ours['seconds']:.1f} "
            f"| {ours['seconds'] / bare['seconds']:.2f} |",
            flush=True,
        )
    large = [row for row in rows if row["N"] >= 4096]
    if len(large) > 1:
        sizes = [row["N"] for row in large]
        for name in ("seconds", "bytes"):
            values = [row["streamed"][name] * (1e9 if name == "seconds" else 1) for row in large]
            print(f"{name} grow as N^{exponent(sizes, values):.2f} from N = {sizes[0]:,}")
    if options.output:
        report = {"dimension": DIMENSION, "device": options.device, "threads": options.threads, "rows": rows}
        options.output.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
