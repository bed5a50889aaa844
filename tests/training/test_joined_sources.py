"""Data sets joined by caption: which rows are siblings, how they are shared among sources, map-style and streamed."""

import datasets
import numpy as np
import pytest
import torch
from test_stablerep_trainer import StopAfter, largest_difference, make_arguments, make_model, weights
from test_streamed_images import batches, in_shards, numbers
from training_data import make_dataset, spoiled

from stablerep_hf.captions import caption_id
from stablerep_hf.errors import InputError
from stablerep_hf.training import GroupedImages, StableRepTrainer, StreamedImages, load_caption_groups
from stablerep_hf.training.augmentation import RECIPES
from stablerep_hf.training.checkpoints import latest_checkpoint
from stablerep_hf.training.groups import share_out

SETTINGS = {
    "images_per_caption": 4, "crops_per_image": 1, "image_size": 16, "recipe": RECIPES["strong"], "seed": 0,
}  # fmt: skip


def part(dataset, captions):
    """The rows of some captions, in the order of these."""
    names = list(dataset["caption"])
    return dataset.select([row for c in captions for row, name in enumerate(names) if name == f"thing {c}"])


@pytest.fixture(scope="module")
def sources():
    """Three of 24 captions; the second begins later and ends with captions of its own, the third lacks every other."""
    whole = make_dataset([3] * 30)
    return {
        "first": make_dataset([4] * 24),
        "second": part(whole, range(4, 30)).remove_columns("caption_id"),
        "third": part(make_dataset([1, 2] * 12), range(0, 24, 2)),
    }


