"""The reproduction on a small world: every kind of cell once, through the command."""

import json
import shutil
import time

import datasets
import numpy as np
import pytest

from stablerep_hf import assets
from stablerep_hf.cli import reproduce
from stablerep_hf.cli.cells import CellRunner
from stablerep_hf.cli.reproduce import _side_by_side
from stablerep_hf.errors import InputError
from stablerep_hf.reproduction import ImageSet, Scale

SMALL = ["--num_captions", "16", "--max_steps", "2", "--views_per_batch", "8", "--num_seeds", "2"]


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """Some concepts of each split of the pictograms."""
    folder = tmp_path_factory.mktemp("pictograms")
    (folder / "data").mkdir()
    for split in ("train", "held_out_concepts", "held_out_artist"):
        rows = datasets.load_dataset(str(assets.pictograms_path()), split=split)
        ids = np.asarray(rows["caption_id"][:])
        kept = np.flatnonzero(np.isin(ids, np.sort(np.unique(ids))[: 150 if split == "train" else 60]))
        rows.select(kept).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    shutil.copy(assets.pictograms_path() / "README.md", folder)  # says which file is which split
    return folder


@pytest.fixture
def here(small_world, monkeypatch):
    monkeypatch.setattr(assets, "pictograms_path", lambda: small_world)


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_a_claim_is_run_recorded_resumed_and_reported(here, stablerep, tmp_path):
    """Claim 6 has it all: drawing in few steps, the judge of alignment, the choice among more images."""
    flags = ["--claims", "6", *SMALL, "--output", tmp_path / "out"]
    code, out, err = stablerep("reproduce", *flags)
    assert code == 0, err
    records = lines(tmp_path / "out")
    assert len(records) == 4 * 2 + 4, "four settings of two seeds, and four image sets"
    trained = [record for record in records if "setting" in record]
    assert all(record["images"] == 16 and record["loss"] > 0 for record in trained)
    measures = {(row["protocol"], row.get("variant", "")) for record in trained for row in record["results"]}
    assert {("knn", ""), ("linear_probe", ""), ("retrieval", "")} <= measures
    described = {json.dumps(record["images"]): record for record in records if "alignment" in record}
    aligned = next(record for record in described.values() if record["images"]["aligned"])
    any_of_them = next(
        record for record in described.values() if record["images"] == {**aligned["images"], "aligned": False}
    )
    assert aligned["alignment"]["value"] > any_of_them["alignment"]["value"]
    assert 1 <= any_of_them["diversity"]["value"] <= 4
    report = (tmp_path / "out" / "report.md").read_text()
    assert "`stablerep reproduce --claims 6 --num_captions 16 --max_steps 2" in report
    assert "incomplete" not in report

    # a kill in the middle of a line, and the drawn images gone with the machine: only what is missing is done
    whole = (tmp_path / "out" / "records.jsonl").read_bytes()
    (tmp_path / "out" / "records.jsonl").write_bytes(whole[:-20])
    code, out, err = stablerep("reproduce", *flags)
    assert code == 0, err
    assert "11 of 12 parts of the study are recorded" in out
    again = lines(tmp_path / "out")
    assert again[:-1] == records[:-1]
    assert {**again[-1], "seconds": 0} == {**records[-1], "seconds": 0}, "the same, bit for bit"
    assert (tmp_path / "out" / "report.md").read_text() == report.replace("x", "x")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--claims", "7"], "no claim 7"),
        (["--num_captions", "20"], "multiple of 8"),
        (["--num_captions", "64", "--views_per_batch", "64"], "than the smallest set has"),
        (["--num_seeds", "1"], "seeds=1"),
        (["--max_steps", "0"], "steps=0"),
        (["--jobs", "0"], "jobs=0"),
    ],
)
def test_numbers_that_cannot_work_are_one_sentence(stablerep, tmp_path, flags, words):
    code, _, err = stablerep("reproduce", *flags, "--output", tmp_path / "out")
    assert code == 2
    assert words in err
    assert not (tmp_path / "out").exists()


def test_a_report_of_nothing_trains_nothing(stablerep, tmp_path):
    code, _, err = stablerep("reproduce", "--report_only", "--output", tmp_path / "out")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.md", "results.json"]


def test_two_runs_of_one_folder_do_not_meet(stablerep, tmp_path):
    from filelock import FileLock

    (tmp_path / "work").mkdir()
    with FileLock(tmp_path / "work" / "lock"):
        code, _, err = stablerep("reproduce", "--output", tmp_path / "out", "--work", tmp_path / "work")
    assert code == 2
    assert "at work" in err


def drawn(captions, counts):
    rows = [
        {"caption_id": int(caption_id), "image_index": index, "caption": str(caption_id)}
        for caption_id, count in zip(captions, counts, strict=True)
        for index in range(count)
    ]
    return datasets.Dataset.from_list(rows)


def test_image_sets_are_what_they_say(monkeypatch, tmp_path):
    runner = CellRunner(tmp_path, Scale(), "float32")
    ids = runner.captions.caption_ids
    assert (np.diff(ids) > 0).all()
    monkeypatch.setattr(
        CellRunner, "_draw", lambda self, wanted, part: drawn(ids[part.start : part.stop], [8] * len(part))
    )
    monkeypatch.setattr(CellRunner, "_alignment", lambda self, rows: np.asarray(rows["image_index"][:]) % 5)

    few = runner.images(ImageSet(captions=10, images_per_caption=4))
    assert np.array_equal(np.unique(few["caption_id"]), ids[:10])
    assert few["image_index"][:] == [0, 1, 2, 3] * 10
    aligned = runner.images(ImageSet(captions=10, images_per_caption=4, aligned=True))
    assert aligned["image_index"][:] == [2, 3, 4, 7] * 10, "the highest of eight, which are 0 1 2 3 4 0 1 2"

    groups = runner._subgroups
    half = ImageSet(captions=656, images_per_caption=4)
    counts = []
    for wanted in (half, ImageSet(captions=656, images_per_caption=4, balanced=True)):
        chosen = runner.images(wanted)
        assert len(chosen) == 656 * 4
        names, sizes = np.unique([groups[i] for i in set(chosen["caption_id"])], return_counts=True)
        counts.append(dict(zip(names, sizes, strict=True)))
    every, sizes = np.unique([groups[i] for i in ids.tolist()], return_counts=True)
    natural, balanced = counts
    most = max(balanced.values())
    assert most < max(natural.values()) / 3
    assert all(balanced[name] >= min(size, most - 1) for name, size in zip(every, sizes, strict=True))


class FakeRunner:
    """Takes its time by the task's number, and fails at numbers below 0."""

    def run(self, task):
        if task < -1:
            import os

            os._exit(1)
        if task < 0:
            raise InputError("task below 0")
        time.sleep(0.05 * (task % 3))
        return {"key": task}


def test_processes_share_the_work_and_each_part_is_done_once():
    assert sorted(record["key"] for record in _side_by_side(range(7), FakeRunner(), 2)) == list(range(7))


def test_what_goes_wrong_in_a_process_is_told():
    with pytest.raises(InputError, match="task below 0"):
        list(_side_by_side([0, -1], FakeRunner(), 1))
    with pytest.raises(InputError, match="ended in the middle"):
        list(_side_by_side([-2], FakeRunner(), 1))


def test_the_command_in_the_report_is_the_one_that_was_given():
    command = reproduce.ReproduceCommand(claims=[1, 3], quick=True, jobs=2, output="x")
    assert reproduce._as_typed(command) == "stablerep reproduce --claims 1 3 --quick"
