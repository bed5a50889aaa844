"""How fast and how complete the index of a large gallery is, beside the exact scan of the same vectors.

    python scripts/bench_retrieval.py --vectors 1000000 --dimensions 256 --folder bench-index --output result.json

Real embeddings of a million images do not ship, so vectors are drawn with the structure of real ones: the spectrum,
and the share of the variance that siblings of a caption have in common, are measured on the embedded encoder's
features of the embedded pictograms, stretched to the dimensions asked for, and drawn as ten siblings a caption.
`--isotropic` is the worst case instead: Gaussian noise, whose neighbours are hardly nearer than everything else.
Queries are drawn alike and are not in the index. A build that is killed goes on; a finished one is measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stablerep_hf import assets
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features
from stablerep_hf.retrieval import RECALL_AT, VectorIndex, build_index, open_index, recall_of

SIBLINGS = 10


def measured_structure(dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviations (D,) between captions and among siblings, as the embedded encoder's features have them."""
    from datasets import load_dataset

    dataset = load_dataset(str(assets.pictograms_path()), split="train")
    found = extract_features(assets.encoder_path(), dataset, columns=["caption_id"], progress=False)
    unit = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    captions = np.unique(found.columns["caption_id"], return_inverse=True)[1]
    means = np.stack([np.bincount(captions, column) for column in unit.T], 1) / np.bincount(captions)[:, None]
    stretch = np.linspace(0, 1, dimensions), np.linspace(0, 1, unit.shape[1])
    deviations = []
    for part in (means - means.mean(0), unit - means[captions]):
        variances = np.clip(np.linalg.eigvalsh(np.cov(part.T))[::-1], 1e-9, None)
        spectrum = np.exp(np.interp(*stretch, np.log(variances)))
        deviations.append(np.sqrt(spectrum * variances.sum() / spectrum.sum()))
    return deviations[0], deviations[1]


def draw(number: int, between: NDArray[np.float64], among: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    """`number` vectors (N, D) of length 1, ten siblings to a caption."""
    generator = np.random.default_rng(seed)
    captions = -(-number // SIBLINGS)
    centres = generator.standard_normal((captions, len(between)), np.float32) * between.astype(np.float32)
    vectors = np.repeat(centres, SIBLINGS, axis=0)[:number]
    for start in range(0, number, 100_000):
        part = vectors[start : start + 100_000]
        part += generator.standard_normal(part.shape, np.float32) * among.astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return generator.permutation(vectors)


def milliseconds(index: VectorIndex, queries: NDArray[np.float32]) -> dict[str, float]:
    """Of one query at a time, for its first ten."""
    taken = []
    for query in queries:
        start = time.perf_counter()
        index.search(query[None], RECALL_AT)
        taken.append(1000 * (time.perf_counter() - start))
    return {f"p{q}": round(float(np.percentile(taken, q)), 3) for q in (50, 95, 99)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build or open the index, and ask it."""
    if arguments.isotropic:
        between = among = np.ones(arguments.dimensions)
    else:
        between, among = measured_structure(arguments.dimensions)
    every = draw(arguments.vectors + arguments.queries, between, among, seed=0)
    vectors, queries = every[: arguments.vectors], every[arguments.vectors :]
    try:
        index = open_index(arguments.folder)
        if (len(index), index.facts.dimensions) != vectors.shape:
            raise SystemExit(f"{arguments.folder} holds an index of another size: name another folder.")
    except InputError:
        index = build_index(vectors, arguments.folder, exact_below=0)
    if arguments.build_only:
        return {"facts": vars(index.facts)}
    start = time.perf_counter()
    index = open_index(arguments.folder)
    opening = time.perf_counter() - start
    exact = build_index(vectors, exact_below=len(vectors) + 1)
    result = {
        "vectors": "isotropic" if arguments.isotropic else "like the embedded encoder's",
        "between captions": round(float((between**2).sum() / (between**2 + among**2).sum()), 3),
        "effective dimensions": round(
            float((between**2 + among**2).sum() ** 2 / ((between**2 + among**2) ** 2).sum()), 1
        ),
        "facts": vars(index.facts),
        "bytes": sum(path.stat().st_size for path in Path(arguments.folder).iterdir()),
        "seconds to open": round(opening, 3),
        "queries": len(queries),
        f"recall@{RECALL_AT}": round(recall_of(index, queries, vectors), 4),
        "milliseconds a query": milliseconds(index, queries),
        "milliseconds a query, exact scan": milliseconds(exact, queries[: arguments.exact_queries]),
    }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--exact-queries", type=int, default=20)
    parser.add_argument("--isotropic", action="store_true")
    parser.add_argument("--folder", default="bench-index")
    parser.add_argument("--build-only", action="store_true", help="build now, measure later")
    parser.add_argument("--output", help="file for the result, JSON")
    arguments = parser.parse_args()
    result = measure(arguments)
    print(json.dumps(result, indent=2))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
