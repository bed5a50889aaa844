"""What columns mean, which protocols follow from them, and settings that cannot be."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    MEASURES,
    Columns,
    EvaluationSettings,
    default_protocols,
    evaluate_encoder,
    pixel_encoder,
)
from stablerep_hf.evaluation.hold_out import hold_out

STRING, LABEL = datasets.Value("string"), datasets.ClassLabel(names=["a", "b"])


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"label": STRING, "kind": LABEL}, Columns(label="label")),
        ({"kind": LABEL, "caption": datasets.List(STRING)}, Columns(label="kind", caption="caption")),
        ({"kind": LABEL, "other": LABEL}, Columns()),
        ({"text": STRING}, Columns(caption="text", caption_id="text")),
        (
            {"caption": STRING, "caption_id": datasets.Value("int64")},
            Columns(caption="caption", caption_id="caption_id"),
        ),
    ],
)
def test_columns_are_found_by_their_names(features, expected):
    assert Columns.of(None, features) == expected


def test_a_mapping_says_what_columns_mean():
    assert Columns.of({"label": "kind", "slices": ["hue"]}, {}) == Columns(label="kind", slices=("hue",))
    with pytest.raises(InputError, match="columns= has the key 'lable', and its keys are some of label, group"):
        Columns.of({"lable": "kind"}, {})


@pytest.mark.parametrize(
    ("columns", "train", "texts", "expected"),
    [
        (Columns(label="l"), True, True, ("knn", "linear_probe")),
        (Columns(label="l"), False, False, ("few_shot",)),
        (Columns(label="l"), False, True, ("few_shot", "zero_shot")),
        (Columns(label="l", group="g", artist="a"), True, False, ("knn", "linear_probe", "retrieval")),
        (Columns(group="g", artist="a", caption="c"), True, True, ("retrieval",)),
        (Columns(caption="c", caption_id="i"), True, True, ("text_retrieval", "sibling_retrieval")),
        (Columns(caption="c", caption_id="i"), False, False, ("sibling_retrieval",)),
        (Columns(caption="c"), True, False, ()),
    ],
)
def test_protocols_follow_from_the_columns(columns, train, texts, expected):
    assert default_protocols(columns, has_train=train, has_texts=texts) == expected


def test_an_encoder_is_measured_by_defaults_on_labels_and_on_captions(train_world, test_world):
    labelled = evaluate_encoder(pixel_encoder(), train_world, test_world, progress=False)
    assert {result.protocol for result in labelled} == {"knn", "linear_probe"}
    captioned = test_world.remove_columns("label").rename_column("concept", "caption")
    (found,) = evaluate_encoder(pixel_encoder(), None, captioned, progress=False)
    assert (found.protocol, found.metric) == ("sibling_retrieval", "mAP")
    with pytest.raises(InputError, match="has the columns 'image', 'artist', and none of them holds labels"):
        evaluate_encoder(pixel_encoder(), None, captioned.remove_columns("caption"), progress=False)


def test_every_measure_can_be_shown_and_run():
    assert MEASURES["knn"].title == "kNN"
    for name, measure in MEASURES.items():
        assert (measure.name, measure.title[:1], measure.note[-1]) == (name, measure.title[0], ".")
        assert set(measure.columns) <= set(Columns.__dataclass_fields__)
        module, _, function = measure.function.partition(".")
        imported = __import__(f"stablerep_hf.evaluation.{module}", fromlist=[function])
        assert callable(getattr(imported, function))


def test_templates_may_stand_in_a_file(tmp_path):
    (tmp_path / "lines.txt").write_text("a photo of a {}.\n\nthe {}.\n")
    assert EvaluationSettings(templates=[str(tmp_path / "lines.txt")]).templates == ["a photo of a {}.", "the {}."]


def test_a_part_is_held_out_of_every_class_and_keeps_groups_together():
    labels = np.repeat([0, 1, 2], [10, 20, 5])
    groups = [f"g{row // 2}" for row in range(35)]
    data = datasets.Dataset.from_dict({"label": labels, "group": groups, "row": range(35)})
    rest, part = hold_out(data, "label")
    assert np.bincount(part["label"]).tolist() == [2, 4, 1]
    assert sorted([*rest["row"], *part["row"]]) == list(range(35))
    assert part["row"][:] == hold_out(data, "label")[1]["row"][:] != hold_out(data, "label", seed=1)[1]["row"][:]
    rest, part = hold_out(data, "label", "group", fraction=0.4)
    assert len(part) and not set(rest["group"]) & set(part["group"])
    assert len(hold_out(data)[1]) == 7
    lists = datasets.Dataset.from_dict({"label": [[0, 1], [1], [], [0], [1, 0], []] * 5})
    assert len(hold_out(lists, "label")[1]) == 6
    with pytest.raises(InputError, match="no split to score, and its 3 classes of 3 images"):
        hold_out(datasets.Dataset.from_dict({"label": ["a", "b", "c"]}), "label")
