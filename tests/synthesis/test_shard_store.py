from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from painters import Painter, picture
from PIL import Image

from stablerep_hf.captions import CaptionSet, read_captions
from stablerep_hf.errors import InputError
from stablerep_hf.files.atomic import SweptUpError, remove_leftovers, replacing, write_at_once
from stablerep_hf.synthesis import (
    SynthesisPlan,
    estimate_synthesis,
    image_features,
    open_store,
    read_provenance,
    synthesize,
)
from stablerep_hf.synthesis.drawing import MOST_REDRAWS
from stablerep_hf.synthesis.frames import perceptual_hash
from stablerep_hf.synthesis.store import ShardStore
from stablerep_hf.synthesis.versions import library_versions

MakePlan = Callable[..., SynthesisPlan]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


def draw(plan: SynthesisPlan, folder: Path, painter: Painter | None = None, **settings: Any) -> Any:
    return synthesize(plan, painter or Painter(), folder, progress=False, **settings)


def test_stock_datasets_loads_the_folder_without_this_package(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10, image_format="png", prompt_templates=("{caption}", "a {caption}"))
    draw(plan, tmp_path / "store")
    program = """if True:
        import sys
        sys.modules["stablerep_hf"] = None  # importing it fails
        import json, datasets
        settings = dict(path=sys.argv[1], cache_dir=sys.argv[2])
        splits = datasets.load_dataset(**settings)
        assert list(splits) == ["train"], splits
        rows = splits["train"]
        stream = datasets.load_dataset(**settings, split="train", streaming=True)
        assert stream.features == rows.features
        pixels = [image.tobytes().hex() for image in rows["image"]]
        assert [row["image"].tobytes().hex() for row in stream] == pixels
        kinds = {name: str(kind) for name, kind in rows.features.items()}
        print(json.dumps([kinds, pixels, rows.remove_columns("image").to_list()]))
    """
    command = [sys.executable, "-c", program, str(tmp_path / "store"), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kinds, pixels, rows = json.loads(done.stdout)

    assert list(kinds) == [
        *("image", "caption", "caption_id", "image_index", "seed", "prompt"),
        *("generator", "generator_revision", "scheduler", "guidance_scale", "num_inference_steps"),
        *("generator_license", "redrawable", "library_versions"),
        *("is_blank", "perceptual_hash", "alignment", "nsfw", "diversity"),
    ]
    assert kinds["image"].startswith("Image(")
    assert [kinds[name] for name in ("caption_id", "image_index", "seed")] == [
        "Value('int64')",
        "Value('int32')",
        "Value('int64')",
    ]
    expected = [
        {
            "caption": text,
            "caption_id": number,
            "image_index": index,
            "seed": plan.seed(number, index),
            "prompt": plan.prompt(text, number, index),
            "generator": "painter",
            "generator_revision": "r1",
            "scheduler": "Brush",
            "guidance_scale": 2.0,
            "num_inference_steps": 3,
            "generator_license": None,
            "redrawable": True,
            "library_versions": ", ".join(f"{name} {version}" for name, version in library_versions().items()),
            "is_blank": False,
            "perceptual_hash": perceptual_hash(Image.fromarray(picture(plan.seed(number, index)))),
            "alignment": None,
            "nsfw": None,
            "diversity": None,
        }
        for text, number in zip(plan.captions, plan.captions.caption_ids.tolist(), strict=True)
        for index in range(2)
    ]
    assert rows == expected
    assert pixels == [picture(row["seed"]).tobytes().hex() for row in expected]


def test_a_shard_carries_the_features_and_can_be_read_in_part(make_plan: MakePlan, tmp_path: Path) -> None:
    draw(make_plan(3), tmp_path)
    (path,) = (tmp_path / "data").iterdir()
    assert path.name == "train-00000-of-00001.parquet"
    file = pq.ParquetFile(path)
    assert datasets.Features.from_arrow_schema(file.schema_arrow) == image_features()
    column = file.metadata.row_group(0).column(2)
    assert column.has_offset_index
    assert column.has_column_index


def test_big_shards_get_row_groups_the_viewer_can_read(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stablerep_hf.synthesis.schema._ROW_GROUP_BYTES", 1000)
    draw(make_plan(4, image_format="png"), tmp_path)
    file = pq.ParquetFile(next((tmp_path / "data").iterdir()))
    assert file.num_row_groups > 1
    assert file.read().num_rows == 8


def test_a_second_run_draws_nothing(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10)
    first = draw(plan, tmp_path)
    assert (first.num_images, first.num_drawn, first.num_shards_drawn, first.damaged_shards) == (20, 20, 3, ())
    assert first.images_per_second == pytest.approx(20 / first.seconds)
    before = contents(tmp_path)
    painter = Painter()
    second = draw(plan, tmp_path, painter)
    assert painter.calls == []
    assert (second.num_images, second.num_drawn, second.num_shards, second.num_shards_drawn) == (20, 0, 3, 0)
    assert second.images_per_second == 0
    assert contents(tmp_path) == before


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_the_count(path: Path) -> None:
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))


