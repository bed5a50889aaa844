"""Nearest vectors by cosine: exact while that is quick, an HNSW graph above, both on the disk and memory-mapped."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from ..errors import InputError
from ..evaluation.knn import as_unit_vectors, check_neighbours, nearest_neighbours
from ..extras import require
from ..files.atomic import write_at_once, write_file

EXACT_BELOW = 200_000  # vectors; the scan of so many takes some 20 ms at 256 dimensions
RECALL_AT = 10
RECORD = "index.json"
_VECTORS, _GRAPH, _PARTIAL = "vectors.npy", "graph.usearch", "graph.partial.usearch"
# Links a node has (twice as many on the lowest level), and how many candidates an insertion looks at.
_CONNECTIVITY, _EXPANSION_ADD = 16, 128
_EXPANSIONS = (64, 128, 256, 512, 1024)  # what a search may look at; the first that finds enough is kept
_WANTED_RECALL = 0.98
_PROBES = 500  # vectors that measure the recall
_ADDED_AT_ONCE, _SAVED_AT = 10_000, 100_000


@dataclass(frozen=True)
class IndexFacts:
    """What an index says of itself.

    Attributes:
        kind: "exact" or "hnsw".
        count: vectors.
        dimensions: of each.
        recall: share of the exact first ten that a search finds, over `probes` vectors of the index that ask for
            their neighbours (not for themselves); 1 where the search is exact.
        probes: how many asked; 0 where the search is exact.
        expansion: candidates that a search of the graph looks at; 0 where it is exact.
        seconds: that building took.
    """

    kind: str
    count: int
    dimensions: int
    recall: float
    probes: int
    expansion: int
    seconds: float


class VectorIndex(ABC):
    """Finds, of many vectors, those at the smallest angle to a query.

    Attributes:
        facts: kind, size, recall.
    """

    def __init__(self, facts: IndexFacts) -> None:
        self.facts = facts

    def __len__(self) -> int:
        return self.facts.count

    def search(self, queries: ArrayLike, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest vectors of each query.

        Args:
            queries: (Q, D), of any scale.
            k: 1 to the number of vectors.

        Returns:
            Cosines (Q, k) float32, falling along a row, and numbers of the vectors (Q, k) int64.

        Raises:
            InputError: `k` is out of range, or the queries do not fit or are not finite.
        """
        unit = as_unit_vectors(np.asarray(queries, dtype=np.float32)).numpy()
        if unit.shape[1] != self.facts.dimensions:
            raise InputError(
                f"Queries have {unit.shape[1]} features and the index {self.facts.dimensions}, so they cannot be "
                "compared; encode both with the same encoder."
            )
        check_neighbours(k, len(self))
        return self._search(unit, k)

    @abstractmethod
    def _search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    @abstractmethod
    def vectors(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """Some of the vectors, (n, D), of length 1; of a graph to half precision."""


class ExactIndex(VectorIndex):
    """Compares a query with every vector."""

    def __init__(self, vectors: NDArray[np.float32], facts: IndexFacts) -> None:
        """Take unit vectors (N, D), which may be mapped from a file."""
        super().__init__(facts)
        self._vectors = vectors

    def _search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        cosines = queries @ self._vectors.T
        best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(cosines, best, axis=1)
        order = np.lexsort((best, -found), axis=1)  # of equal ones the first vector first
        return np.take_along_axis(found, order, 1), np.take_along_axis(best, order, 1).astype(np.int64)

    def vectors(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """See `VectorIndex`."""
        return np.array(self._vectors[np.asarray(numbers)])


class GraphIndex(VectorIndex):
    """Walks a graph of neighbours (HNSW, Malkov and Yashunin 2018) over vectors in half precision.

    usearch, because its graph searches from a mapped file, carries its vectors and is a small wheel; faiss finds a
    little more for the same time, but brings an OpenMP of its own, which beside torch's ends the process on macOS.
    """

    def __init__(self, graph: Any, facts: IndexFacts) -> None:
        """Take a `usearch.index.Index` of unit vectors, with their numbers as keys."""
        super().__init__(facts)
        graph.expansion_search = facts.expansion
        self._graph = graph
        self._lock = threading.Lock()  # it has as many seats as the machine has cores, and fails without one

    def _search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with self._lock:
            return _walk(self._graph, queries, k)

    def vectors(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """See `VectorIndex`."""
        with self._lock:
            return np.asarray(self._graph.get(np.asarray(numbers, dtype=np.uint64)), dtype=np.float32)


def build_index(
    vectors: ArrayLike, folder: str | Path | None = None, *, exact_below: int = EXACT_BELOW, progress: bool = True
) -> VectorIndex:
    """Make an index, in memory or in a folder that `open_index` opens.

    A graph in a folder is put down after every 100,000 vectors, and a build that was killed goes on from there.

    Args:
        vectors: (N, D), of any scale; the number of a vector is its row.
        folder: Where it is kept. None: in memory, which is for a few.
        exact_below: So many vectors and more get a graph; a single one never does.
        progress: Show a bar while a graph grows.

    Raises:
        InputError: Nothing to index, a value that is not finite, or usearch is missing for a graph.
    """
    start = time.perf_counter()
    unit = as_unit_vectors(np.asarray(vectors, dtype=np.float32)).numpy()
    place = None if folder is None else Path(folder)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        (place / RECORD).unlink(missing_ok=True)  # there is none until the new one is whole
    if len(unit) < max(exact_below, 2):  # one vector has no neighbours to link it to
        facts = IndexFacts("exact", len(unit), unit.shape[1], 1.0, 0, 0, round(time.perf_counter() - start, 3))
        if place is None:
            return ExactIndex(unit, facts)
        write_at_once(place / _VECTORS, lambda file: np.save(file, unit))
    else:
        graph = _grow(unit, place, progress)
        expansion, recall, probes = _widen(graph, unit)
        facts = IndexFacts(
            "hnsw", len(unit), unit.shape[1], recall, probes, expansion, round(time.perf_counter() - start, 3)
        )
        if place is None:
            return GraphIndex(graph, facts)
        _save(graph, place / _GRAPH)
        (place / _PARTIAL).unlink(missing_ok=True)
    write_file(place / RECORD, json.dumps(asdict(facts), indent=2).encode())
    return open_index(place)


def open_index(folder: str | Path) -> VectorIndex:
    """Open what `build_index` put into a folder; the file is mapped, not read.

    Raises:
        InputError: There is none, or it is damaged.
    """
    place = Path(folder)
    try:
        facts = IndexFacts(**json.loads((place / RECORD).read_text("utf-8")))
        if facts.kind == "exact":
            vectors = np.load(place / _VECTORS, mmap_mode="r")
            whole = vectors.shape == (facts.count, facts.dimensions)
            index: VectorIndex = ExactIndex(vectors, facts)
        else:
            graph = _usearch().restore(str(place / _GRAPH), view=True)
            whole = graph is not None and (len(graph), graph.ndim) == (facts.count, facts.dimensions)
            index = GraphIndex(graph, facts)
    except FileNotFoundError as error:
        raise InputError(
            f"{str(folder)!r} holds no finished index ({Path(str(error.filename)).name} is missing); build it with "
            "`stablerep index`."
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"The index in {str(folder)!r} is damaged ({error}); build it again.") from error
    if not whole:
        raise InputError(f"The index in {str(folder)!r} is not the one its record describes; build it again.")
    return index


def recall_of(index: VectorIndex, queries: ArrayLike, vectors: ArrayLike, k: int = RECALL_AT) -> float:
    """Share in [0, 1] of the exact first `k` of each query (Q, D) among `vectors` (N, D) that their index finds."""
    exact = nearest_neighbours(np.asarray(queries), np.asarray(vectors), k)[1].numpy()
    found = index.search(queries, k)[1]
    return float(np.mean([len(np.intersect1d(*pair)) / k for pair in zip(exact, found, strict=True)]))


def _grow(unit: NDArray[np.float32], place: Path | None, progress: bool) -> Any:
    """Put all vectors into a graph, going on with a part that is there."""
    graph = None if place is None else _partial(unit, place / _PARTIAL)
    if graph is None:
        graph = _usearch()(
            ndim=unit.shape[1], metric="ip", dtype="f16", connectivity=_CONNECTIVITY, expansion_add=_EXPANSION_ADD
        )
    with tqdm(total=len(unit), initial=len(graph), desc="graph", unit="vector", disable=not progress) as bar:
        for first in range(len(graph), len(unit), _ADDED_AT_ONCE):
            last = min(first + _ADDED_AT_ONCE, len(unit))
            graph.add(np.arange(first, last, dtype=np.uint64), unit[first:last])
            bar.update(last - first)
            if place is not None and last % _SAVED_AT == 0 and last < len(unit):
                _save(graph, place / _PARTIAL)
    return graph


def _partial(unit: NDArray[np.float32], path: Path) -> Any | None:
    """The graph of the first of these vectors, if that is what is there."""
    if not path.exists():
        return None
    try:
        graph = _usearch().restore(str(path))
        parts = np.array_split(np.arange(len(graph)), -(-len(graph) // _ADDED_AT_ONCE))
        same = graph.ndim == unit.shape[1] and all(
            np.allclose(graph.get(numbers.astype(np.uint64)), unit[numbers], atol=1e-3) for numbers in parts
        )
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError):
        return None
    return graph if same else None


def _widen(graph: Any, unit: NDArray[np.float32]) -> tuple[int, float, int]:
    """The least expansion that finds enough of the exact neighbours, its recall, and how many vectors asked."""
    probes = np.random.default_rng(0).choice(len(unit), min(_PROBES, len(unit)), replace=False)
    k = min(RECALL_AT, len(unit) - 1)
    exact = nearest_neighbours(unit[probes], unit, k + 1)[1].numpy()
    recall = 0.0
    for expansion in _EXPANSIONS:
        graph.expansion_search = expansion
        found = _walk(graph, unit[probes], k + 1)[1]
        hits = [
            len(np.intersect1d(true[true != probe][:k], some[some != probe][:k])) / k
            for probe, true, some in zip(probes, exact, found, strict=True)
        ]
        recall = float(np.mean(hits))
        if recall >= _WANTED_RECALL:
            break
    return expansion, recall, len(probes)


def _walk(graph: Any, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines and numbers, (Q, k) each; a walk that ends with fewer, as among many equal vectors, becomes a scan."""
    threads = 1 if len(queries) == 1 else 0
    found = graph.search(queries, k, threads=threads)
    short = np.atleast_1d(getattr(found, "counts", len(found))) < k  # of one query there are no counts
    if short.all():
        return _as_rows(graph.search(queries, k, exact=True, threads=threads), k)
    cosines, numbers = _as_rows(found, k)
    if short.any():
        cosines[short], numbers[short] = _as_rows(graph.search(queries[short], k, exact=True), k)
    return cosines, numbers


def _as_rows(found: Any, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    cosines = 1 - np.asarray(found.distances, dtype=np.float32)
    return cosines.reshape(-1, k), np.asarray(found.keys).astype(np.int64).reshape(-1, k)


def _save(graph: Any, path: Path) -> None:
    graph.save(str(path.with_name(f".{path.name}")))
    path.with_name(f".{path.name}").replace(path)


def _usearch() -> Any:
    require("An index of so many vectors", "space", "usearch")
    from usearch.index import Index

    return Index
