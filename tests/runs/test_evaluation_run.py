"""Measuring from Python and from the command line gives the same numbers."""

from __future__ import annotations

import json

import pytest
from training_data import make_dataset

from stablerep_hf import cli
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import EvaluationSettings, Subject, compare_encoders, evaluate_encoder, pixel_encoder
from stablerep_hf.evaluation.images import load_images
from stablerep_hf.runs.encoding import EncodingSettings
from stablerep_hf.runs.evaluation import MeasuringSettings, evaluate, load_sides

SETTINGS = EvaluationSettings(knn_neighbours=[5], probe_c_values=4, num_resamples=100)
FLAGS = ["--knn-neighbours", "5", "--probe-c-values", "4", "--num-resamples", "100", "--cache", "none"]


@pytest.fixture
def labelled(tmp_path):
    """Splits train and validation, of four classes."""
    data = make_dataset([4] * 12)
    data = data.add_column("kind", [row // 4 % 4 for row in range(48)])
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", range(0, 48, 2)), ("validation", range(1, 48, 2))):
        data.select(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def test_a_function_the_run_and_the_command_agree(labelled, tmp_path):
    file = tmp_path / "results.json"
    measuring = MeasuringSettings(data=str(labelled), label_column="kind", cache="none")
    by_run = evaluate("pixels", measuring, SETTINGS)
    flags = ["--data", str(labelled), "--label-column", "kind", "--output", str(file)]
    assert cli.main(["evaluate", "pixels", *flags, *FLAGS]) == 0
    assert json.loads(file.read_text()) == [result.to_dict() for result in by_run]
    by_function = evaluate_encoder(
        pixel_encoder(),
        load_images(labelled, "train"),
        load_images(labelled, "validation"),
        columns={"label": "kind"},
        subject=Subject(dataset=str(labelled), revision=by_run[0].revision, split="validation"),
        settings=SETTINGS,
        progress=False,
    )
    assert by_function == by_run
    assert {result.protocol for result in by_run} == {"knn", "linear_probe"}


def test_differences_are_in_the_table_and_in_the_file(labelled, tmp_path, capsys):
    file = tmp_path / "results.json"
    flags = ["--data", str(labelled), "--label-column", "kind", "--output", str(file), "--protocols", "knn", *FLAGS]
    assert cli.main(["evaluate", "embedded-stablerep", "untrained", *flags]) == 0
    out = capsys.readouterr().out
    first, second, third = json.loads(file.read_text())
    assert list(first["settings"]["minus"]) == ["untrained embedded-stablerep", "8 x 8 pixels"]
    assert list(second["settings"]["minus"]) == ["8 x 8 pixels"] and "minus" not in third["settings"]
    assert "| difference | embedded-stablerep - untrained embedded-stablerep |" in out
    sides = load_sides(MeasuringSettings(data=str(labelled), label_column="kind"))
    assert (sides.subject.split, len(sides.train), len(sides.test)) == ("validation", 24, 24)
    measured = compare_encoders([pixel_encoder()], sides.train, sides.test, columns=sides.columns, settings=SETTINGS)
    assert measured[0].value == third["value"]


def test_a_data_set_without_labels_is_measured_by_its_captions(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    make_dataset([3] * 6).to_parquet(folder / "train.parquet")
    results = evaluate("pixels", MeasuringSettings(data=str(folder), cache="none"), SETTINGS)
    assert [(result.protocol, result.split, result.n) for result in results] == [("sibling_retrieval", "train", 18)]


def test_encoders_that_cannot_be_told_apart_or_begin_with_untrained_are_refused(labelled):
    measuring = MeasuringSettings(data=str(labelled), label_column="kind", cache="none")
    with pytest.raises(InputError, match="'untrained' is the first encoder before its training"):
        evaluate("untrained", measuring, SETTINGS)
    with pytest.raises(InputError, match="is named twice"):
        evaluate(["pixels", "pixels"], measuring, SETTINGS)
    with pytest.raises(InputError, match="no column 'colour'"):
        evaluate("pixels", MeasuringSettings(data=str(labelled), label_column="colour"))


def test_a_mistyped_folder_of_an_encoder_is_told_so(tmp_path):
    for name in ("./encodr", str(tmp_path / "encodr"), tmp_path / "encodr"):
        with pytest.raises(InputError, match="encodr' cannot be loaded, there is no such folder: check the path"):
            EncodingSettings().load(name)
