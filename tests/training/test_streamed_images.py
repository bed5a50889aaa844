"""Streams: groups and views as of a map-style set, one order whatever the workers and processes, exact resume."""

import logging

import datasets
import numpy as np
import pytest
import torch
from test_stablerep_trainer import StopAfter, largest_difference, make_arguments, make_model, weights
from training_data import make_dataset

from stablerep_hf.errors import InputError
from stablerep_hf.training import (
    GroupCollator,
    GroupedImages,
    StableRepTrainer,
    StreamedBatchSampler,
    StreamedImages,
)
from stablerep_hf.training.augmentation import RECIPES
from stablerep_hf.training.checkpoints import latest_checkpoint

SETTINGS = {
    "images_per_caption": 3, "crops_per_image": 1, "image_size": 16, "recipe": RECIPES["strong"], "seed": 0,
}  # fmt: skip
SIZES = [4, 1, 3, 4] * 6


def in_shards(dataset, folder, captions_per_shard=4):
    """A stream over parquet files of whole captions, as this package writes them."""
    folder.mkdir(exist_ok=True)
    captions = list(dict.fromkeys(dataset["caption"]))
    for shard in range(0, len(captions), captions_per_shard):
        chosen = set(captions[shard : shard + captions_per_shard])
        rows = [row for row, caption in enumerate(dataset["caption"]) if caption in chosen]
        dataset.select(rows).to_parquet(folder / f"train-{shard:03}.parquet")
    return open_stream(folder)


def open_stream(folder, **settings):
    return datasets.load_dataset(str(folder), split="train", streaming=True, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    in_shards(make_dataset(SIZES), folder)
    return folder


@pytest.fixture
def stream(folder):
    return open_stream(folder)


def batches(groups, epoch=0, skipped=0, **settings):
    sampler = StreamedBatchSampler(groups, 8, 0, **({"shuffle_buffer": 8} | settings))
    sampler.set_epoch(epoch)
    sampler.skipped = skipped
    return list(sampler)


def numbers(batch):
    return [key and key.group for key in batch]


def test_groups_and_views_are_those_of_the_map_style_data_set(stream):
    mapped, streamed = GroupedImages(make_dataset(SIZES), **SETTINGS), StreamedImages(stream, **SETTINGS)
    assert streamed.group_ids.tolist() == mapped.group_ids.tolist()
    assert (streamed.num_images, streamed.num_captions) == (mapped.num_images, mapped.num_captions) == (72, 24)
    seen = [key for batch in batches(streamed, epoch=2) for key in batch]
    assert sorted(key.group for key in seen) == list(range(24))
    for key in seen:
        ours, theirs = streamed[key], mapped[2, key.group]
        assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.color, theirs.color)
        assert (ours.group_id, ours.caption) == (theirs.group_id, theirs.caption)


