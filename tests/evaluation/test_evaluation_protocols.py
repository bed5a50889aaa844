from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    Columns,
    EvaluationSettings,
    Features,
    Subject,
    bootstrap_interval,
    eleven_point_map,
    evaluate_encoder,
    evaluate_features,
    extract_features,
    knn_predict,
    load_encoder,
    logistic_regression_probe,
    mean_per_class_accuracy,
    results_table,
    retrieval_recall,
    text_retrieval_recall,
)
from stablerep_hf.evaluation.knn import as_unit_vectors


@pytest.fixture(autouse=True)
def only_images_of_the_data_are_counted(monkeypatch):
    """Loading an encoder encodes one image twice, to see whether its features stay the same."""
    monkeypatch.setattr("stablerep_hf.evaluation.encoder._check_repeatable", lambda vision: None)


COLUMNS = Columns(label="label", group="concept", artist="artist")
ARTISTS = Columns(group="concept", artist="artist")
LABEL = Columns(label="label")
SUBJECT = Subject(encoder="e")


class CountingProcessor:
    """An image processor that counts what passes through it."""

    def __init__(self, image_processor) -> None:
        self.image_processor = image_processor
        self.images = 0

    def __call__(self, images, return_tensors, **options):
        self.images += len(images)
        return self.image_processor(images=images, return_tensors=return_tensors, **options)


def test_results_are_those_of_the_protocols_one_by_one(vit, image_processor, train_world, test_world):
    counting = CountingProcessor(image_processor)
    results = evaluate_encoder(
        vit,
        train_world,
        test_world,
        columns=COLUMNS,
        image_processor=counting,
        subject=Subject(encoder="tiny", dataset="world", revision="abc", split="new concepts", seeds=(7,)),
        settings=EvaluationSettings(knn_neighbours=(3, 10)),
        progress=False,
    )
    assert counting.images == len(train_world) + len(test_world)  # each image once for all protocols
    assert [(r.protocol, r.metric, r.settings.get("k")) for r in results] == [
        ("knn", "accuracy", 3),
        ("knn", "accuracy", 10),
        ("linear_probe", "accuracy", None),
        ("retrieval", "recall@1", None),
        ("retrieval", "recall@5", None),
    ]
    train, test = (
        extract_features(vit, world, image_processor=image_processor, progress=False).features
        for world in (train_world, test_world)
    )
    labels, expected = np.array(train_world["label"][:]), np.array(test_world["label"][:])
    concepts = np.array(test_world["concept"][:])
    for result, k in zip(results[:2], (3, 10), strict=True):
        correct = knn_predict(train, labels, test, k=k) == expected
        assert result.value == correct.mean()
        assert (result.low, result.high) == bootstrap_interval(correct, concepts)
    probe = logistic_regression_probe(train, labels, test, expected, train_groups=train_world["concept"][:])
    assert results[2].value == probe.value
    assert results[2].settings["c"] == probe.c
    recall = retrieval_recall(test, concepts, test_world["artist"][:])
    assert [result.value for result in results[3:]] == list(recall.recall.values())
    assert [result.chance for result in results[3:]] == list(recall.chance.values())
    for result in results:
        assert (result.encoder, result.dataset, result.revision, result.split) == (
            "tiny",
            "world",
            "abc",
            "new concepts",
        )
        assert result.seeds == (7,)
        assert result.n == len(test_world)
        assert result.interval == "bootstrap over test groups"
        assert result.low <= result.value <= result.high
        json.dumps(result.to_dict(), allow_nan=False)
    assert results[0].settings["groups_in_both"] == 0


def make_features(num_concepts=40, artists=("ann", "bob", "cem"), seed=0, first=0, labels=4, signal=1.0) -> Features:
    generator = np.random.default_rng(seed)
    concepts = np.repeat(np.arange(first, first + num_concepts), len(artists))
    label = concepts % labels
    centres = np.random.default_rng(99).normal(size=(labels, 16))
    values = signal * centres[label] + generator.normal(size=(len(concepts), 16))
    columns = {
        "label": label,
        "concept": np.array([f"c{concept}" for concept in concepts]),
        "artist": np.tile(artists, num_concepts),
    }
    return Features(values.astype(np.float32), np.arange(len(concepts)), columns)


