"""Things in a store's folder that nobody put there on purpose: drawn again or one sentence, never a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from painters import Painter

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import (
    SynthesisPlan,
    export_parquet,
    open_store,
    read_provenance,
    remove_problems,
    score_store,
    synthesize,
    verify_store,
)

MakePlan = Callable[..., SynthesisPlan]
SHARD, RECORD = "data/train-00001-of-00003.parquet", "provenance/shard-00001.json"


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_full_folder(path: Path) -> None:
    to_folder(path)
    (path / "mine.txt").write_text("mine")


def to_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("name", [SHARD, RECORD])
@pytest.mark.parametrize("harm", [to_folder, to_loop])
def test_what_stands_in_place_of_a_shard_or_record_is_drawn_again(
    make_plan: MakePlan, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    plan, folder = make_plan(10), tmp_path / "images"
    synthesize(plan, Painter(), folder, progress=False)
    before = {path.name: path.read_bytes() for path in (folder / "data").iterdir()}
    harm(folder / name)
    assert {problem.shard for problem in verify_store(folder, progress=False).problems} == {1}
    with pytest.raises(InputError):
        export_parquet(folder, tmp_path / "out")
    with pytest.raises(InputError):
        score_store(folder, [], progress=False)
    assert synthesize(plan, Painter(), folder, progress=False).num_shards_drawn == 1
    assert {path.name: path.read_bytes() for path in (folder / "data").iterdir()} == before
    harm(folder / name)
    remove_problems(folder, verify_store(folder, progress=False))
    synthesize(plan, Painter(), folder, progress=False)
    assert verify_store(folder, progress=False).is_sound


@pytest.mark.parametrize("name", [SHARD, RECORD])
def test_a_folder_of_somebodys_files_is_not_removed(make_plan: MakePlan, tmp_path: Path, name: str) -> None:
    synthesize(make_plan(10), Painter(), tmp_path, progress=False)
    to_full_folder(tmp_path / name)
    with pytest.raises(InputError, match="cannot be"):
        synthesize(make_plan(10), Painter(), tmp_path, progress=False)
    assert (tmp_path / name / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["provenance/plan.json", "provenance/captions.parquet"])
@pytest.mark.parametrize("harm", [to_full_folder, to_loop])
def test_a_plan_or_captions_that_cannot_be_read_are_one_sentence(
    make_plan: MakePlan, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    synthesize(make_plan(10), Painter(), tmp_path, progress=False)
    harm(tmp_path / name)
    with pytest.raises(InputError):
        open_store(tmp_path)
    if name.endswith("json"):
        with pytest.raises(InputError):
            read_provenance(tmp_path)
    try:  # mended or refused
        synthesize(make_plan(10), Painter(), tmp_path, progress=False)
        assert verify_store(tmp_path, progress=False).is_sound
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["x" * 300, "loop", "file", "file/below", "loop/below"])
def test_places_that_take_no_folder_are_one_sentence(make_plan: MakePlan, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    painter = Painter()
    with pytest.raises(InputError) as caught:
        synthesize(make_plan(10), painter, tmp_path / name, progress=False)
    assert "\n" not in str(caught.value) and painter.calls == []
    for read in (open_store, read_provenance):
        with pytest.raises(InputError):
            read(tmp_path / name)


def test_a_folder_with_brackets_is_drawn_verified_and_exported(make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*" / "d[b]"
    synthesize(make_plan(10), Painter(), folder, progress=False)
    assert verify_store(folder, progress=False).is_sound
    assert len(export_parquet(folder, tmp_path / "e[0]")) == 1
    shutil.rmtree(folder / "data")
    assert synthesize(make_plan(10), Painter(), folder, progress=False).num_drawn == 20
