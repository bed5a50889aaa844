"""The page's settings, its pictures, and what it does with data of other people's columns."""

import re
import shutil
import socket
from dataclasses import fields

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from training_data import make_dataset

from stablerep_hf import assets
from stablerep_hf.errors import InputError
from stablerep_hf.space import SpaceSettings, read_settings
from stablerep_hf.space.answers import Answers
from stablerep_hf.space.gallery import Place, load_collections
from stablerep_hf.space.searching import Searchers
from stablerep_hf.synthesis.pipeline_folder import content_digest


def test_the_environment_stands_above_the_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("encoder: me/one\ndataset: me/data\nresults: 5\ncompare: [pixels]\n")
    settings = read_settings(file, {"ENCODER": "me/two", "RESULTS": "7", "COMPARE": "untrained, pixels", "SPLIT": ""})
    assert (settings.encoder, settings.dataset, settings.results) == ("me/two", "me/data", 7)
    assert settings.compare == ["untrained", "pixels"]
    assert (settings.split, settings.synthetic_dataset, settings.guidance_dataset) == ("train", "none", "none")
    assert not settings.behind_proxy
    assert read_settings(None, {"SPACE_ID": "me/search"}).behind_proxy
    assert not read_settings(None, {"SPACE_ID": "me/search", "BEHIND_PROXY": "false"}).behind_proxy


def test_a_setting_with_no_value_is_not_there(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("".join(f"{setting.name}:\n" for setting in fields(SpaceSettings)))
    assert read_settings(file, {}) == SpaceSettings()


def test_the_defaults_are_what_ships():
    settings = read_settings(None, {})
    assert settings == SpaceSettings()
    assert (settings.split, settings.synthetic_split) == ("held_out_concepts+held_out_artist", "siblings")


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        ("colour: red", {}, "unknown key 'colour'"),
        ("results: many", {}, "results is 'many' and must be of type int"),
        ("", {"MOST_MEGAPIXELS": "x"}, "must be of type float"),
        ("trust_remote_code: maybe", {}, "must be of type bool"),
        ("results: 0", {}, "results is 0"),
        ("results: 100", {}, "above most_results"),
        ("index_size: -1", {}, "index_size is -1"),
        ("compare: 3", {}, "must be a list"),
        ("encoder: untrained", {}, "the twin of the first one"),
        ("results: 5\nresults: 6", {}, "'results' is there twice"),
        ("- a", {}, "no 'key: value' lines"),
        ("a: [", {}, "is not YAML"),
    ],
)
def test_wrong_settings_are_sentences(tmp_path, text, environment, says):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        read_settings(tmp_path / "config.yaml", environment)


def test_the_drawings_that_ship_are_of_the_generator_that_ships():
    drawn = datasets.load_dataset(str(assets.drawings_path()))
    revision = content_digest(assets.generator_path())
    for split in drawn.values():
        assert set(split["generator_revision"]) == {revision}, "run scripts/draw_space_pictures.py"
    scales = drawn["guidance"].select_columns(["caption", "image_index", "seed", "guidance_scale"]).to_pandas()
    assert (scales.groupby(["caption", "image_index"])["seed"].nunique() == 1).all(), "scales differ in nothing else"
    assert scales.groupby(["caption", "image_index"])["guidance_scale"].nunique().min() == 6


def rows_of(tiles):
    """The rows of the pictures in a grid's HTML."""
    return [int(row) for row in re.findall(r'data-row="(\d+)"', tiles)]


