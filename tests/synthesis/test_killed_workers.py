from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from painters import Painter
from stalling_worker import make_painter, make_plan

from stablerep_hf.synthesis import synthesize

WORKER = Path(__file__).with_name("stalling_worker.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, WORKER, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data").glob("*.parquet")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    synthesize(make_plan(), make_painter(), folder, batch_size=4, progress=False)
    yield shards(folder)


# A run syncs the captions, the plan, and then of each shard its data and its record: every file before its renaming
# (odd numbers) and its folder after it (even ones). Shards are written while later ones are drawn, so of a worker that
# stalls in drawing the last two may not stand yet.
@pytest.mark.parametrize(
    ("what", "number", "whole", "visible"),
    [
        ("fsync", 1, 0, 0),  # writing the captions
        ("fsync", 3, 0, 0),  # writing the plan
        ("draw", 2, 0, 0),  # within the first shard
        ("fsync", 5, 0, 0),  # data of the first shard: written, not renamed
        ("fsync", 6, 0, 1),  # renamed, without its record
        ("fsync", 7, 0, 1),  # record not renamed
        ("draw", 11, None, 2),  # within the third shard
        ("fsync", 17, 3, 3),  # data of the last shard
    ],
)
@pytest.mark.slow
def test_kill_and_resume_equals_an_uninterrupted_run(
    tmp_path: Path, uninterrupted: dict[str, bytes], what: str, number: int, whole: int | None, visible: int
) -> None:
    worker = start(tmp_path, 0, 1, what, number)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "stalled\n"
    worker.send_signal(signal.SIGKILL)
    assert worker.wait(timeout=60) == -signal.SIGKILL

    found = shards(tmp_path)
    assert len(found) == visible or (what == "draw" and len(found) < visible)
    assert all(content == uninterrupted[name] for name, content in found.items())  # never a torn file of that name

    summary = synthesize(make_plan(), make_painter(), tmp_path, batch_size=4, progress=False)
    assert shards(tmp_path) == uninterrupted
    assert whole is None or summary.num_shards_drawn == 4 - whole
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    rows = datasets.load_dataset(str(tmp_path), split="train").remove_columns("image").to_list()
    keys = [(row["caption_id"], row["image_index"]) for row in rows]
    assert len(keys) == len(set(keys)) == make_plan().num_images


@pytest.mark.parametrize("ranks", [[(0, 2), (1, 2)], [(0, 1), (0, 1)]])
@pytest.mark.slow
def test_workers_at_once_neither_wait_nor_tear(
    tmp_path: Path, uninterrupted: dict[str, bytes], ranks: list[tuple[int, int]]
) -> None:
    """Two workers that share the shards, and two that (by mistake) both draw all of them."""
    workers = [start(tmp_path, rank, world_size) for rank, world_size in ranks]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    assert shards(tmp_path) == uninterrupted
    painter = Painter()
    assert synthesize(make_plan(), painter, tmp_path, progress=False).num_images == make_plan().num_images
    assert painter.calls == []
