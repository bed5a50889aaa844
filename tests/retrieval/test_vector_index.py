"""The index of vectors: exact, as a graph, on the disk, interrupted, damaged."""

import json
import os

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.retrieval import build_index, open_index, recall_of, vector_index as module


def clustered(number, dimensions=24, seed=0):
    """Vectors in groups of ten, as siblings lie."""
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.normal(size=(-(-number // 10), dimensions)), 10, axis=0)[:number]
    return (centres + 0.4 * generator.normal(size=centres.shape)).astype(np.float32)


def by_hand(queries, vectors, k):
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, vectors)]
    cosines = unit[0] @ unit[1].T
    order = np.argsort(-cosines, axis=1)[:, :k]
    return np.take_along_axis(cosines, order, 1), order


@pytest.mark.parametrize("kept", [False, True])
def test_the_exact_index_is_exact(tmp_path, kept):
    vectors, queries = clustered(300), clustered(7, seed=1)
    index = build_index(vectors, tmp_path if kept else None)
    cosines, numbers = index.search(queries, 5)
    expected, order = by_hand(queries, vectors, 5)
    assert (index.facts.kind, index.facts.recall, len(index)) == ("exact", 1.0, 300)
    np.testing.assert_array_equal(numbers, order)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(index.vectors([3, 299]), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kept", [False, True])
def test_the_graph_finds_nearly_all_and_says_how_much(tmp_path, kept):
    vectors, queries = clustered(3000), clustered(50, seed=1)
    index = build_index(vectors, tmp_path if kept else None, exact_below=0, progress=False)
    assert index.facts.kind == "hnsw"
    assert index.facts.recall >= 0.98
    assert recall_of(index, queries, vectors) >= 0.95
    cosines, numbers = index.search(queries, 3)
    assert (np.diff(cosines, axis=1) <= 1e-6).all()
    expected = by_hand(queries, vectors, 1)
    close = numbers[:, 0] == expected[1][:, 0]
    np.testing.assert_allclose(cosines[close, 0], expected[0][close, 0], atol=2e-3)
    np.testing.assert_allclose(index.vectors([5]), vectors[[5]] / np.linalg.norm(vectors[5]), atol=2e-3)


def test_the_breadth_of_the_search_is_what_the_recall_needs(monkeypatch):
    monkeypatch.setattr(module, "_EXPANSIONS", (1, 64))
    monkeypatch.setattr(module, "_CONNECTIVITY", 4)
    noise = np.random.default_rng(0).normal(size=(2000, 32))
    assert build_index(noise, exact_below=0, progress=False).facts.expansion == 64, "one candidate finds too little"


def test_what_is_exact_and_what_is_not_depends_on_the_number(tmp_path):
    vectors = clustered(60)
    assert build_index(vectors, tmp_path / "a", exact_below=61).facts.kind == "exact"
    assert build_index(vectors, tmp_path / "b", exact_below=60, progress=False).facts.kind == "hnsw"


def test_an_index_is_mapped_and_not_read(tmp_path):
    build_index(clustered(50), tmp_path / "exact")
    build_index(clustered(50), tmp_path / "graph", exact_below=0, progress=False)
    assert isinstance(open_index(tmp_path / "exact")._vectors, np.memmap)
    index = open_index(tmp_path / "graph")
    maps = (f"/proc/{os.getpid()}/maps", "graph.usearch")
    if os.path.exists(maps[0]):  # noqa: PTH110
        with open(maps[0]) as file:  # noqa: PTH123
            assert str(tmp_path / "graph" / maps[1]) in file.read()
    assert len(index) == 50


def test_a_killed_build_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ADDED_AT_ONCE", 100)
    monkeypatch.setattr(module, "_SAVED_AT", 200)
    added = []

    class Killed(BaseException):
        pass

    graph, die_at = module._usearch(), [500]
    add = graph.add

    def add_or_die(self, keys, vectors, **options):
        if len(self) in die_at:
            raise Killed
        added.extend(keys.tolist())
        return add(self, keys, vectors, **options)

    monkeypatch.setattr(graph, "add", add_or_die)
    vectors = clustered(600)
    with pytest.raises(Killed):
        build_index(vectors, tmp_path, exact_below=0, progress=False)
    with pytest.raises(InputError, match="no finished index"):
        open_index(tmp_path)
    die_at.clear()
    begun = len(added)
    index = build_index(vectors, tmp_path, exact_below=0, progress=False)
    assert added[begun:] == list(range(400, 600)), "it goes on from what was put down"
    assert len(index) == 600
    assert recall_of(index, vectors[::20], vectors) > 0.9
    assert {path.name for path in tmp_path.iterdir()} == {"graph.usearch", "index.json"}
    other = vectors.copy()
    other[300] = -other[300]
    (tmp_path / "graph.usearch").rename(tmp_path / "graph.partial.usearch")
    del added[:]
    build_index(other, tmp_path, exact_below=0, progress=False)
    assert added == list(range(600)), "a part with even one other vector is no beginning"


def test_a_walk_that_ends_early_is_made_good(monkeypatch):
    """Among many equal vectors a walk may find fewer than were asked for; here it is made to."""
    vectors = clustered(1200)
    index = build_index(vectors, exact_below=0, progress=False)
    search, scanned = index._graph.search, []

    def ending_early(queries, k, exact=False, **options):
        found = search(queries, k, exact=True, **options)
        if exact:
            scanned.append(len(queries))
        elif len(queries) == 1:
            return search(queries, k - 1, exact=True, **options)
        else:
            found.counts[0], found.keys[0], found.distances[0] = 3, 0, 9
        return found

    monkeypatch.setattr(index._graph, "search", ending_early)
    expected = by_hand(vectors[[0, 500]], vectors, 700)[0]
    for queries in ([0, 500], [0]):
        cosines, numbers = index.search(vectors[queries], 700)
        np.testing.assert_allclose(cosines, expected[: len(queries)], atol=2e-3)
        assert all(len(set(row)) == 700 for row in numbers.tolist())
    assert scanned == [1, 1], "of two walks the one that ended early"


def test_one_vector_is_an_index():
    index = build_index(clustered(1), exact_below=0, progress=False)
    assert (index.facts.kind, index.search(clustered(1), 1)[1].tolist()) == ("exact", [[0]])


@pytest.mark.parametrize("exact_below", [0, 1000])
def test_damage_is_a_sentence(tmp_path, exact_below):
    build_index(clustered(50), tmp_path, exact_below=exact_below, progress=False)
    record = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(record | {"count": 49}))
    with pytest.raises(InputError, match="not the one its record describes"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(record))
    data = tmp_path / ("graph.usearch" if exact_below == 0 else "vectors.npy")
    data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(InputError, match=r"damaged|not the one"):
        open_index(tmp_path)
    data.unlink()
    with pytest.raises(InputError, match=r"no finished index|damaged"):
        open_index(tmp_path)


def test_bad_questions_are_sentences():
    index = build_index(clustered(20))
    with pytest.raises(InputError, match="no 21 neighbours"):
        index.search(np.ones((1, 24)), 21)
    with pytest.raises(InputError, match="3 features and the index 24"):
        index.search(np.ones((1, 3)), 1)
    with pytest.raises(InputError, match="NaN"):
        index.search(np.full((1, 24), np.nan), 1)
    with pytest.raises(InputError, match="shape"):
        build_index(np.empty((0, 24)))
