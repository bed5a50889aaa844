from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from painters import Painter

from stablerep_hf.errors import InputError
from stablerep_hf.files.sealing import seal, unseal
from stablerep_hf.synthesis import (
    SynthesisPlan,
    find_row,
    open_store,
    redraw_image,
    remove_problems,
    synthesize,
    verify_store,
)

MakePlan = Callable[..., SynthesisPlan]


@pytest.fixture
def folder(make_plan: MakePlan, tmp_path: Path) -> Path:
    synthesize(make_plan(10), Painter(), tmp_path / "store", progress=False)
    return tmp_path / "store"


def shard(folder: Path, number: int) -> Path:
    return open_store(folder).shard_path(number)


def rewrite(folder: Path, number: int, change: Callable[[list[dict]], list[dict]]) -> None:  # type: ignore[type-arg]
    """Change rows and make the record vouch for them, as a wrong writer would."""
    store = open_store(folder)
    record = store.find_record(number)
    assert record is not None
    rows = change(pq.read_table(store.shard_path(number)).to_pylist())
    store.replace_rows(number, record, rows, {"rows": len(rows)})


def twice(rows: list[dict]) -> list[dict]:  # type: ignore[type-arg]
    return [*rows, rows[0]]


def foreign(rows: list[dict]) -> list[dict]:  # type: ignore[type-arg]
    return [{**rows[0], "caption": "another thing"}, *rows[1:]]


def torn_image(rows: list[dict]) -> list[dict]:  # type: ignore[type-arg]
    content = rows[3]["image"]["bytes"]
    rows[3]["image"]["bytes"] = content[: len(content) // 2]
    return rows


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (twice, {"duplicate row": 1}),
        (foreign, {"orphan row": 1}),
        (torn_image, {"unreadable image": 1}),
        (lambda rows: rows[1:], {"wrong number of images": 1}),
    ],
)
def test_wrong_rows_are_found_and_drawn_again(folder: Path, change, kinds: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    before = shard(folder, 1).read_bytes()
    assert verify_store(folder, progress=False).problems == ()
    rewrite(folder, 1, change)
    report = verify_store(folder, progress=False)
    assert report.counts == kinds
    assert not report.is_sound
    assert remove_problems(folder, report) == [1]
    synthesize(open_store(folder).plan, Painter(), folder, progress=False)
    assert shard(folder, 1).read_bytes() == before
    assert verify_store(folder, progress=False).problems == ()


def test_files_that_are_damaged_missing_or_do_not_belong(folder: Path) -> None:
    whole = {path.name: path.read_bytes() for path in (folder / "data").iterdir()}
    shard(folder, 0).write_bytes(b"")
    shard(folder, 2).unlink()
    open_store(folder).record_path(2).unlink()
    (folder / "data/train-00000-of-00007.parquet").write_bytes(b"x")
    (folder / "data/.train-00001-of-00003.parquet.abc.tmp").write_bytes(b"x")
    report = verify_store(folder, progress=False)
    assert report.counts == {"damaged shard": 1, "missing shard": 1, "orphan file": 1, "leftover file": 1}
    assert (report.num_shards, report.num_images) == (3, 8)
    assert remove_problems(folder, report) == [0, 2]
    synthesize(open_store(folder).plan, Painter(), folder, progress=False)
    assert {path.name: path.read_bytes() for path in (folder / "data").iterdir()} == whole


def test_siblings_that_are_equal_are_told_but_no_damage(make_plan: MakePlan, tmp_path: Path) -> None:
    class Copyist(Painter):
        def __call__(self, prompts, seeds):  # type: ignore[no-untyped-def]
            return super().__call__(prompts, [hash(prompt) % 1000 for prompt in prompts])

    synthesize(make_plan(4), Copyist(), tmp_path, progress=False)
    report = verify_store(tmp_path, progress=False)
    assert report.counts == {"equal siblings": 4}
    assert report.is_sound
    assert verify_store(tmp_path, decode=False, progress=False).problems == ()


def test_what_is_no_store(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no readable provenance/plan.json"):
        verify_store(tmp_path)
    plan = folder / "provenance/plan.json"
    plan.write_text(plan.read_text().replace('"base_seed": 0', '"base_seed": 1'))
    with pytest.raises(InputError, match="does not match its own hash"):
        verify_store(folder)


def test_a_row_is_found_and_its_image_drawn_again(folder: Path) -> None:
    plan = open_store(folder).plan
    caption_id = int(plan.captions.caption_ids[5])
    row = find_row(folder, caption_id, 1)
    assert (row["caption"], row["image_index"], row["seed"]) == ("thing 5", 1, plan.seed(caption_id, 1))
    redrawn = redraw_image(folder, caption_id, 1, Painter())
    assert redrawn.encoded == row["image"]["bytes"]
    assert (redrawn.is_same_file, redrawn.max_difference) == (True, 0)

    class Another(Painter):
        def __call__(self, prompts, seeds):  # type: ignore[no-untyped-def]
            return super().__call__(prompts, [seed // 2 for seed in seeds])

    other = redraw_image(folder, caption_id, 1, Another())
    assert not other.is_same_file
    assert other.max_difference > 50
    with pytest.raises(InputError, match="withholds image 1"):
        redraw_image(folder, caption_id, 1, Painter(flag=lambda _, seed: True))
    with pytest.raises(InputError, match="caption_id 3 is none of the 10 captions"):
        find_row(folder, 3, 0)
    with pytest.raises(InputError, match="has no image 9"):
        find_row(folder, caption_id, 9)


def test_records_of_an_interrupted_rewriting_count_as_provenance(folder: Path) -> None:
    from stablerep_hf.synthesis import read_provenance

    path = folder / "provenance/shard-00001.json"
    record = unseal(path.read_text())
    path.write_text(seal({**record, "coming": {"sha256": "0", "bytes": 1}}))
    assert "coming" not in read_provenance(folder).shards[1]
    assert verify_store(folder, progress=False).is_sound
