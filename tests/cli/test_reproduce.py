"""The reproduction on a small world: every kind of cell once, through the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from fake_runner import FakeRunner
from study_data import result
from waiting import wait_until

from stablerep_hf import assets
from stablerep_hf.errors import InputError
from stablerep_hf.reproduction import Cell, ImageSet, Scale, pack_results, read_world, study, unpack_results
from stablerep_hf.reproduction.cell_runner import CellRunner
from stablerep_hf.reproduction.claims import REST, TAIL
from stablerep_hf.reproduction.image_sets import ImageSets
from stablerep_hf.reproduction.workers import run_tasks
from stablerep_hf.reproduction.world import MAIN, ZERO_SHOT

SMALL = ["--num_captions", "16", "--max_steps", "2", "--views_per_batch", "8", "--num_seeds", "2"]
SCALE = Scale(captions=16, steps=2, views=8, seeds=2)
WORLD = replace(read_world(), scale=SCALE)


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """Some concepts of each split of the pictograms."""
    folder = tmp_path / "pictograms"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "held_out_concepts", "held_out_artist"):
        rows = datasets.load_dataset(str(assets.pictograms_path()), split=split)
        kept = np.flatnonzero(np.isin(rows["caption_id"][:], np.unique(rows["caption_id"][:])[:40]))
        rows.select(kept).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    shutil.copy(assets.pictograms_path() / "README.md", folder)  # says which file is which split
    monkeypatch.setattr(assets, "pictograms_path", lambda: folder)


@pytest.mark.slow
def test_cells_are_drawn_trained_and_measured_and_images_are_judged(small_world, tmp_path):
    """On the embedded generator: a dual encoder, and the best-aligned images, for which a judge is trained."""
    runner = CellRunner(tmp_path / "work", WORLD, "float32")
    cell = Cell(setting=SCALE.train("clip", 4, 4), seed=0)
    record = runner.run(cell)
    assert record["key"] == runner.key(cell)
    assert record["images"] == 16
    assert record["loss"] > 0
    assert set(unpack_results(json.loads(json.dumps(record)), "clip")) >= {*MAIN, *ZERO_SHOT}
    assert {row["split"] for row in record["results"]} == {"held_out_concepts", "held_out_artist"}
    assert all(row["n"] > 20 for row in record["results"] if "variant" not in row)

    drawn = (tmp_path / "work" / "captions-16").glob("*/data/*.parquet")
    before = {path: path.stat().st_mtime_ns for path in drawn}
    some, best = (runner.run(ImageSet(captions=4, images_per_caption=4, aligned=aligned)) for aligned in (False, True))
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what stands is not drawn again"
    assert some["num_images"] == best["num_images"] == 16
    assert best["alignment"]["value"] > some["alignment"]["value"]
    assert 1 <= some["diversity"]["low"] <= some["diversity"]["high"] <= 4


def made_up(runner, task):
    """A record without the work."""
    values = {"cpu_seconds": 1.0}
    if isinstance(task, ImageSet):
        values |= {name: {"value": 0.2, "low": 0.1, "high": 0.3} for name in ("alignment", "diversity")}
        values["num_images"] = 16
    else:
        names = [*MAIN, *(f"{measure}, {part}" for measure in MAIN for part in (TAIL, REST))]
        values |= pack_results([result(name, 0.3 + 0.01 * task.seed, task.seed) for name in names])
    return {"key": runner.key(task), **task.describe(), **values}


def test_a_study_is_recorded_resumed_and_reported(stablerep, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(CellRunner, "run", lambda runner, task: done.append(task) or made_up(runner, task))
    flags = ["reproduce", "--claims", "5", "6", *SMALL, "--output", tmp_path / "out"]
    code, _, err = stablerep(*flags)
    assert code == 0, err
    assert len(done) == len(set(done)) == 6 * 2 + 4, "six settings of two seeds, and four image sets"
    assert [task.seed for task in done[:12]] == [0] * 6 + [1] * 6, "seed by seed"
    report = (tmp_path / "out" / "report.md").read_text()
    assert "`stablerep reproduce --claims 5 6 --num-captions 16 --max-steps 2" in report
    assert "incomplete" not in report

    # a kill in the middle of a line: only what is missing is done
    records = tmp_path / "out" / "records.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole[:-20])
    done.clear()
    code, _, err = stablerep(*flags)
    assert code == 0, err
    assert "15 of 16 parts of the study are recorded" in err
    assert len(done) == 1
    assert records.read_bytes() == whole
    assert (tmp_path / "out" / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--claims", "7"], "--claims 7 cannot be tested in --world embedded: choose of 1"),
        (["--world", "photos", "--claims", "8"], "name a pipeline as `--generator`"),
        (["--num_captions", "20"], "multiple of 8"),
        (["--num_captions", "64", "--views_per_batch", "64"], "than the smallest set has"),
        (["--num_seeds", "1"], "seeds=1"),
        (["--max_steps", "0"], "steps=0"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_numbers_that_cannot_work_are_one_sentence(stablerep, tmp_path, flags, words):
    code, _, err = stablerep("reproduce", *flags, "--output", tmp_path / "out")
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags", [["--output", "file"], ["--report_only", "--output", "file"], ["--output", "out", "--work", "/proc/x"]]
)
def test_places_that_cannot_be_written_are_one_sentence(stablerep, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    code, _, err = stablerep("reproduce", *flags)
    assert code == 2
    assert "takes no file" in err and err.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_report_of_nothing_trains_nothing(stablerep, tmp_path):
    code, _, err = stablerep("reproduce", "--report_only", "--output", tmp_path / "out")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.md", "results.json"]


def test_two_runs_of_one_folder_do_not_meet_wherever_they_draw(stablerep, tmp_path, monkeypatch):
    codes = []

    def run(runner, task):
        if not codes:
            codes.append(stablerep(*flags, "--work", tmp_path / "elsewhere"))
        return made_up(runner, task)

    monkeypatch.setattr(CellRunner, "run", run)
    flags = ["reproduce", "--claims", "5", *SMALL, "--output", tmp_path / "out"]
    code, _, err = stablerep(*flags, "--work", tmp_path / "work")
    assert code == 0, err
    code, _, err = codes[0]
    assert code == 2
    assert "at work" in err
    records = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert len(records) == len(set(records)) == 4


def drawn(captions, counts):
    rows = [
        {"caption_id": int(caption_id), "image_index": index, "caption": str(caption_id)}
        for caption_id, count in zip(captions, counts, strict=True)
        for index in range(count)
    ]
    return datasets.Dataset.from_list(rows)


def test_image_sets_are_what_they_say(monkeypatch, tmp_path):
    sets = ImageSets(tmp_path, read_world(), "float32")
    ids = sets.captions.caption_ids
    assert (np.diff(ids) > 0).all()
    monkeypatch.setattr(
        ImageSets, "_draw", lambda self, wanted, part: drawn(ids[part.start : part.stop], [8] * len(part))
    )
    monkeypatch.setattr(ImageSets, "_alignment", lambda self, rows: np.asarray(rows["image_index"][:]) % 5)

    few = sets.images(ImageSet(captions=10, images_per_caption=4))
    assert np.array_equal(np.unique(few["caption_id"]), ids[:10])
    assert few["image_index"][:] == [0, 1, 2, 3] * 10
    aligned = sets.images(ImageSet(captions=10, images_per_caption=4, aligned=True))
    assert aligned["image_index"][:] == [2, 3, 4, 7] * 10, "the highest of eight, which are 0 1 2 3 4 0 1 2"

    groups = sets.tails
    half = ImageSet(captions=656, images_per_caption=4)
    counts = []
    for wanted in (half, ImageSet(captions=656, images_per_caption=4, balanced=True)):
        chosen = sets.images(wanted)
        assert len(chosen) == 656 * 4
        names, sizes = np.unique([groups[i] for i in set(chosen["caption_id"])], return_counts=True)
        counts.append(dict(zip(names, sizes, strict=True)))
    every, sizes = np.unique([groups[i] for i in ids.tolist()], return_counts=True)
    natural, balanced = counts
    most = max(balanced.values())
    assert most < max(natural.values()) / 3
    assert all(balanced[name] >= min(size, most - 1) for name, size in zip(every, sizes, strict=True))


def test_processes_share_the_work_and_each_part_is_done_once():
    assert sorted(record["key"] for record in run_tasks(range(7), FakeRunner(), 2)) == list(range(7))


def test_what_goes_wrong_in_a_process_is_told():
    with pytest.raises(InputError, match="task -1"):
        list(run_tasks([0, -1], FakeRunner(), 2))
    with pytest.raises(InputError, match="died in the middle"):
        list(run_tasks([-2, 0], FakeRunner(), 2))
    for jobs in (1, 2):
        with pytest.raises(InputError, match="cannot begin"):
            list(run_tasks([0, 0], FakeRunner("cannot begin"), jobs))


PARENT = """
import sys
from fake_runner import FakeRunner
from stablerep_hf.reproduction.workers import run_tasks
from stablerep_hf.reproduction.world import MAIN, ZERO_SHOT
if __name__ == "__main__":
    for record in run_tasks([-3, -3, 0], FakeRunner(), 2):
        print(record)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_processes_end_at_once_with_the_first_one(tmp_path, number):
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "FAKE_RUNNER_LOG": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        env=environment,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    wait_until(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2, process)
    process.send_signal(number)
    process.wait(40)  # a task lasts a minute
    workers = list(tmp_path.glob("[0-9]*"))
    wait_until(lambda: not any(Path("/proc", worker.name).exists() for worker in workers), seconds=40)


def test_the_command_in_the_report_is_the_one_that_was_given():
    command = study.StudySettings(claims=[1, 3], quick=True, jobs=2, output="x")
    assert study._as_typed(command) == "stablerep reproduce --claims 1 3 --quick"