def test_labels_may_be_names_and_new_ones_count_as_wrong():
    train, test = make_features(), make_features(seed=1, first=100)
    plain = evaluate_features(train, test, columns=COLUMNS, protocols=["knn", "linear_probe"], subject=SUBJECT)
    names = np.array(["zebra", "ant", "mole", "cat"])  # another order than their numbers
    for features in (train, test):
        features.columns["label"] = names[features.columns["label"]]
    named = evaluate_features(train, test, columns=COLUMNS, protocols=["knn", "linear_probe"], subject=SUBJECT)
    assert [r.value for r in named] == [r.value for r in plain]
    test.columns["label"] = np.where(test.columns["label"] == "ant", "aardvark", test.columns["label"])
    unseen = evaluate_features(train, test, columns=COLUMNS, protocols=["knn", "linear_probe"], subject=SUBJECT)
    assert all(new.value <= 0.75 < old.value for new, old in zip(unseen, plain, strict=True))


def test_features_that_say_nothing_score_chance_by_every_protocol():
    train, test = make_features(200, signal=0.0), make_features(200, seed=1, first=1000, signal=0.0)
    for result in evaluate_features(train, test, columns=COLUMNS, subject=Subject(encoder="noise")):
        assert result.chance is not None
        assert result.low - 0.02 <= result.chance <= result.high + 0.02, result


def test_chance_is_the_commonest_training_label_on_the_test_set():
    train, test = make_features(9, labels=4), make_features(9, first=101, labels=4)  # label 0 thrice in training
    result = evaluate_features(train, test, columns=COLUMNS, protocols=["knn"], subject=SUBJECT)[0]
    assert result.chance == pytest.approx(np.mean(test.columns["label"] == 0))


def test_hands_join_artists_who_share_outlines():
    test = make_features(30, artists=("flat", "round", "bob"), seed=2)
    flat, solid = test.columns["artist"] == "flat", test.columns["artist"] == "round"
    test.features[flat] = test.features[solid]  # the same picture under two names
    apart = evaluate_features(None, test, columns=ARTISTS, protocols=["retrieval"], subject=SUBJECT)[0]
    joined = evaluate_features(
        None, test, columns=ARTISTS, protocols=["retrieval"], hands={"flat": "round"}, subject=SUBJECT
    )[0]
    assert apart.value >= 2 / 3 > 0.3 > joined.value
    assert (apart.settings["hands"], joined.settings["hands"]) == (3, 2)


def test_splits_of_one_name_are_not_confused(vit, image_processor, train_world, test_world):
    arguments = {"columns": COLUMNS, "protocols": ["knn"], "image_processor": image_processor, "progress": False}
    apart = evaluate_encoder(vit, train_world, test_world, **arguments)[0]
    same = evaluate_encoder(
        vit, train_world, test_world, train_split="train", subject=Subject(split="train"), **arguments
    )[0]
    assert (same.value, same.settings["train_images"], same.n) == (apart.value, len(train_world), len(test_world))


def test_concepts_on_both_sides_are_counted_in_the_result():
    train, test = make_features(20), make_features(20, seed=1, first=15)
    assert evaluate_features(train, test, columns=COLUMNS, subject=SUBJECT)[0].settings["groups_in_both"] == 5


def test_without_groups_images_stand_for_themselves():
    train, test = make_features(), make_features(seed=1, first=100)
    result = evaluate_features(train, test, columns=LABEL, protocols=["knn"], subject=SUBJECT)[0]
    assert result.interval == "bootstrap over test images"
    assert "groups_in_both" not in result.settings


def test_retrieval_alone_needs_neither_labels_nor_a_training_set(vit, image_processor, train_world, test_world):
    counting = CountingProcessor(image_processor)
    arguments = {"protocols": ["retrieval"], "image_processor": counting, "progress": False}
    alone = evaluate_encoder(vit, None, test_world.remove_columns("label"), columns=ARTISTS, **arguments)
    beside = evaluate_encoder(vit, train_world, test_world, columns=COLUMNS, **arguments)
    assert [r.value for r in alone] == [r.value for r in beside]
    assert counting.images == 2 * len(test_world)