@pytest.fixture
def foreign(tmp_path):
    """Somebody else's data: a label with names, several captions, no ids, large pictures."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8)) for _ in range(6)]
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "texts": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    rows = {"photo": images, "texts": [["a <b>cat</b>", "x"]] * 3 + [["a dog"]] * 3, "label": [0] * 3 + [1] * 3}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    return tmp_path / "data"


def test_it_shows_a_folder_as_its_files_stand_now(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train*\n---\n"
    (tmp_path / "README.md").write_text(card)
    features = datasets.Features(image=datasets.Image())
    for colour in ((255, 0, 0), (0, 0, 255)):
        picture = Image.new("RGB", (8, 8), colour)
        datasets.Dataset.from_dict({"image": [picture]}, features=features).to_parquet(tmp_path / "train.parquet")
        shown = load_collections(SpaceSettings(dataset=str(tmp_path))).picture(Place("real", 0))
        assert shown.getpixel((0, 0)) == colour


def test_it_shows_any_data_set(foreign, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    settings = SpaceSettings(
        dataset=str(foreign), image_column="photo", caption_column="texts", group_column="label", compare=["pixels"],
        encoder="embedded-stablerep",
    )  # fmt: skip
    answers = Answers(settings)
    assert not answers.reads_texts, "StableRep knows no words"
    assert answers.guidance_captions == []
    assert answers.sources == ["all"]
    picture, query, found, status, note, siblings, provenance = answers.search_place(("real", 1), "all", 3)
    assert picture.size == (400, 300)
    assert query == {"place": ["real", 1]}
    assert 1 not in rows_of(found), "a picture is not its own result"
    assert re.findall('class="group">(.*?)<', siblings) == ["cat"] * 3
    assert "a &lt;b&gt;cat&lt;/b&gt;" in note
    assert "<b>" not in status.replace('<p role="status">', "")
    assert provenance == ""
    assert answers.facts()["collections"] == {"real": 6}
    shown = answers.map()
    assert shown["groups"] == ["cat", "dog"]
    assert len(shown["points"]) == 6


def test_it_shows_pictures_that_nobody_may_upload(tmp_path):
    for name, size in (("a.tiff", (40, 20)), ("b.png", (6000, 5000))):
        Image.new("1", size).save(tmp_path / name)
    collection = load_collections(SpaceSettings(dataset=str(tmp_path))).parts["real"]
    assert [collection.picture(row).size for row in (0, 1)] == [(40, 20), (6000, 5000)]
    assert collection.describe(0)["image"].startswith("data:image/webp;")


@pytest.mark.parametrize("damaged", [None, b"no picture", "another.png"])
def test_a_picture_that_does_not_decode_is_not_shown(tmp_path, monkeypatch, damaged):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    stored = make_dataset([4] * 25).with_format("arrow")[:]["image"].to_pylist()
    bad = 11  # the first example of eight
    stored[bad] = damaged and {"bytes": damaged, "path": None}
    if isinstance(damaged, str):  # a whole picture of this machine, but none of the data set
        Image.new("RGB", (8, 8)).save(tmp_path / damaged)
        stored[bad] = {"bytes": None, "path": str(tmp_path / damaged)}
    captions = [[f"caption {row // 4}"] if row > 3 else [] for row in range(100)]
    data = datasets.Dataset.from_dict({"image": stored, "caption": captions}).cast_column("image", datasets.Image())
    (tmp_path / "data").mkdir()
    pq.write_table(data.data.table, tmp_path / "data" / "train.parquet")
    answers = Answers(SpaceSettings(dataset=str(tmp_path / "data"), encoder="pixels", compare=[]))
    assert bad not in rows_of(answers.example_tiles(8))
    assert len(rows_of(answers.example_tiles(8))) == 8
    assert [tile["row"] for tile in answers.describe_siblings("real", 10)] == [8, 9, 10]
    for row in (bad, 100, -1):
        with pytest.raises(InputError, match="no such picture"):
            answers.describe_siblings("real", row)
    (alone,) = answers.describe_siblings("real", 2)
    assert (alone["row"], alone["caption"]) == (2, ""), "an empty list is no caption"
    assert len(answers.map()["points"]) == 99


def test_two_encoders_of_one_name_are_told_apart(foreign, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    one, other = str(tmp_path / "one" / "encoder"), str(tmp_path / "other" / "encoder")
    shutil.copytree(assets.encoder_path(), one)
    shutil.copytree(assets.dual_encoder_path(), other)
    settings = SpaceSettings(
        dataset=str(foreign),
        image_column="photo",
        encoder=one,
        compare=[other, "pixels", str(assets.dual_encoder_path())],
    )
    searchers = Searchers(load_collections(settings), settings)
    assert searchers.labels == [one, other, "8 x 8 pixels (no network)", "dual_encoder"]
    assert (searchers.first.reads_texts, searchers[other].reads_texts) == (False, True), (
        "each label is its own encoder"
    )


def test_an_index_that_is_nowhere_is_a_sentence(foreign):
    for index in ("me/nothing", "not/a/name"):
        settings = SpaceSettings(dataset=str(foreign), image_column="photo", encoder="pixels", compare=[], index=index)
        with pytest.raises(InputError, match=f"index is '{index}', neither a folder nor"):
            Searchers(load_collections(settings), settings)


def test_an_index_made_beforehand_serves_the_page(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from stablerep_hf.cli import main
    from stablerep_hf.space import searching

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    dataset = datasets.load_dataset(str(assets.drawings_path()), split="siblings").select(range(30))
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    folder = str(tmp_path / "index")
    arguments = ["index", str(tmp_path / "data"), "embedded-stablerep", "--exact_below", "10"]
    assert main([*arguments, "--output", folder]) == 0
    settings = SpaceSettings(
        dataset=str(tmp_path / "data"), encoder="embedded-stablerep", compare=["pixels"], index=folder
    )
    with monkeypatch.context() as patch:
        patch.setattr(searching, "index_images", lambda *_, **__: pytest.fail("it was encoded again"))
        answers = Answers(settings)
    facts = answers.facts()["indexes"]["real"]
    assert facts["kind"] == "hnsw"
    assert f"recall@10 {facts['recall']:.3f}" in answers.about_page()
    settings.encoder = str(assets.dual_encoder_path())
    with pytest.raises(InputError, match="was made by the weights"):
        Answers(settings)


def test_a_port_that_is_taken_is_a_sentence(monkeypatch, capsys):
    import gradio as gr

    from stablerep_hf import space
    from stablerep_hf.cli import main

    with gr.Blocks() as empty:
        pass
    monkeypatch.setattr(space, "build_demo", lambda settings: empty)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo-app", "--port", str(port)]) == 2
        assert main(["demo-app", "--port", "99999"]) == 2
    assert f"cannot listen at 127.0.0.1:{port}, which is taken" in capsys.readouterr().err


def test_port_0_is_a_free_port(monkeypatch):
    import gradio as gr
    import httpx
    from gradio import networking

    from stablerep_hf.space import launch

    monkeypatch.setattr(networking, "url_ok", lambda url: True)
    with gr.Blocks() as empty:
        pass
    _, url, _ = launch(empty, SpaceSettings(), server_port=0, quiet=True, prevent_thread_lock=True)
    try:
        assert httpx.get(url, trust_env=False).status_code == 200
    finally:
        empty.close()


def test_the_command_serves_what_its_flags_say(monkeypatch, tmp_path, capsys):
    from stablerep_hf import space
    from stablerep_hf.cli import main

    served = []
    monkeypatch.setattr(space, "build_demo", lambda settings: ("page", settings))
    monkeypatch.setattr(space, "launch", lambda *what, **how: served.append((*what, how)))
    (tmp_path / "page.yaml").write_text("results: 7\nport: 7999\n")
    assert main(["demo-app", "--config", str(tmp_path / "page.yaml"), "--dataset", "me/photos"]) == 0
    (what, settings), same, how = served[0]
    assert (what, settings is same) == ("page", True)
    assert (settings.results, settings.dataset, settings.split) == (7, "me/photos", "train")
    assert (how["server_name"], how["server_port"]) == ("127.0.0.1", 7999)
    assert main(["demo-app"]) == 0
    assert served[1][2]["server_port"] is None, "Gradio takes the first free one"
    monkeypatch.setattr("stablerep_hf.extras.find_spec", lambda name: None)
    assert main(["demo-app"]) == 2
    assert "pip install 'stablerep_hf[space]'" in capsys.readouterr().err
