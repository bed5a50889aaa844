"""Work shared by rank: `embed`, `index`, `evaluate` and `score` give the same bytes for any number of processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image
from waiting import wait_until

from stablerep_hf import cli
from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features, feature_cache, features, pixel_encoder
from stablerep_hf.synthesis import SynthesisPlan, synthesize

# Shards of 8 images; each process says the shards that it encodes, and takes its time.
PROGRAM = """
import sys, time
from stablerep_hf.evaluation import feature_cache, features
features.SHARD_ROWS = feature_cache.SHARD_ROWS = 8
encode = features._encode
def slow(*arguments):
    print("shard", flush=True)
    time.sleep(float(sys.argv[1]))
    return encode(*arguments)
features._encode = slow
from stablerep_hf.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """68 pictures in two splits: 8 shards of 8 and one of 4."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, number in (("train", 44), ("test", 24)):
        images = [Image.fromarray(generator.integers(0, 255, (12, 12, 3)).astype(np.uint8)) for _ in range(number)]
        columns = {"image": images, "label": [row % 3 for row in range(number)]}
        kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])})
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / f"{split}.parquet")
    return folder


def start(arguments, rank, world_size, seconds=0.0):
    own = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(seconds), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=os.environ | own, text=True, **pipes)


def run(arguments, world_size, seconds=0.0):
    """Start all at once; what each printed."""
    processes = [start(arguments, rank, world_size, seconds) for rank in range(world_size)]
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, printed
    return [out for out, _ in printed]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 8)
    monkeypatch.setattr(feature_cache, "SHARD_ROWS", 8)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_the_shards_and_all_get_the_same_features(photos, tmp_path, monkeypatch, small_shards, world_size):
    data = datasets.load_dataset(str(photos), split="train")
    alone = extract_features(pixel_encoder(), data, progress=False, batch_size=3)
    encoded = []
    encode = features._encode

    def counted(vision, batches):
        shard = encode(vision, batches)
        encoded.append(shard.rows[0] // 8)
        return shard

    monkeypatch.setattr(features, "_encode", counted)
    options = {"cache_dir": tmp_path, "world_size": world_size, "progress": False, "batch_size": 3}
    for rank in reversed(range(world_size)):
        found = extract_features(pixel_encoder(), data, rank=rank, **options)
        assert np.array_equal(found.features, alone.features) and np.array_equal(found.rows, alone.rows)
        if rank == world_size - 1 and world_size > 1:
            own = list(range(rank, 6, world_size))
            assert encoded[: len(own)] == own, "its own first"
    assert sorted(encoded) == list(range(6)), "each shard once"


def test_ranks_that_help_begin_at_different_places():
    turns = [features._shards_of_others(range(12), rank, 3) for rank in range(3)]
    assert turns[0] == [11, 10, 8, 7, 5, 4, 2, 1]
    assert len({turn[0] for turn in turns}) == 3
    assert all(sorted(turn) == [n for n in range(12) if n % 3 != rank] for rank, turn in enumerate(turns))


def test_several_processes_need_a_place_to_share(photos, monkeypatch, capsys):
    data = datasets.load_dataset(str(photos), split="train")
    with pytest.raises(InputError, match="world_size=2 processes share features through files: give `cache_dir`"):
        extract_features(pixel_encoder(), data, rank=1, world_size=2)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["embed", "embedded", "--data", str(photos), "--cache", "none"]) == 2
    assert "--cache none leaves 2 processes nothing to share features in" in capsys.readouterr().err


@pytest.mark.slow
def test_three_processes_write_what_one_writes_though_one_is_killed(photos, tmp_path):
    """kill -9 of one of three in the middle of its part: the others encode the rest, and rank 0 writes the file."""

    def arguments(name):
        words = ["embed", "embedded", "--data", photos, "--batch-size", "3"]
        return [*words, "--output", tmp_path / name / "out.parquet", "--cache", tmp_path / name / "cache"]

    run(arguments("one"), 1)
    processes = [start(arguments("three"), rank, 3, seconds=1.0) for rank in range(3)]
    assert processes[2].stdout.readline() == "shard\n"
    processes[2].send_signal(signal.SIGKILL)
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL], printed
    assert "has encoded its part" in printed[1][0] and "44 x" in printed[0][0]
    ours, theirs = (tmp_path / name / "out.parquet" for name in ("three", "one"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert 6 <= sum(out.count("shard") for out, _ in printed) + 1 <= 9, "little was encoded twice"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_three_processes_of_which_one_was_killed_index_what_one_indexes(photos, tmp_path, killed):
    words = ["index", photos, "embedded", "--batch-size", "3"]
    run([*words, "--output", tmp_path / "one", "--cache", tmp_path / "a"], 1)
    again = [*words, "--output", tmp_path / "three", "--cache", tmp_path / "b"]
    processes = [start(again, rank, 3, seconds=1.0) for rank in range(3)]
    assert processes[killed].stdout.readline() == "shard\n"
    processes[killed].send_signal(signal.SIGKILL)
    printed = [process.communicate(timeout=300) for process in processes]
    codes = [-signal.SIGKILL if rank == killed else 0 for rank in range(3)]
    assert [process.returncode for process in processes] == codes, printed
    assert (tmp_path / "three" / "rows.npy").exists() == (killed != 0), "the first writes the index"
    assert "shard" not in "".join(run(again, 3)), "all was encoded by those that lived"
    for name in ("rows.npy", "images.json", "features/vectors.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


@pytest.mark.slow
def test_an_evaluation_whose_processes_were_killed_goes_on_to_the_same_scores(photos, tmp_path):
    words = ["evaluate", "embedded", "--data", photos, "--batch-size", "4", "--protocols", "knn"]
    run([*words, "--output", tmp_path / "one.json", "--cache", tmp_path / "a"], 1)
    again = [*words, "--output", tmp_path / "two.json", "--cache", tmp_path / "b"]
    processes = [start(again, rank, 2, seconds=1.0) for rank in range(2)]
    for process in processes:
        assert [process.stdout.readline() for _ in range(2)] == ["shard\n"] * 2, "so that one is kept"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)
    assert not (tmp_path / "two.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*.npz")}
    assert len(kept) >= 2
    assert "shard" in "".join(run(again, 2))
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "none was encoded again"
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_has_one_writer_and_the_same_results(photos, tmp_path, world_size):
    words = ["evaluate", "embedded", "--data", photos, "--batch-size", "4", "--protocols", "knn"]
    run([*words, "--output", tmp_path / "one.json", "--cache", tmp_path / "a"], 1)
    printed = run([*words, "--output", tmp_path / "all.json", "--cache", tmp_path / "b"], world_size)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "all.json").read_bytes()
    assert ["kNN accuracy" in out for out in printed] == [True] + [False] * (world_size - 1)


def draw(prompts, seeds):
    return [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3)).astype(np.uint8)) for seed in seeds
    ]


@pytest.mark.slow
def test_scores_are_shared_by_rank_and_survive_a_kill(tmp_path):
    one, three = tmp_path / "one", tmp_path / "three"
    captions = CaptionSet.from_texts(f"thing {number}" for number in range(12))
    synthesize(SynthesisPlan(captions, draw, images_per_caption=2, captions_per_shard=2), draw, one, progress=False)
    shutil.copytree(one, three)
    words = "--diversity-encoder", "embedded"
    run(["score", one, *words], 1)
    first, second, dying = (start(["score", three, *words], rank, 3) for rank in range(3))
    dying.send_signal(signal.SIGKILL)
    printed = [process.communicate(timeout=300)[0] for process in (first, second, dying)]
    assert all("This worker's part is scored" in out for out in printed[:2]), printed
    (out,) = run(["score", three, *words], 1)
    assert "8 images scored, 16 had these scores" in out, "two of six shards were the dead one's"
    for path in sorted((one / "data").iterdir()):
        assert path.read_bytes() == (three / "data" / path.name).read_bytes()


@pytest.mark.slow
def test_a_rank_that_dies_in_the_middle_of_its_scores_loses_none_of_those_that_it_wrote(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    captions = CaptionSet.from_texts(f"thing {number}" for number in range(60))
    synthesize(SynthesisPlan(captions, draw, images_per_caption=2, captions_per_shard=2), draw, one, progress=False)
    shutil.copytree(one, two)
    words = "--diversity-encoder", "embedded"
    run(["score", one, *words], 1)
    before = {path: path.stat().st_mtime_ns for path in (two / "data").iterdir()}
    dying = start(["score", two, *words], 1, 2)
    wait_until(lambda: any(path.stat().st_mtime_ns != written for path, written in before.items()), dying)
    dying.send_signal(signal.SIGKILL)
    assert dying.wait(60) == -signal.SIGKILL
    (out,) = start(["score", two, *words], 0, 2).communicate(timeout=300)[:1]
    assert "This worker's part is scored" in out, out
    (out,) = run(["score", two, *words], 1)
    left, had = map(int, re.search(r"(\d+) images scored, (\d+) had these scores", out).groups())
    assert 0 < left < 60 < had, "some of the dead one's thirty shards were written"
    for path in sorted((one / "data").iterdir()):
        assert path.read_bytes() == (two / "data" / path.name).read_bytes()