def test_each_epoch_has_an_order_of_its_own_and_mixes_shards(stream):
    groups = StreamedImages(stream, **SETTINGS)
    orders = [[numbers(batch) for batch in batches(groups, epoch)] for epoch in range(2)]
    assert orders[0] != orders[1] and orders[0] == [numbers(batch) for batch in batches(groups, 0)]
    assert all(len({group // 4 for group in batch}) >= 3 for batch in orders[0]), "four lanes at work in six shards"
    unbuffered = [numbers(batch) for batch in batches(groups, 0, shuffle_buffer=1)]
    assert unbuffered != orders[0]


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_share_the_batches_and_the_shards_of_one(stream, processes):
    groups = StreamedImages(stream, **SETTINGS)
    whole = [numbers(batch) for batch in batches(groups)]
    parts = [batches(groups, process_index=rank, num_processes=processes) for rank in range(processes)]
    share = 8 // processes
    for step, batch in enumerate(whole):
        for rank, part in enumerate(parts):
            expected = [None] * 8
            expected[rank * share : (rank + 1) * share] = batch[rank * share : (rank + 1) * share]
            assert numbers(part[step]) == expected


@pytest.mark.parametrize("skipped", [1, 2])
def test_a_resumed_epoch_reads_only_the_shards_it_still_needs(stream, monkeypatch, skipped):
    groups = StreamedImages(stream, **SETTINGS)
    whole = batches(groups, epoch=1)
    read = []
    source = groups.streams[0]
    read_shard = source.read_shard
    monkeypatch.setattr(
        source, "read_shard", lambda shard, wanted, choose: (read.extend(wanted), read_shard(shard, wanted, choose))[1]
    )
    resumed = batches(groups, epoch=1, skipped=skipped)
    assert resumed[:skipped] == [[None] * 8] * skipped and resumed[skipped:] == whole[skipped:]
    assert sorted(read) == sorted(key.group for batch in whole[skipped:] for key in batch)


def test_memory_holds_no_more_than_the_buffer(stream):
    groups = StreamedImages(stream, **SETTINGS)
    sampler = StreamedBatchSampler(groups, 8, 0, shuffle_buffer=12)
    order, place = sampler.plan()
    assert sampler.num_lanes == 4
    for lane in np.split(order, 4, axis=1):
        arrived = place[lane.ravel()]
        waiting = [sum(arrived[step + 1 :] < arrived[: step + 1].max()) for step in range(len(arrived))]
        assert max(waiting) <= 12 / 4


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(stream, workers):
    groups = StreamedImages(stream, **SETTINGS)
    sampler = StreamedBatchSampler(groups, 8, 0, shuffle_buffer=8)
    loader = torch.utils.data.DataLoader(
        groups, batch_sampler=sampler, collate_fn=GroupCollator(), num_workers=workers
    )
    for batch, keys in zip(loader, sampler, strict=True):
        torch.testing.assert_close(batch["pixels"], torch.cat([groups[key].pixels for key in keys]))


def test_keys_can_be_counted_without_the_images(stream, folder):
    keys = open_stream(folder, columns=["caption_id"])
    assert keys.column_names == ["caption_id"]
    one, other = StreamedImages(stream, **SETTINGS), StreamedImages(stream, keys, **SETTINGS)
    assert np.array_equal(one.group_ids, other.group_ids) and np.array_equal(one.sizes, other.sizes)


@pytest.mark.parametrize(("positives", "ids"), [("image", range(72)), ("label", [0, 1] * 36)])
def test_images_and_labels_stream_too(positives, ids):
    data = make_dataset(SIZES).add_column("kind", ["ant", "bee"] * 36).to_iterable_dataset(num_shards=3)
    settings = SETTINGS | {"images_per_caption": 1, "crops_per_image": 2}
    groups = StreamedImages(data, positives=positives, label_column="kind", **settings)
    assert groups.group_ids.tolist() == list(ids)
    assert len(groups[batches(groups)[0][0]].pixels) == 2


def test_siblings_apart_are_groups_of_one_id_and_counted(caplog):
    data = datasets.concatenate_datasets([make_dataset([3, 3, 3, 3]), make_dataset([2])]).to_iterable_dataset(2)
    with caplog.at_level(logging.WARNING):
        groups = StreamedImages(data, **SETTINGS)
    # rows 0 to 13 in two shards of 7: caption 2 is cut at row 7, and caption 0 comes back at row 12
    assert groups.sizes.tolist() == [3, 3, 1, 2, 3, 2]
    assert groups.group_ids[0] == groups.group_ids[5] and groups.group_ids[2] == groups.group_ids[3]
    assert "2 of 6 groups in the stream are of a caption that was there before" in caplog.text


def test_a_bad_image_is_left_out_and_named(tmp_path):
    rows = make_dataset([4] * 8).cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][1] = {"bytes": b"no picture", "path": None}
    broken = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    groups = StreamedImages(in_shards(broken, tmp_path), **(SETTINGS | {"images_per_caption": 4}))
    group = next(groups[key] for key in batches(groups)[0] if key.group == 0)
    assert len(group.pixels) == 3 and group.bad_images == ("row 1 of the stream (caption 'thing 0')",)


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (lambda d: d.rename_column("image", "picture"), {}, "no 'image'"),
        (lambda d: d.remove_columns("image").rename_column("caption_id", "image"), {}, "'image' holds .*int64"),
        (lambda d: d.select_columns("image"), {}, "neither 'caption_id' nor 'caption'"),
        (
            lambda d: d,
            {"images_per_caption": 5},
            r"images_per_caption=5 .*\(4 that follow one another in the str",
        ),
        (lambda d: d.filter(lambda row: False), {}, "gives no row"),
    ],
)
def test_streams_that_cannot_serve_are_refused(stream, change, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        StreamedImages(change(stream), **(SETTINGS | settings))


@pytest.mark.parametrize(
    ("column", "settings"), [("caption_id", {}), ("caption", {"text": True}), ("caption", {"positives": "image"})]
)
def test_ids_and_texts_that_are_not_there_are_refused(column, settings):
    data = make_dataset([4] * 3)
    holes = [None if row in (1, 7) else value for row, value in enumerate(data[column])]
    stream = data.remove_columns(column).add_column(column, holes).to_iterable_dataset(2)
    if "positives" in settings:  # they are not asked for
        assert len(StreamedImages(stream, **(SETTINGS | {"images_per_caption": 1} | settings))) == 12
        return
    with pytest.raises(InputError, match=f"2 of 12 images have no '{column}'"):
        StreamedImages(stream, **(SETTINGS | settings))


def test_a_stream_that_changes_is_refused(folder):
    times = []

    def shuffled_later(rows):
        times.append(1)
        order = range(len(rows["caption"])) if len(times) <= 6 else reversed(range(len(rows["caption"])))
        order = list(order)
        return {name: [values[i] for i in order] for name, values in rows.items()}

    groups = StreamedImages(
        open_stream(folder).map(shuffled_later, batched=True, features=make_dataset([1]).features), **SETTINGS
    )
    with pytest.raises(InputError, match="other rows than when they were counted"):
        batches(groups)


def test_batch_and_buffer_are_checked(stream):
    groups = StreamedImages(stream, **SETTINGS)
    with pytest.raises(InputError, match="captions_per_batch=25 cannot be filled from 24 captions"):
        StreamedBatchSampler(groups, 25, 0, shuffle_buffer=8)
    with pytest.raises(InputError, match="shuffle_buffer=0"):
        StreamedBatchSampler(groups, 8, 0, shuffle_buffer=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_streaming_run_goes_on_bit_for_bit(stream, tmp_path, workers):
    # 24 captions in batches of 4: six steps an epoch, so one cut is within the first and one within the second
    settings = {
        "save_strategy": "steps", "save_steps": 4, "max_steps": 9, "shuffle_buffer": 8,
        "dataloader_num_workers": workers,
    }  # fmt: skip
    whole = StableRepTrainer(make_model(), make_arguments(tmp_path / "whole", **settings), stream)
    whole.train()
    arguments = make_arguments(tmp_path / "cut", **settings)
    for step in (4, 8):
        with pytest.raises(RuntimeError, match="cut off"):
            StableRepTrainer(make_model(), arguments, stream, callbacks=[StopAfter(step)]).train(
                resume_from_checkpoint=latest_checkpoint(tmp_path / "cut")
            )
    resumed = StableRepTrainer(make_model(), arguments, stream)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-8"))
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0.0
    assert largest_difference(weights(whole.model), weights(make_model())) > 1e-3


def train_streaming(folder, output, resume=None):
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "shuffle_buffer": 8}
    trainer = StableRepTrainer(make_model().double(), make_arguments(output, **settings), open_stream(folder))
    augment = trainer.augment.forward
    trainer.augment.forward = lambda pixels, color: augment(pixels, color).double()
    trainer.train(resume_from_checkpoint=resume)
    return weights(trainer.model)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_stream_to_the_weights_of_one_and_resume(run_on_gloo, folder, tmp_path):
    one = train_streaming(folder, tmp_path / "one")
    two = run_on_gloo(train_streaming, folder, tmp_path / "two", fresh=True)
    assert largest_difference(one, two[0]) < 1e-5
    resumed = run_on_gloo(
        train_streaming, folder, tmp_path / "two", str(tmp_path / "two" / "checkpoint-4"), fresh=True
    )
    assert largest_difference(two[0], resumed[0]) == largest_difference(two[0], resumed[1]) == 0.0