def test_skipped_images_are_reported_in_the_result():
    train, test = make_features(), make_features(seed=1, first=100)
    torn = Features(test.features, test.rows, test.columns, skipped=("row 3", "row 9"))
    assert evaluate_features(train, torn, columns=COLUMNS, subject=SUBJECT)[0].settings["bad_images"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": ["knn", "guess"]}, "no protocol 'guess'; choose from knn, linear_probe, linear_probe_sgd"),
        ({"protocols": "knn"}, "not a list of names"),
        ({"protocols": []}, "not a list of names"),
        ({"protocols": ["knn"], "columns": ARTISTS}, "'knn' was given no label column"),
        ({"protocols": ["knn"], "train_dataset": None}, "'knn' was given no training data set"),
        ({"protocols": ["retrieval"], "columns": Columns(group="concept")}, "'retrieval' was given no artist column"),
        ({"protocols": ["sibling_retrieval"]}, "'sibling_retrieval' was given no caption id column"),
        ({"columns": Columns(label="kind", group="concept", artist="artist")}, "no column 'kind'"),
        (
            {"columns": Columns(label="image", group="concept", artist="artist")},
            "'image' of split 'test' holds images",
        ),
        ({"protocols": ["zero_shot"]}, "has no text tower"),
        ({"protocols": ["knn"], "columns": Columns(label="label", slices=("hue",))}, "no column 'hue'"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(vit, image_processor, train_world, test_world, changes, message):
    arguments = {"train_dataset": train_world, "test_dataset": test_world, "columns": COLUMNS, **changes}
    counting = CountingProcessor(image_processor)
    with pytest.raises(InputError, match=message):
        evaluate_encoder(vit, image_processor=counting, progress=False, **arguments)
    assert counting.images == 0  # before any work is done


def test_missing_and_ambiguous_labels_are_refused(vit, image_processor, train_world, test_world):
    counting = CountingProcessor(image_processor)
    arguments = {"columns": LABEL, "protocols": ["knn"], "image_processor": counting, "progress": False}
    other = datasets.ClassLabel(names=[f"label {index}" for index in (1, 0, 2, 3)])
    with pytest.raises(InputError, match="a number means another class"):
        evaluate_encoder(vit, train_world, test_world.cast_column("label", other), **arguments)
    plain = test_world.cast_column("label", datasets.Value("int64"))
    hidden = plain.map(lambda row, index: {"label": -1 if index < 5 else row["label"]}, with_indices=True)
    with pytest.raises(InputError, match="5 of 36 labels in column 'label' of split 'test' are missing"):
        evaluate_encoder(vit, train_world, hidden, **arguments)
    empty = plain.map(lambda row, index: {"label": None if index < 7 else row["label"]}, with_indices=True)
    with pytest.raises(InputError, match="7 of 36 labels"):
        evaluate_encoder(vit, train_world, empty, **arguments)
    assert counting.images == 0
    words = test_world.cast_column("label", datasets.Value("string"))
    with pytest.raises(InputError, match="cannot be compared"):
        evaluate_encoder(vit, train_world, words, **arguments)


def test_columns_that_cannot_mean_what_they_should_are_refused(vit, image_processor, train_world, test_world):
    def replaced(column, values, of=test_world):
        return of.remove_columns([column] if column in of.column_names else []).add_column(column, values)

    concepts = [None, None, *test_world["concept"][2:]]
    ids = [None, *range(1, 36)]
    lists = [[name] for name in test_world["concept"]]
    group = Columns(label="label", group="concept")
    for test, columns, protocol, message in (
        (replaced("concept", concepts), group, "knn", "group column 'concept' of split 'test' lacks 2 of 36"),
        (replaced("concept", lists), group, "knn", "holds more than one value an image"),
        (
            replaced("artist", [None, *test_world["artist"][1:]]),
            Columns(group="concept", artist="artist"),
            "retrieval",
            "artist column 'artist' of split 'test' lacks 1 of 36",
        ),
        (replaced("cid", ids), Columns(caption_id="cid"), "sibling_retrieval", "caption id column 'cid'"),
        (
            replaced("cid", ids).add_column("words", test_world["concept"][:]),
            Columns(caption="words", image_id="cid"),
            "text_retrieval",
            "image id column 'cid'",
        ),
        (replaced("words", list(range(36))), Columns(caption="words"), "text_retrieval", "which is not a text"),
        (replaced("label", lists), LABEL, "linear_probe", "72 of 72 entries .* of split 'train' are not lists"),
        (replaced("label", [None, [], *lists[2:]]), LABEL, "linear_probe", "1 of 36 entries .* of split 'test'"),
        (replaced("label", [[None], *lists[1:]]), LABEL, "linear_probe", "1 of 36 entries .* of split 'test'"),
    ):
        counting = CountingProcessor(image_processor)
        with pytest.raises(InputError, match=message):
            evaluate_encoder(
                vit,
                train_world,
                test,
                columns=columns,
                protocols=[protocol],
                settings=EvaluationSettings(metric="11_point_map"),
                image_processor=counting,
                progress=False,
            )
        assert counting.images == 0
    plain = make_features()
    listed = Features(
        plain.features, plain.rows, {**plain.columns, "label": objects([[v] for v in plain.columns["label"]])}
    )
    with pytest.raises(InputError, match="of split 'training' are not lists"):
        evaluate_features(
            plain,
            listed,
            columns=LABEL,
            protocols=["linear_probe"],
            settings=EvaluationSettings(metric="11_point_map"),
            subject=SUBJECT,
        )


def objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


# ---------------------------------------------------------------- the other protocols


def test_every_slice_is_scored_as_its_images_alone_and_the_worst_and_the_gap_are_named():
    train, test = make_features(), make_features(60, seed=1, first=100, signal=0.6)
    columns = Columns(label="label", group="concept", slices=("artist",))
    whole, *parts = evaluate_features(train, test, columns=columns, protocols=["linear_probe"], subject=SUBJECT)
    assert [part.variant for part in parts] == [
        "artist = ann",
        "artist = bob",
        "artist = cem",
        "worst artist",
        "gap over artist",
    ]
    assert [part.n for part in parts] == [60, 60, 60, 60, 180]
    values = {}
    for part in parts[:3]:
        rows = test.columns["artist"] == part.settings["slice"]
        own = Features(test.features[rows], test.rows[rows], {name: c[rows] for name, c in test.columns.items()})
        assert len(own) == part.n
        probe = logistic_regression_probe(
            train.features,
            train.columns["label"],
            own.features,
            own.columns["label"],
            train_groups=train.columns["concept"],
        )
        assert part.value == pytest.approx(probe.value)
        assert part.low <= part.value <= part.high
        values[part.settings["slice"]] = part.value
    worst, gap = parts[3:]
    assert worst.value == min(values.values()) == values[worst.settings["worst"]]
    assert worst.settings["slice_counts"] == {"ann": 60, "bob": 60, "cem": 60}
    assert gap.value == pytest.approx(max(values.values()) - min(values.values()))
    assert whole.value == pytest.approx(np.mean(list(values.values())))
    assert len({result.key() for result in [whole, *parts]}) == 6


def test_mean_per_class_and_the_map_reach_the_result():
    train, test = make_features(), make_features(30, seed=1, first=100, signal=0.4)
    per_class = evaluate_features(
        train,
        test,
        columns=LABEL,
        protocols=["knn", "linear_probe"],
        settings=EvaluationSettings(metric="mean_per_class", knn_neighbours=(20,)),
        subject=SUBJECT,
    )
    found = knn_predict(train.features, train.columns["label"], test.features)
    assert per_class[0].value == pytest.approx(mean_per_class_accuracy(found, test.columns["label"]))
    assert [(r.metric, r.chance) for r in per_class] == [("mean_per_class", 0.25)] * 2
    average = evaluate_features(
        train,
        test,
        columns=LABEL,
        protocols=["linear_probe"],
        settings=EvaluationSettings(metric="11_point_map"),
        subject=SUBJECT,
    )[0]
    assert 0.25 < average.low <= average.value <= average.high <= 1


def test_images_with_several_labels_are_probed_one_class_at_a_time():
    generator = np.random.default_rng(0)

    def side(num):
        shown = generator.uniform(size=(num, 3)) < 0.4
        values = generator.normal(size=(num, 6)).astype(np.float32)
        values[:, :3] += 2 * shown
        lists = np.empty(num, dtype=object)
        lists[:] = [[f"class {place}" for place in np.flatnonzero(row)] for row in shown]
        return Features(values, np.arange(num), {"label": lists}), shown

    (train, _), (test, shown) = side(300), side(200)
    arguments = {"columns": LABEL, "subject": SUBJECT}
    settings = EvaluationSettings(metric="11_point_map")
    result = evaluate_features(train, test, protocols=["linear_probe"], settings=settings, **arguments)[0]
    assert result.value == pytest.approx(eleven_point_map(test.features[:, :3], shown), abs=0.05)
    assert result.settings["num_labels"] == 3
    with pytest.raises(InputError, match="no accuracy, which takes one answer"):
        evaluate_features(train, test, protocols=["linear_probe"], **arguments)
    with pytest.raises(InputError, match="several labels an image"):
        evaluate_features(train, test, protocols=["knn"], settings=settings, **arguments)


def test_an_official_validation_split_chooses_c_and_is_then_fitted_too():
    train, validation = make_features(20), make_features(8, seed=5, first=300)
    test = make_features(30, seed=1, first=100, signal=0.5)
    result = evaluate_features(
        train, test, validation=validation, columns=LABEL, protocols=["linear_probe"], subject=SUBJECT
    )[0]
    assert result.settings["validation_images"] == 24
    both, labels = (
        np.concatenate([side.features for side in (train, validation)]),
        np.concatenate([side.columns["label"] for side in (train, validation)]),
    )
    held_out = np.arange(len(both)) >= 60
    probe = logistic_regression_probe(both, labels, test.features, test.columns["label"], held_out=held_out)
    assert (result.value, result.settings["c"]) == (probe.value, probe.c)


def test_the_releases_probe_gives_both_kinds_of_head_and_its_optimism_is_marked():
    train, test = make_features(), make_features(30, seed=1, first=100, signal=0.3)
    results = evaluate_features(
        train,
        test,
        columns=COLUMNS,
        protocols=["linear_probe_sgd", "linear_probe_sgd_optimistic"],
        settings=EvaluationSettings(sgd_epochs=20),
        subject=SUBJECT,
    )
    assert [result.variant for result in results] == ["without BatchNorm", "with BatchNorm"] * 2
    assert [result.settings["selection"][:7] for result in results] == ["held-ou"] * 2 + ["maximum"] * 2
    assert all("validation_fraction" not in result.settings for result in results[2:])
    assert "chosen on the test set" in results_table(results)


def test_episodes_are_told_from_images_in_the_table():
    test = make_features(80, signal=2.0)
    columns = Columns(label="label", group="concept")
    settings = EvaluationSettings(few_shot_ways=3, few_shot_shots=1, few_shot_episodes=40)
    result = evaluate_features(
        None, test, columns=columns, protocols=["few_shot"], settings=settings, subject=SUBJECT
    )[0]
    assert (result.n, result.chance, result.variant) == (40, 1 / 3, "3-way 1-shot")
    assert result.low < result.value < result.high
    table = results_table([result])
    assert "few-shot accuracy (3-way 1-shot)" in table
    assert "40 episodes scored." in table
    assert "Student t over episodes" in table


def test_few_neighbours_are_what_a_small_bank_holds():
    train, test = make_features(40), make_features(5, seed=1, first=100)  # 120 images
    results = evaluate_features(train, test, columns=LABEL, protocols=["knn"], subject=SUBJECT)
    assert [result.settings["k"] for result in results] == [10, 20, 100]
    tiny = make_features(2)
    assert evaluate_features(tiny, test, columns=LABEL, protocols=["knn"], subject=SUBJECT)[0].settings["k"] == 6


def test_zero_shot_and_text_retrieval_are_what_the_two_towers_say(clip_folder, test_world):
    vision = load_encoder(clip_folder)
    captioned = test_world.add_column("caption", [f"a {name}" for name in test_world["concept"]])
    results = evaluate_encoder(
        vision,
        None,
        captioned,
        columns=Columns(label="label", caption="caption"),
        protocols=["zero_shot", "text_retrieval"],
        settings=EvaluationSettings(templates=("a {}", "one {}"), text_recall_at=(1, 3)),
        progress=False,
    )
    embeds = as_unit_vectors(extract_features(vision, test_world, progress=False).embeds)
    names = test_world.features["label"].names
    sentences = [as_unit_vectors(vision.embed_texts([f"a {name}", f"one {name}"])).mean(0) for name in names]
    found = (embeds @ as_unit_vectors(torch.stack(sentences)).T).argmax(1).numpy()
    assert results[0].value == (found == np.array(test_world["label"][:])).mean()
    assert (results[0].protocol, results[0].chance) == ("zero_shot", 0.25)
    assert [(r.variant, r.metric, r.n) for r in results[1:]] == [
        ("image to text", "recall@1", 36),
        ("image to text", "recall@3", 36),
        ("text to image", "recall@1", 12),  # three images share a caption
        ("text to image", "recall@3", 12),
    ]
    texts = list(dict.fromkeys(captioned["caption"]))
    pairs = [(row, texts.index(text)) for row, text in enumerate(captioned["caption"])]
    both = text_retrieval_recall(embeds, vision.embed_texts(texts), pairs, (1, 3))
    assert [r.value for r in results[1:]] == [side.hits[k].mean() for side in both for k in (1, 3)]
    assert results[3].interval == "bootstrap over test texts"


def test_rows_of_one_image_and_lists_of_captions_are_the_same_question(clip_folder, test_world):
    vision = load_encoder(clip_folder)
    images = test_world.select(range(0, 36, 3))
    lists = images.add_column("caption", [[f"a {name}", f" the  {name}"] for name in images["concept"]])
    rows = images.select([row for row in range(12) for _ in range(2)])
    rows = rows.add_column("caption", [text for pair in lists["caption"] for text in pair])
    arguments = {"protocols": ["text_retrieval"], "progress": False}
    one = evaluate_encoder(vision, None, lists, columns=Columns(caption="caption"), **arguments)
    other = evaluate_encoder(vision, None, rows, columns=Columns(caption="caption", image_id="concept"), **arguments)
    assert [(r.value, r.n) for r in one] == [(r.value, r.n) for r in other]
    assert one[0].settings["texts"] == 24


@pytest.mark.parametrize("group", [None, "scene"])
def test_captions_of_an_image_are_drawn_together(group):
    """Half of the images have five captions that all fail: their interval is that of 40 images, not of 200 texts."""
    count = 40
    vectors = np.eye(count, dtype=np.float32)
    named = {f"{row} {number}": vectors[row] * (-1) ** (row % 2) for row in range(count) for number in range(5)}
    captions = np.empty(count, object)
    captions[:] = [[f"{row} {number}" for number in range(5)] for row in range(count)]
    test = Features(vectors, np.arange(count), {"caption": captions, "scene": np.arange(count)}, embeds=vectors)
    results = evaluate_features(
        None,
        test,
        columns=Columns(caption="caption", group=group),
        protocols=["text_retrieval"],
        embed_texts=lambda texts: torch.tensor(np.array([named[text] for text in texts])),
        settings=EvaluationSettings(text_recall_at=(1,)),
        subject=SUBJECT,
    )
    found = results[1]
    assert (found.variant, found.value, found.n) == ("text to image", 0.5, 200)
    low, high = bootstrap_interval(np.arange(count) % 2 == 0)
    assert (found.low, found.high) == (low, high)


def test_siblings_are_found_by_caption_id():
    test = make_features(30, signal=0.0, seed=3)
    test.features[:] = np.repeat(np.random.default_rng(0).normal(size=(30, 16)), 3, 0)
    result = evaluate_features(
        None, test, columns=Columns(caption_id="concept"), protocols=["sibling_retrieval"], subject=SUBJECT
    )[0]
    assert (result.value, result.metric, result.n) == (1.0, "mAP", 90)
    assert 0 < result.chance < 0.1


def test_an_augmented_probe_sees_a_new_crop_in_each_epoch(vit, image_processor, train_world, test_world):
    counting = CountingProcessor(image_processor)
    results = evaluate_encoder(
        vit,
        train_world,
        test_world,
        columns=COLUMNS,
        protocols=["linear_probe_sgd"],
        image_processor=counting,
        settings=EvaluationSettings(sgd_epochs=2, sgd_augmentation=True),
        progress=False,
    )
    # once each, then the training set again in two epochs of two trainings, and one picture to see the input's size
    assert counting.images == len(train_world) * 5 + len(test_world) + 1
    assert all(result.settings["augmentation"] for result in results)


def test_a_training_set_of_one_class_is_refused(vit, image_processor, train_world, test_world):
    single = train_world.filter(lambda row: row["label"] == 2)
    with pytest.raises(InputError, match="Every label in column 'label' of split 'train' is 2"):
        evaluate_encoder(
            vit, single, test_world, columns=LABEL, protocols=["knn"], image_processor=image_processor, progress=False
        )