@pytest.mark.parametrize("damage", [tear, empty, flip_one_bit, Path.unlink])
@pytest.mark.parametrize("victim", ["data/train-00001-of-00003.parquet", "provenance/shard-00001.json"])
def test_a_damaged_shard_is_found_by_its_hash_and_redrawn(
    make_plan: MakePlan, tmp_path: Path, damage: Callable[[Path], object], victim: str
) -> None:
    plan = make_plan(10)
    draw(plan, tmp_path)
    before = contents(tmp_path)
    if damage is flip_one_bit and victim.endswith(".json"):
        damage = edit_the_count
    damage(tmp_path / victim)
    painter = Painter()
    summary = draw(plan, tmp_path, painter)
    assert summary.damaged_shards == (1,)
    assert sum(len(prompts) for prompts, _ in painter.calls) == summary.num_drawn == 8
    assert contents(tmp_path) == before
    assert draw(plan, tmp_path).num_drawn == 0


def test_a_whole_shard_of_another_plan_is_noticed(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(8)
    draw(plan, tmp_path / "here")
    draw(make_plan(8, base_seed=1), tmp_path / "there")
    before = contents(tmp_path / "here")
    for name in ("data/train-00001-of-00002.parquet", "provenance/shard-00001.json"):
        (tmp_path / "here" / name).write_bytes((tmp_path / "there" / name).read_bytes())
    assert draw(plan, tmp_path / "here").damaged_shards == (1,)
    assert contents(tmp_path / "here") == before


def test_a_shard_under_another_shards_name_is_noticed(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(8)
    draw(plan, tmp_path)
    first, second = sorted((tmp_path / "data").iterdir())
    before = contents(tmp_path)
    second.write_bytes(first.read_bytes())
    assert draw(plan, tmp_path).damaged_shards == (1,)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_seed": 1}, "base_seed is 0 there and 1 here; give seed=0"),
        ({"images_per_caption": 3}, "images_per_caption is 2 there and 3 here; give images_per_caption=2"),
        (
            {"generator": Painter(guidance_scale=8.0).describe()},
            "guidance_scale is 2.0 there and 8.0 here; give guidance_scale=2.0",
        ),
        ({"number": 9}, "captions are 10 of digest .{8} there and 9 of digest .{8} here; use the settings"),
        (
            {"prompt_templates": ("a {caption}",)},
            'prompt_templates is .* there and .*"a {caption}".* here; use the settings',
        ),
    ],
)
def test_another_plans_folder_is_refused_and_left_alone(
    make_plan: MakePlan, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    draw(make_plan(), tmp_path)
    before = contents(tmp_path)
    plan = make_plan(**change)
    painter = Painter(guidance_scale=plan.generator["guidance_scale"])
    with pytest.raises(InputError, match=f"holds images of another plan: {said}.*, or name another folder") as caught:
        draw(plan, tmp_path, painter)
    assert "\n" not in str(caught.value)
    assert painter.calls == []
    assert contents(tmp_path) == before


def test_another_licence_makes_no_other_plan_and_the_rows_keep_theirs(make_plan: MakePlan, tmp_path: Path) -> None:
    """The card of a generator may be corrected between two runs."""

    class Licensed(Painter):
        def __init__(self, license: str | None) -> None:
            super().__init__()
            self.license = license

        def describe(self) -> dict[str, object]:
            return {**super().describe(), **({"license": self.license} if self.license else {})}

    for number, (before, after) in enumerate([("mit", "apache-2.0"), (None, "mit"), ("mit", None)]):
        folder, one, other = tmp_path / str(number), Licensed(before), Licensed(after)
        first, second = (make_plan(generator=painter.describe()) for painter in (one, other))
        draw(first, folder, one, rank=0, world_size=2)
        plan_file = (folder / "provenance/plan.json").read_bytes()
        assert estimate_synthesis(second, other, folder, batch_size=2).num_images == 8
        assert draw(second, folder, other).num_drawn == 8
        assert draw(second, folder, other).num_drawn == draw(first, folder, one).num_drawn == 0
        assert (folder / "provenance/plan.json").read_bytes() == plan_file
        rows = [row for path in (folder / "data").iterdir() for row in pq.read_table(path).to_pylist()]
        assert {row["generator_license"] for row in rows} == {before}


def test_a_plan_that_drew_nothing_gives_way(make_plan: MakePlan, tmp_path: Path) -> None:
    class Failing(Painter):
        def __call__(self, prompts, seeds):  # type: ignore[no-untyped-def]
            raise MemoryError

    with pytest.raises(MemoryError):
        draw(make_plan(), tmp_path, Failing())
    assert draw(make_plan(base_seed=1), tmp_path).num_drawn == 20
    assert read_provenance(tmp_path).settings["base_seed"] == 1


def test_a_worker_of_a_plan_that_gave_way_writes_nothing(make_plan: MakePlan, tmp_path: Path) -> None:
    class Meanwhile(Painter):
        """While this one draws its first shard, another worker takes the folder for another plan."""

        def __call__(self, prompts, seeds):  # type: ignore[no-untyped-def]
            if not self.calls:
                draw(make_plan(base_seed=1), tmp_path)
            return super().__call__(prompts, seeds)

    with pytest.raises(InputError, match="base_seed is 1 there and 0 here"):
        draw(make_plan(), tmp_path, Meanwhile())
    assert draw(make_plan(base_seed=1), tmp_path).num_drawn == 0


def test_a_damaged_plan_file_is_repaired_if_the_records_vouch_for_it(make_plan: MakePlan, tmp_path: Path) -> None:
    draw(make_plan(), tmp_path)
    for content in (b"", b"\xff\xfe", b'{"hash": "0"}'):
        (tmp_path / "provenance/plan.json").write_bytes(content)
        with pytest.raises(InputError, match=r"plan.json is missing or damaged"):
            draw(make_plan(base_seed=1), tmp_path)
        assert draw(make_plan(), tmp_path).num_drawn == 0
        assert read_provenance(tmp_path).settings == make_plan().settings


def write_other_captions(path: Path) -> None:
    CaptionSet.from_texts(["another thing"]).write_parquet(path)


def break_the_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"thing ", b"thing\xff", 1))


