"""A world is a value: those that ship, one that a lab writes, and what is refused before any work."""

import json
import re
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.reproduction import (
    Cell,
    all_settings,
    cell_runner,
    check_world,
    make_claims,
    read_world,
    unpack_results,
)
from stablerep_hf.reproduction.cell_runner import CellRunner
from stablerep_hf.reproduction.image_sets import ImageSets
from stablerep_hf.reproduction.study import StudySettings, run_study
from stablerep_hf.reproduction.world import worlds
from stablerep_hf.reproduction.world_checks import drawn_size


def pictures(folder, split, labels, texts):
    rows = [
        {"image": Image.new("RGB", (40, 32), (50 * label, 20 * (i % 10), 100)), "label": label, "caption": text}
        for i, (label, text) in enumerate(zip(labels, texts, strict=True))
    ]
    names = datasets.ClassLabel(names=["red fox, Vulpes", "owl", "hut"])
    features = datasets.Features(image=datasets.Image(), label=names, caption=datasets.Value("string"))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(rows, features=features)
    data.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def lab(tmp_path):
    """A world file of its own, with few pictures."""
    labels = [i % 3 for i in range(96)]
    pictures(tmp_path / "real", "train", labels, [f"thing {i % 24}" for i in range(96)])
    pictures(tmp_path / "real", "test", labels[:48], ["x"] * 48)
    said = {
        "name": "lab",
        "captions": "real",
        "real": [{"data": "real", "label_column": "label"}],
        "evaluation": [{"name": "own", "data": "real", "label_column": "label", "protocols": ["knn"]}],
        "main": ["knn accuracy, own"],
        "recipes": dict.fromkeys(("untrained", "stablerep"), "pictograms")
        | dict.fromkeys(("simclr", "supcon"), "pictograms-simclr")
        | {"clip": "pictograms-clip"},
        "encoder": {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]},
        "scale": {"captions": 24, "steps": 2, "views": 8, "seeds": 2, "curve": [1, 2]},
        "claims": [1, 2, 3, 5, 7],
    }  # fmt: skip

    def write(**changes):
        file = tmp_path / "world.yaml"
        file.write_text(
            yaml.safe_dump({key: value for key, value in {**said, **changes}.items() if value is not None})
        )
        return file

    return write


def test_worlds_that_ship_can_be_read():
    assert list(worlds()) == ["embedded", "photos"]
    for name in worlds():
        world = read_world(name)
        assert {setting.objective for setting in all_settings(make_claims(world))} - {"pixels"} <= set(world.recipes)
    assert [claim.number for claim in make_claims(read_world("photos"))] == [1, 7], "nothing is drawn"
    assert [claim.number for claim in make_claims(read_world("photos", generator="lab/painter"))] == [1, 2, 3, 7, 8]


def test_a_world_of_its_own_is_trained_and_measured(lab, tmp_path):
    world = read_world(str(lab()))
    check_world(world)
    claims = make_claims(world)
    assert [claim.number for claim in claims] == [1, 7]
    assert list(claims[0].settings) == [
        "8 x 8 pixels", "untrained", "SimCLR, real", "CLIP, real", "StableRep, real", "SupCon, real labels"
    ]  # fmt: skip
    runner = CellRunner(tmp_path / "work", world, "float32")
    keys = set()
    for label in ("8 x 8 pixels", "StableRep, real", "SupCon, real labels"):
        record = runner.run(Cell(setting=claims[0].settings[label], seed=0))
        assert list(unpack_results(json.loads(json.dumps(record)), "x")) == ["knn accuracy, own"]
        keys.add(record["key"])
    assert len(keys) == 3
    assert not list((tmp_path / "work").glob("cells/*"))
    moved = read_world(str(lab()), data=lab().parent)
    assert (
        CellRunner(tmp_path / "elsewhere", moved, "float32").key(Cell(setting=claims[0].settings[label], seed=0))
        in keys
    )


def test_a_cell_that_was_killed_goes_on_from_its_checkpoint(lab, tmp_path, monkeypatch):
    world = read_world(str(lab()))
    cell = Cell(setting=make_claims(world)[0].settings["StableRep, real"], seed=0)
    whole = CellRunner(tmp_path / "whole", world, "float32").run(cell)
    monkeypatch.setattr(cell_runner, "CHECKPOINT_STEPS", 1)
    runner = CellRunner(tmp_path / "killed", world, "float32")
    with monkeypatch.context() as patch:
        patch.setattr(CellRunner, "_measure", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.run(cell)
    (folder,) = (tmp_path / "killed" / "cells").iterdir()
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    again = runner.run(cell)
    assert [again[name] for name in ("results", "loss")] == [whole[name] for name in ("results", "loss")]
    assert not folder.exists()


def test_names_of_classes_become_captions_in_turn(lab):
    wordings = {"data": "real", "label_column": "label", "wordings": ["a {}", "my {}"]}
    real = ImageSets(Path(), read_world(str(lab(real=[wordings]))), "float32").real
    assert real["caption"][:4] == ["a red fox", "my owl", "a hut", "my red fox"]
    assert len(np.unique(real["caption_id"][:])) == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation": None}, "says nothing of `evaluation`"),
        ({"colour": "red"}, "colour"),
        ({"evaluation": [{"data": "real", "kind": "knn"}]}, "kind"),
        ({"captions": "other.txt"}, "has an image in `real`"),
        ({"evaluation": [{"data": "one", "label_column": "label", "protocols": ["knn"]}]}, "are '1'"),
        ({"generator": "embedded", "image_size": 64}, "draws images of 32 pixels"),
        ({"recipes": {"stablerep": "pictograms"}}, "none for clip, simclr, supcon, untrained"),
        ({"generator": "./not/there"}, "neither a folder nor of the form owner/name"),
        ({"generator": "one"}, "holds no image of the world's captions"),
        ({"real": [{"data": "real", "label_column": "kind", "wordings": ["a {}"]}]}, "no column 'kind'"),
    ],
)
def test_a_world_that_cannot_work_is_refused_before_any_work(lab, tmp_path, changes, words):
    pictures(tmp_path / "one", "train", [1] * 8, ["x"] * 8)
    pictures(tmp_path / "one", "test", [1] * 8, ["x"] * 8)
    (tmp_path / "other.txt").write_text("nobody drew this\n")
    with pytest.raises(InputError, match=re.escape(words)):
        run_study(StudySettings(world=str(lab(**changes)), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_is_to_be_done(lab, tmp_path, capsys):
    file = lab(core_seconds={"view": 100.0, "measuring": 0.0})
    run_study(StudySettings(world=str(file), dry_run=True, output=str(tmp_path / "out")))
    # pixels once; untrained, four arms of two steps and two of one step with two seeds
    assert (
        "15 training runs and measurements to do, 160 views, 0 images to draw, about 4.4 hours"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_the_size_that_a_pipeline_draws_is_read_from_its_folder():
    assert drawn_size("embedded") == 32
    assert drawn_size("owner/on-the-hub") is None


def test_images_that_were_drawn_before_stand_in_for_a_generator(lab, tmp_path):
    pictures(tmp_path / "drawn", "train", [0] * 48, [f"thing {i % 24}" for i in range(48)])
    world = read_world(str(lab(generator="drawn", claims=[1, 2, 3])))
    assert not world.draws
    assert [claim.number for claim in make_claims(world)] == [1, 3]
    sets = ImageSets(tmp_path, replace(world), "float32")
    chosen = sets.images(make_claims(world)[0].settings["StableRep, synthetic"].images)
    assert len(chosen) == 48 and sorted(set(chosen["image_index"][:])) == [0, 1]