@pytest.fixture(scope="module")
def streams(sources, tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    lengths = {"first": 4, "second": 5, "third": 12}
    return {name: in_shards(data, root / name, lengths[name]) for name, data in sources.items()}


def test_rows_of_one_caption_are_siblings_whatever_their_data_set(sources):
    groups = GroupedImages(sources, **SETTINGS)
    assert len(groups) == groups.num_captions == 30 and groups.num_images == 96 + 78 + 12
    sizes = dict(zip(groups.group_ids.tolist(), groups.source_sizes.tolist(), strict=True))
    assert [sizes[caption_id(f"thing {c}")] for c in (0, 1, 4, 5, 29)] == [
        [4, 0, 1], [4, 0, 0], [4, 3, 1], [4, 3, 0], [0, 3, 0],
    ]  # fmt: skip
    settings = SETTINGS | {"images_per_caption": 2}
    alone, again = GroupedImages(sources["first"], **settings), GroupedImages({"a": sources["first"]}, **settings)
    assert torch.equal(alone[1, 3].pixels, again[1, 3].pixels), "one source changes nothing"


def test_an_image_is_known_by_its_data_set_and_row(sources):
    bad = sources | {"third": spoiled(sources["third"], [2])}
    groups = GroupedImages(bad, source_weights=[1, 1, 1], **SETTINGS)
    place = groups.group_ids.tolist().index(caption_id("thing 4"))
    assert groups[0, place].bad_images == ("row 2 of third (caption 'thing 4')",)


def test_folders_are_joined_by_their_names(sources, tmp_path):
    for name in ("a", "b"):
        sources["first"].to_parquet(tmp_path / name / "train.parquet")
    for streaming in (False, True):
        loaded = load_caption_groups([tmp_path / "a", tmp_path / "b"], streaming=streaming)
        assert list(loaded) == ["a", "b"] and isinstance(loaded["a"], datasets.IterableDataset) == streaming
    with pytest.raises(InputError, match=r"is named twice, and no image is a sibling of itself"):
        load_caption_groups([tmp_path / "a", f"{tmp_path}/b/../a"])


def test_parts_are_exact_in_the_mean_and_never_more_than_a_source_has():
    rng = np.random.default_rng(0)
    drawn = [share_out(rng, 4, np.array([2.0, 1.0]), np.array([9, 9])) for _ in range(3000)]
    assert {tuple(counts) for counts in drawn} == {(2, 2), (3, 1)}
    assert np.mean(drawn, 0) == pytest.approx([8 / 3, 4 / 3], abs=0.03)
    for number, weights_, available, expected in (
        (6, [4, 2], [9, 9], [4, 2]),
        (6, [1, 1, 1], [9, 9, 9], [2, 2, 2]),
        (6, [1, 1, 1], [9, 1, 0], [5, 1, 0]),
        (5, [1, 100], [4, 1], [4, 1]),
    ):
        counts = share_out(rng, number, np.array(weights_, float), np.array(available))
        assert counts.tolist() == expected


def seen_sources(groups, epochs=range(40)):
    """How many of the images that some epochs draw of each caption come from each source."""
    ends = np.cumsum(groups.source_sizes, 1)
    return np.array(
        [
            [np.bincount(np.searchsorted(ends[g], groups._draw(epoch, g)[1], "right"), minlength=3) for g in range(30)]
            for epoch in epochs
        ]
    )


def test_weights_share_the_images_of_a_caption(sources):
    groups = GroupedImages(sources, source_weights=[1, 1, 1], **SETTINGS)
    drawn = seen_sources(groups)
    assert (drawn.sum(2) == [4] * 24 + [3] * 6).all()
    ids = groups.group_ids.tolist()
    three, two = (drawn[:, ids.index(caption_id(f"thing {c}"))] for c in (4, 5))
    assert set(map(tuple, two.tolist())) == {(2, 2, 0)}
    assert set(map(tuple, three.tolist())) == {(2, 1, 1), (1, 2, 1)}, "the third has only one to give"
    with pytest.raises(InputError, match="weighs 2 sources, and the data has 3"):
        GroupedImages(sources, source_weights=[1, 2], **SETTINGS)


@pytest.mark.parametrize("source_weights", [None, [3, 2, 1]])
def test_streams_side_by_side_give_the_groups_and_views_of_the_joined_data_set(sources, streams, source_weights):
    settings = SETTINGS | {"source_weights": source_weights}
    mapped, streamed = GroupedImages(sources, **settings), StreamedImages(streams, **settings)
    assert streamed.group_ids.tolist() == mapped.group_ids.tolist()
    assert streamed.source_sizes.tolist() == mapped.source_sizes.tolist()
    seen = [key for batch in batches(streamed, epoch=2) for key in batch]
    assert len({key.group for key in seen}) == len(seen) == 24, "three batches of 8 of 30 captions"
    for key in seen:
        ours, theirs = streamed[key], mapped[2, key.group]
        assert torch.equal(ours.pixels, theirs.pixels) and (ours.group_id, ours.caption) == (
            theirs.group_id,
            theirs.caption,
        )
    assert {name.rpartition(" ")[2] for key in seen for name in key.records} == {"first", "second", "third"}


def test_joined_streams_resume_and_are_shared_by_processes(streams):
    groups = StreamedImages(streams, **SETTINGS)
    whole = batches(groups, epoch=1)
    assert batches(groups, epoch=1, skipped=2)[2:] == whole[2:]
    parts = [batches(groups, epoch=1, process_index=rank, num_processes=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert numbers(parts[0][step])[:4] + numbers(parts[1][step])[4:] == numbers(batch)


def test_streams_in_another_order_are_joined_too_and_called_slow(sources, streams, tmp_path, caplog):
    turned = in_shards(part(sources["second"], range(29, 3, -1)), tmp_path / "turned", 5)
    with caplog.at_level("WARNING"):
        groups = StreamedImages({"first": streams["first"], "second": turned}, **SETTINGS)
    assert "The captions of second are in another order than those of first" in caplog.text
    mapped = GroupedImages({"first": sources["first"], "second": sources["second"]}, **SETTINGS)
    place = {int(group_id): group for group, group_id in enumerate(mapped.group_ids)}
    for key in batches(groups)[0]:
        other = place[int(groups.group_ids[key.group])]
        assert groups.source_sizes[key.group].tolist() == mapped.source_sizes[other].tolist()
        assert {record["caption"] for record in key.records.values()} == {groups[key].caption}


def test_single_images_of_several_streams_stay_apart(streams):
    groups = StreamedImages(streams, positives="image", **(SETTINGS | {"images_per_caption": 1}))
    assert len(groups) == 186 and groups.group_ids.tolist() == list(range(186))
    assert groups.source_sizes.sum(0).tolist() == [96, 78, 12]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_interrupted_run_on_joined_sources_ends_with_the_same_weights(sources, streams, tmp_path, streaming):
    data = streams if streaming else sources

    def trainer(folder, *callbacks):
        args = make_arguments(
            folder, max_steps=5, save_steps=2, images_per_caption=4, captions_per_batch=8, source_weights=[1, 1, 1]
        )
        return StableRepTrainer(make_model(), args, data, callbacks=list(callbacks))

    whole = trainer(tmp_path / "whole")
    whole.train()
    broken = trainer(tmp_path / "broken", StopAfter(3))
    broken.train()
    resumed = trainer(tmp_path / "broken")
    resumed.train(resume_from_checkpoint=latest_checkpoint(tmp_path / "broken"))
    assert largest_difference(weights(whole.model), weights(resumed.model)) == 0


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.remove_columns("caption"), "other: The data has the columns .'image'. but neither"),
        (lambda data: part(data, range(26, 30)), "No caption of other is in first, so its images would have no"),
    ],
)
def test_sources_that_cannot_be_joined_are_refused(sources, tmp_path, streaming, change, sentence):
    named = {"first": sources["first"], "other": change(sources["second"])}
    if streaming:
        for name, data in named.items():
            data.to_parquet(tmp_path / name / "train.parquet")
        named = {name: datasets.load_dataset(str(tmp_path / name), split="train", streaming=True) for name in named}
    with pytest.raises(InputError, match=sentence):
        StableRepTrainer(make_model(), make_arguments(tmp_path), named)


def test_streams_and_other_data_sets_do_not_mix(sources, streams, tmp_path):
    with pytest.raises(InputError, match="first is a stream and second is none"):
        StableRepTrainer(
            make_model(), make_arguments(tmp_path), {"first": streams["first"], "second": sources["second"]}
        )
    with pytest.raises(InputError, match="holds the splits train, test: pass one"):
        splits = datasets.DatasetDict(train=sources["first"], test=sources["first"])
        StableRepTrainer(make_model(), make_arguments(tmp_path), splits)