@pytest.mark.parametrize("damage", [tear, empty, break_the_text, write_other_captions, Path.unlink])
def test_damaged_captions_are_restored(make_plan: MakePlan, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    plan, path = make_plan(10), tmp_path / "provenance/captions.parquet"
    draw(plan, tmp_path)
    before = path.read_bytes()
    damage(path)
    said = r"no readable provenance/captions.parquet .*restores that file|give the captions it was made for"
    with pytest.raises(InputError, match=said):
        open_store(tmp_path)
    assert draw(plan, tmp_path).num_drawn == 0
    assert path.read_bytes() == before
    assert open_store(tmp_path).plan.hash == plan.hash


def test_a_folder_with_somebody_elses_parquet_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000-of-00001.parquet").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"plan.json is missing or damaged.*name another folder"):
        draw(make_plan(), tmp_path)
    assert contents(tmp_path) == {"train-00000-of-00001.parquet": b"precious"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        draw(make_plan(), tmp_path / "file")


def test_the_generator_must_be_the_plans(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The generator is not the plan's: guidance_scale is 2.0 there and 3.0 here"):
        draw(make_plan(), tmp_path / "x", Painter(guidance_scale=3.0))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("rank", "world_size", "batch_size"), [(2, 2, 8), (-1, 2, 8), (0, 0, 8), (0, 1, 0)])
def test_impossible_workers_and_batches(
    make_plan: MakePlan, tmp_path: Path, rank: int, world_size: int, batch_size: int
) -> None:
    with pytest.raises(InputError, match=r"rank is .* of .* workers|batch_size=0 draws"):
        draw(make_plan(), tmp_path, rank=rank, world_size=world_size, batch_size=batch_size)


def test_a_full_disk_leaves_nothing_half_written(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sync of a run fails in turn; each time the next run goes on where that one was."""
    plan = make_plan(10)
    draw(plan, tmp_path / "whole")
    real_sync, failed_at = os.fsync, 1

    while True:
        number = 0

        def fsync(descriptor: int) -> None:
            nonlocal number
            number += 1
            if number == failed_at:  # noqa: B023, it is meant to follow the loop
                raise OSError(errno.ENOSPC, "No space left on device")
            real_sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        store = tmp_path / f"store{failed_at}"
        try:
            draw(plan, store)
        except InputError as error:
            assert "There is no room left for" in str(error)
        else:
            break
        monkeypatch.setattr(os, "fsync", real_sync)
        files = [path for path in store.rglob("*") if path.is_file()]
        assert not [path for path in files if path.name.endswith(".tmp")]
        for path in (store / "data").iterdir():
            assert path.read_bytes() == (tmp_path / "whole/data" / path.name).read_bytes()
        draw(plan, store)
        assert contents(store) == contents(tmp_path / "whole")
        failed_at += 1
    assert failed_at > 10


def test_a_file_system_that_syncs_no_folder_is_no_error(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert draw(make_plan(4), tmp_path).num_drawn == 8


def test_a_disk_that_fills_within_a_file(make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stablerep_hf.synthesis.store as store

    def write_half(file: Any, rows: Any) -> None:
        whole = BytesIO()
        real_write(whole, rows)
        file.write(whole.getvalue()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    real_write = store.write_rows
    monkeypatch.setattr(store, "write_rows", write_half)
    with pytest.raises(InputError, match=r"There is no room left for 'train-00000-of-00003.parquet'"):
        draw(make_plan(10), tmp_path)
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.setattr(store, "write_rows", real_write)
    assert draw(make_plan(10), tmp_path).num_images == 20


def test_flagged_and_black_frames_are_redrawn_and_counted(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10, images_per_caption=4)
    number = plan.captions.caption_ids.tolist()[6]
    withheld, blackened = plan.seed(number, 1), plan.seed(number, 4)
    painter = Painter(flag=lambda _, seed: seed == withheld, black=lambda _, seed: seed == blackened)
    summary = draw(plan, tmp_path, painter)
    assert (summary.num_redrawn, summary.num_images, summary.failed_captions) == (2, 40, ())
    rows = datasets.load_dataset(str(tmp_path), split="train").filter(lambda row: row["caption_id"] == number)
    assert rows["image_index"][:] == [0, 2, 3, 5]
    assert all(np.asarray(image).any() for image in rows["image"])
    assert read_provenance(tmp_path).num_redrawn == 2
    assert [record["redrawn"] for record in read_provenance(tmp_path).shards] == [0, 2, 0]


def test_captions_that_never_get_a_picture_are_left_out_up_to_a_limit(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10)
    cursed = {plan.captions.captions[place]: int(plan.captions.caption_ids[place]) for place in (1, 2, 9)}
    painter = Painter(flag=lambda prompt, _: prompt in cursed)
    with pytest.raises(InputError, match=rf"2 of the captions .*'thing 1' \(caption_id {cursed['thing 1']}\).* is 1;"):
        draw(plan, tmp_path, painter, max_failed_captions=1)
    assert contents(tmp_path) == {}

    with pytest.raises(InputError, match="3 of the captions drawn so far"):
        draw(plan, tmp_path, painter, max_failed_captions=2)
    assert len(contents(tmp_path)) == 2  # what was finished stands

    summary = draw(plan, tmp_path, painter, max_failed_captions=3)
    assert summary.failed_captions == tuple(cursed.values()) == read_provenance(tmp_path).failed_captions
    assert (summary.num_images, summary.num_drawn, summary.num_redrawn) == (14, 2, MOST_REDRAWS)
    rows = datasets.load_dataset(str(tmp_path), split="train")
    assert set(rows["caption"]) == set(plan.captions) - set(cursed)
    assert draw(plan, tmp_path).num_drawn == 0  # a finished folder asks for no leave again


def test_workers_share_the_shards_and_any_number_finishes_the_rest(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(30)  # 8 shards
    draw(plan, tmp_path / "one")
    summaries = [draw(plan, tmp_path / "many", rank=rank, world_size=3) for rank in (2, 0)]
    assert [summary.num_shards_drawn for summary in summaries] == [2, 3]
    assert sorted(int(name[6:11]) for name in contents(tmp_path / "many")) == [0, 2, 3, 5, 6]
    rest = draw(plan, tmp_path / "many", rank=0, world_size=1)
    assert (rest.num_shards_drawn, rest.num_images) == (3, 60)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_batch_size_changes_no_byte(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10, images_per_caption=3)
    bad = Painter(flag=lambda _, seed: seed % 3 == 0)
    for batch_size in (1, 5, 64):
        draw(plan, tmp_path / str(batch_size), bad, batch_size=batch_size)
    assert contents(tmp_path / "1") == contents(tmp_path / "5") == contents(tmp_path / "64")


def test_leftovers_of_the_killed_go_when_all_is_done_or_they_are_old(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10)
    draw(plan, tmp_path, rank=0, world_size=2)
    fresh, old = (tmp_path / "data" / f".train-00001-of-00003.parquet.{name}.tmp" for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    draw(plan, tmp_path, rank=0, world_size=2)
    assert fresh.exists()  # shard 1 is missing: its writer may be at work
    assert not old.exists()
    draw(plan, tmp_path)
    assert not fresh.exists()


def test_provenance_gives_the_facts_of_the_card(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10)
    draw(plan, tmp_path, rank=1, world_size=2)
    facts = read_provenance(tmp_path)
    assert (facts.num_shards, len(facts.shards), facts.num_images) == (3, 1, 8)
    draw(plan, tmp_path)
    facts = read_provenance(tmp_path)
    assert facts.settings == plan.settings
    assert (facts.num_captions, facts.num_truncated) == (10, 0)
    assert (len(facts.shards), facts.num_images, facts.num_redrawn, facts.failed_captions) == (3, 20, 0, ())
    assert facts.num_bytes == sum(map(len, contents(tmp_path).values()))
    assert facts.seconds >= 0
    assert facts.shards[0]["versions"]["pyarrow"] == pq.core.pa.__version__
    captions = read_captions(tmp_path / "provenance/captions.parquet")
    assert SynthesisPlan.from_json((tmp_path / "provenance/plan.json").read_text(), captions).hash == plan.hash


def test_provenance_of_what_is_no_store(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no readable provenance/plan.json"):
        read_provenance(tmp_path)
    draw(make_plan(), tmp_path)
    (tmp_path / "provenance/shard-00002.json").write_text("{")
    with pytest.raises(InputError, match=r"'shard-00002.json' is damaged"):
        read_provenance(tmp_path)


def test_the_bar_shows_images_and_their_rate(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(10)
    synthesize(plan, Painter(), tmp_path, rank=0, world_size=2)
    assert "drawing (0 of 2): 12 of 12 images" in (shown := capsys.readouterr().err)
    assert "images/s" in shown
    synthesize(plan, Painter(), tmp_path)
    assert "20 of 20 images" in capsys.readouterr().err  # counts what stood already
    synthesize(plan, Painter(), tmp_path)
    assert "drawing" not in capsys.readouterr().err


def test_captions_of_a_store_are_its_captions_again(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(captions=CaptionSet.from_texts(["a cat", "ein Café", "a cat"]))
    draw(plan, tmp_path)
    assert read_captions(tmp_path).captions == ["a cat", "ein Café"]


def test_a_file_swept_up_by_another_worker_is_written_again(tmp_path: Path) -> None:
    """A worker that finds every shard in place sweeps up what another is writing."""
    path, times = tmp_path / "shard.json", 0
    path.write_bytes(b"old")

    def write(file: Any) -> int:
        nonlocal times
        times += 1
        file.write(b"new")
        if times < 3:
            remove_leftovers(tmp_path, even_fresh=True)
        return times

    assert write_at_once(path, write) == 3
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("shard.json", b"new")]


def test_a_file_that_vanishes_is_an_error_and_a_missing_folder_another(tmp_path: Path) -> None:
    with pytest.raises(SweptUpError), replacing(tmp_path / "shard.json"):
        remove_leftovers(tmp_path, even_fresh=True)
    with pytest.raises(FileNotFoundError):  # and no endless loop
        write_at_once(tmp_path / "none" / "shard.json", lambda file: file.write(b"x"))


@pytest.mark.parametrize("name", ["shard", "record"])
def test_a_worker_that_is_swept_up_while_it_draws_leaves_a_whole_shard(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Two workers on one shard: the faster one finds the folder finished and sweeps up the slower one's file."""
    plan, real, swept = make_plan(4), Path.replace, False
    victim = getattr(ShardStore(tmp_path, plan), f"{name}_path")(0)

    def replace(self: Path, target: Path) -> Path:
        nonlocal swept
        if target == victim and not swept:
            swept = True
            self.unlink()
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert draw(plan, tmp_path).num_drawn == 8
    assert swept
    assert draw(plan, tmp_path).num_drawn == 0


def test_a_caption_set_says_how_many_images_each_caption_gets(make_plan: MakePlan, tmp_path: Path) -> None:
    captions = CaptionSet.from_texts(f"thing {i}" for i in range(6)).with_num_images([1, 5, 2, 1, 1, 3])
    captions = captions.with_history(read=9)
    plan = make_plan(captions=captions)
    assert plan.num_images == 13
    assert plan.hash != make_plan(captions=captions.with_num_images([2, 5, 2, 1, 1, 3])).hash
    painter = Painter(flag=lambda _, seed: seed % 3 == 0)
    assert draw(plan, tmp_path, painter, batch_size=3).num_images == 13
    rows = datasets.load_dataset(str(tmp_path), split="train")
    counted = {caption: rows["caption"][:].count(caption) for caption in captions}
    assert list(counted.values()) == [1, 5, 2, 1, 1, 3]
    assert read_provenance(tmp_path).caption_history == {"read": 9}
    again = read_captions(tmp_path / "provenance/captions.parquet")
    assert SynthesisPlan.from_json((tmp_path / "provenance/plan.json").read_text(), again).hash == plan.hash


def test_prompts_that_are_cut_are_counted_and_told_once(make_plan: MakePlan, tmp_path: Path) -> None:
    class Reader(Painter):
        max_prompt_tokens = 7

        def too_long(self, prompts):  # type: ignore[no-untyped-def]
            return ["7" in prompt or "ink" in prompt for prompt in prompts]

    plan = make_plan(10, prompt_templates=("{caption}", "{caption} in ink", "{caption} in oil"))
    expected = sum(
        "7" in prompt or "ink" in prompt
        for text, number in zip(plan.captions, plan.captions.caption_ids.tolist(), strict=True)
        for prompt in {plan.prompt(text, number, index) for index in range(2)}
    )
    assert estimate_synthesis(plan, Reader(), tmp_path / "cut").num_truncated == expected
    with pytest.warns(UserWarning, match=f"^{expected} prompts are longer than the 7 tokens") as told:
        assert draw(plan, tmp_path / "cut", Reader()).num_truncated == expected
    assert len(told) == 1
    assert read_provenance(tmp_path / "cut").num_truncated == expected


def test_an_estimate_draws_two_batches_and_writes_nothing(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, painter = make_plan(10), Painter(seconds=0.05)
    estimate = estimate_synthesis(plan, painter, tmp_path / "new", batch_size=3)
    assert (estimate.num_images, estimate.num_shards, estimate.num_batches) == (20, 3, 3 + 3 + 2)
    assert [len(prompts) for prompts, _ in painter.calls] == [3, 3]
    assert estimate.seconds_per_batch >= 0.05
    assert estimate.cost(3600.0) == pytest.approx(estimate.seconds)
    for impossible in (0, -1):
        with pytest.raises(InputError, match=f"batch_size={impossible} draws nothing"):
            estimate_synthesis(plan, painter, tmp_path / "new", batch_size=impossible)
    assert not (tmp_path / "new").exists()
    draw(plan, tmp_path / "new", rank=0, world_size=2)
    drawn = read_provenance(tmp_path / "new")
    assert 0.2 < estimate.bytes_per_image * drawn.num_images / drawn.num_bytes < 1.2
    assert estimate_synthesis(plan, painter, tmp_path / "new", batch_size=3).num_images == 8


@pytest.mark.parametrize(("number", "batch_size", "calls"), [(1, 8, [2]), (2, 3, [3]), (3, 3, [3, 3])])
def test_an_estimate_draws_no_more_than_the_job(
    make_plan: MakePlan, tmp_path: Path, number: int, batch_size: int, calls: list[int]
) -> None:
    painter = Painter()
    estimate = estimate_synthesis(make_plan(number), painter, tmp_path, batch_size=batch_size)
    assert [len(prompts) for prompts, _ in painter.calls] == calls
    assert sum(calls) <= estimate.num_images


def test_no_flipped_bit_of_a_record_passes(make_plan: MakePlan, tmp_path: Path) -> None:
    """Not in a number, not in the name of a key: a record that is not what was written says nothing."""
    plan = make_plan(2)
    draw(plan, tmp_path)
    store, path = ShardStore(tmp_path, plan), tmp_path / "provenance/shard-00000.json"
    content = path.read_bytes()
    assert store.find_record(0) is not None
    meaningless = {place for place, byte in enumerate(content) if byte in b" \n"}  # between values
    for place in set(range(len(content))) - meaningless:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert store.find_record(0) is None, content[max(0, place - 20) : place + 20]
