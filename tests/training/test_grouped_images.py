"""Groups, keys and batches: the same whatever the workers, and honest about what is missing."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from training_data import make_dataset

from stablerep_hf.captions import caption_id
from stablerep_hf.errors import InputError
from stablerep_hf.training import GroupCollator, GroupedBatchSampler, GroupedImages
from stablerep_hf.training.augmentation import RECIPES


def grouped(dataset, **settings):
    defaults = {
        "images_per_caption": 3,
        "crops_per_image": 1,
        "image_size": 16,
        "recipe": RECIPES["strong"],
        "seed": 0,
    }
    return GroupedImages(dataset, **(defaults | settings))


def same(a, b):
    return torch.equal(a.pixels, b.pixels) and torch.equal(a.color, b.color) and a.group_id == b.group_id


def test_an_item_is_a_function_of_its_key(dataset):
    groups = grouped(dataset)
    assert same(groups[0, 5], grouped(dataset)[0, 5])
    for other in [groups[1, 5], groups[0, 6], grouped(dataset, seed=1)[0, 5]]:
        assert not torch.equal(groups[0, 5].pixels, other.pixels)


def test_images_are_drawn_without_replacement_and_anew_each_epoch(dataset):
    groups = grouped(dataset, recipe=RECIPES["weak"].__class__((1.0, 1.0), (1.0, 1.0), 0, (0, 0, 0, 0), 0, 0, 0))
    drawn = {tuple(sorted(hash(view.numpy().tobytes()) for view in groups[epoch, 0].pixels)) for epoch in range(20)}
    assert all(len(set(views)) == 3 for views in drawn)
    assert len(drawn) == 4, "3 of 4 images can be left out in 4 ways"


def test_rows_need_not_be_contiguous(dataset):
    shuffled = dataset.select(np.random.default_rng(0).permutation(len(dataset)))
    groups = grouped(shuffled, images_per_caption=4)
    assert len(groups) == 12
    assert sorted(groups.group_ids.tolist()) == sorted(set(dataset["caption_id"][:]))


def test_a_caption_with_fewer_images_gives_all_it_has():
    groups = grouped(make_dataset([4, 1, 2]), images_per_caption=3)
    assert [len(groups[0, group].pixels) for group in range(3)] == [3, 1, 2]


def test_ids_come_from_captions_where_there_is_no_id_column(dataset):
    without = dataset.remove_columns("caption_id")
    assert grouped(without).group_ids.tolist() == grouped(dataset).group_ids.tolist()
    assert grouped(without)[0, 0].group_id == caption_id("thing 0")


@pytest.mark.parametrize("values", [[3, 1, 3], ["cat", "ant", "cat"]])
def test_labels_are_the_group_ids_of_single_images(dataset, values):
    labelled = dataset.select(range(3)).add_column("kind", values)
    groups = grouped(labelled, images_per_caption=1, crops_per_image=2, positives="label", label_column="kind")
    assert [groups[0, item].group_id for item in range(3)] == [1, 0, 1]
    assert len(groups[0, 0].pixels) == 2


def test_labels_that_are_not_there_are_refused(dataset):
    with pytest.raises(InputError, match="no 'label'"):
        grouped(dataset, images_per_caption=1, positives="label")
    for labels, sentence in (
        ([1, None, None], "2 of 3 images have no 'label'"),
        ([1, -1, 2], "1 of 3 images have no 'label'"),
        ([1.0, np.nan, 2.0], "1 of 3 images have no 'label'"),
        ([1.0, 0.5, 2.0], "holds 1.0: give labels that are integers or text"),
        ([[1], [1, 2], [2]], "several labels an image"),
    ):
        with pytest.raises(InputError, match=sentence):
            grouped(dataset.select(range(3)).add_column("label", labels), images_per_caption=1, positives="label")


def replaced(dataset, column, values):
    return dataset.remove_columns(column).add_column(column, values)


def test_ids_and_texts_that_are_not_there_are_refused(dataset):
    near = [2**62 + 1] * 4 + [2**62 + 2] * 4  # equal as floats, which NumPy makes of a column with a null
    assert grouped(replaced(dataset.select(range(8)), "caption_id", near)).sizes.tolist() == [4, 4]
    with pytest.raises(InputError, match="1 of 9 images have no 'caption_id'"):
        grouped(replaced(dataset.select(range(9)), "caption_id", [*near, None]))
    holes = replaced(dataset, "caption", [None, *dataset["caption"][1:]])
    assert len(grouped(holes)) == 12, "the ids are there"
    for data, settings in ((holes, {"text": True}), (holes.remove_columns("caption_id"), {})):
        with pytest.raises(InputError, match="1 of 48 images have no 'caption'"):
            grouped(data, **settings)
    with pytest.raises(InputError, match="no 'caption' to learn from"):
        grouped(dataset.remove_columns("caption"), text=True)


def test_one_group_per_image(dataset):
    groups = grouped(dataset, images_per_caption=1, crops_per_image=2, positives="image")
    assert len(groups) == len(dataset)
    assert len(groups[0, 7].pixels) == 2
    assert groups[0, 7].group_id == 7


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (lambda d: d.rename_column("image", "picture"), {}, "no 'image'"),
        (lambda d: replaced(d, "image", range(48)), {}, "'image' holds .*int64.* and no images"),
        (lambda d: d.select_columns("image"), {}, "neither 'caption_id' nor 'caption'"),
        (lambda d: replaced(d, "caption_id", ["a"] * 48), {}, "'caption_id' holds values of type string"),
        (lambda d: replaced(d, "caption", range(48)).remove_columns("caption_id"), {}, "'caption' holds values of"),
        (lambda d: d, {"images_per_caption": 5}, r"images_per_caption=5 is more than any caption has \(4\)"),
    ],
)
def test_data_that_cannot_serve_is_refused(dataset, change, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        grouped(change(dataset), **settings)


def test_a_bad_image_is_left_out_and_named(dataset):
    rows = dataset.cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][1] = {"bytes": rows["image"][1]["bytes"][:60], "path": None}
    rows["image"][2] = {"bytes": b"no picture", "path": None}
    rows["image"][3] = {"bytes": None, "path": None}
    broken = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    group = grouped(broken, images_per_caption=4)[0, 0]
    assert len(group.pixels) == 1
    assert len(group.bad_images) == 3
    assert all("thing 0" in key for key in group.bad_images)


def test_a_picture_in_a_format_that_pillow_has_not_finished_is_left_out_too(dataset):
    rows = dataset.cast_column("image", datasets.Image(decode=False)).to_dict()
    header = [124, 0x100F, 24, 24, 72, 0, 0, *[0] * 11, 32, 145]  # of a DDS, with pixel flags that nobody knows
    content = b"DDS " + np.array(header, "<u4").tobytes() + bytes(200)
    rows["image"][1] = {"bytes": content, "path": None}
    with pytest.raises(NotImplementedError):
        Image.open(io.BytesIO(content))
    broken = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    group = grouped(broken, images_per_caption=4)[0, 0]
    assert (len(group.pixels), len(group.bad_images)) == (3, 1)


def test_an_epoch_visits_every_group_at_most_once_and_in_its_own_order():
    sampler = GroupedBatchSampler(10, 3, seed=0)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [3, 3, 3] == [sampler.batch_size] * len(sampler)
        keys = [key for batch in batches for key in batch]
        assert len(set(keys)) == 9
        assert {key[0] for key in keys} == {epoch}
        epochs.append([group for _, group in keys])
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert [group for batch in sampler for _, group in batch] == epochs[0]


@pytest.mark.parametrize(("groups", "size"), [(2, 3), (5, 0)])
def test_a_batch_that_cannot_be_filled_is_refused(groups, size):
    with pytest.raises(InputError, match=f"captions_per_batch={size}"):
        GroupedBatchSampler(groups, size, seed=0)


def test_collating_keeps_groups_together(dataset):
    groups = grouped(make_dataset([3, 1, 2]), crops_per_image=2)
    batch = GroupCollator()([groups[0, group] for group in range(3)])
    assert batch["pixels"].shape == (12, 3, 16, 16)
    assert batch["pixels"].dtype == torch.uint8
    assert batch["sibling_index"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 0, 1, 2, 3]
    ids = groups.group_ids.tolist()
    assert batch["caption_ids"].tolist() == [ids[0]] * 6 + [ids[1]] * 2 + [ids[2]] * 4
    assert batch["text_caption_ids"].tolist() == ids
    torch.testing.assert_close(batch["pixels"][6:8], groups[0, 1].pixels)


def test_collating_tokenizes_one_text_a_group(dataset):
    def tokenizer(texts, padding, truncation, max_length, return_tensors):
        assert (padding, truncation, max_length, return_tensors) == (True, True, 7, "pt")
        ids = torch.tensor([[len(text)] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    groups = grouped(dataset)
    batch = GroupCollator(tokenizer, 7)([groups[0, 0], groups[0, 11]])
    assert batch["input_ids"].tolist() == [[len("thing 0")], [len("thing 11")]]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(dataset, workers):
    groups = grouped(dataset)
    sampler = GroupedBatchSampler(len(groups), 4, seed=0)
    loader = torch.utils.data.DataLoader(
        groups, batch_sampler=sampler, collate_fn=GroupCollator(), num_workers=workers
    )
    for batch, keys in zip(loader, sampler, strict=True):
        torch.testing.assert_close(batch["pixels"], torch.cat([groups[key].pixels for key in keys]))


@pytest.mark.parametrize(
    "cells",
    [["/etc/passwd"] * 4, [{"bytes": None, "path": "/etc/passwd", "more": 0}] * 4, [{"path": "/etc/passwd"}] * 4],
)
def test_texts_and_structs_that_could_name_any_file_are_no_images(cells):
    dataset = datasets.Dataset.from_dict({"image": cells, "caption": ["a", "a", "b", "b"]})
    with pytest.raises(InputError, match=r"and no images.*paths that you trust"):
        grouped(dataset, images_per_caption=2)
