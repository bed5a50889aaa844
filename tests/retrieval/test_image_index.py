"""The images of a data set indexed: by function and by `stablerep index`."""

import re
import shlex
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from training_data import make_dataset

from stablerep_hf import assets
from stablerep_hf.cli import main
from stablerep_hf.cli.demo_app import COMMAND
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features, load_encoder, pixel_encoder
from stablerep_hf.models import StableRepModel  # noqa: F401  # makes it known to transformers
from stablerep_hf.retrieval import embed_image, image_index, index_images, open_image_index
from stablerep_hf.retrieval.projection import project
from stablerep_hf.space import SpaceSettings
from stablerep_hf.space.gallery import REAL, load_collections
from stablerep_hf.space.searching import Searchers


@pytest.fixture(scope="module")
def dual():
    return load_encoder(assets.dual_encoder_path())


@pytest.fixture(scope="module")
def dataset():
    return make_dataset([3] * 10)


def test_images_find_their_siblings_and_words_reach_them(dual, dataset, tmp_path):
    index = index_images(dual, dataset, tmp_path / "index", progress=False)
    found = extract_features(dual, dataset, progress=False)
    assert len(index) == 30
    np.testing.assert_allclose(
        index.features.vectors(range(30)),
        found.features / np.linalg.norm(found.features, axis=1, keepdims=True),
        atol=1e-5,
    )
    features, embeds = embed_image(dual, dataset[7]["image"])
    assert index.features.search(features, 1)[1].tolist() == [[7]]
    assert index.embeds.search(embeds, 1)[1].tolist() == [[7]]
    cosines, _ = index.embeds.search(dual.embed_texts(["a red heart"]).numpy(), 30)
    assert cosines.shape == (1, 30)
    assert np.abs(cosines).max() <= 1 + 1e-5


def test_an_index_that_stands_is_opened_and_another_refused(dual, dataset, tmp_path, monkeypatch):
    index_images(dual, dataset, tmp_path, names={"encoder": "E", "dataset": "D"}, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(image_index, "extract_features", lambda *_, **__: pytest.fail("it was encoded again"))
        assert len(index_images(dual, dataset, tmp_path, progress=False)) == 30
    with pytest.raises(InputError, match=r"made by the weights .+ \(E\)"):
        open_image_index(tmp_path, pixel_encoder(), dataset)
    with pytest.raises(InputError, match=r"of 30 images \(D\), and the data set has 29"):
        index_images(dual, dataset.select(range(29)), tmp_path, progress=False)
    with pytest.raises(InputError, match="holds no index"):
        open_image_index(tmp_path / "nothing", dual, dataset)


def test_an_index_of_other_images_is_refused(dataset, tmp_path):
    def made_again(order):  # the same rows, but a data set of its own
        return dataset.select(order).flatten_indices()

    index_images(pixel_encoder(), dataset, tmp_path, names={"dataset": "D"}, progress=False)
    assert len(open_image_index(tmp_path, pixel_encoder(), made_again(range(30)))) == 30
    other = dataset.add_column("other", dataset.with_format("arrow")[:]["image"].to_pylist()[::-1])
    other = other.cast_column("other", datasets.Image())
    for data, column in ((made_again([1, 0, *range(2, 30)]), "image"), (other, "other")):
        with pytest.raises(InputError, match=rf"column 'image' of D\) than those in the column '{column}'"):
            open_image_index(tmp_path, pixel_encoder(), data, column)
        (tmp_path / "rows.npy").unlink(missing_ok=True)
        with pytest.raises(InputError, match="is of other images"):  # what was begun of others is not gone on with
            index_images(pixel_encoder(), data, tmp_path, image_column=column, progress=False)
    prepared = pixel_encoder()
    prepared.image_processor.image_mean = [0, 0, 0]
    with pytest.raises(InputError, match="another image processor"):
        open_image_index(tmp_path, prepared, dataset)
    with pytest.raises(InputError, match="no column 'photo'"):
        open_image_index(tmp_path, prepared, dataset, "photo")


def test_parts_of_unknown_origin_are_made_again(dataset, tmp_path):
    index_images(pixel_encoder(), dataset.select(range(29, -1, -1)), tmp_path, progress=False)
    (tmp_path / "images.json").unlink()
    index = index_images(pixel_encoder(), dataset, tmp_path, progress=False)
    assert index.features.search(embed_image(pixel_encoder(), dataset[4]["image"])[0], 1)[1].tolist() == [[4]]


def test_images_are_told_by_their_files(dataset, tmp_path):
    stored = dataset.with_format("arrow")[:]["image"].to_pylist()
    paths = [str(tmp_path / f"{row}.png") for row in range(30)]
    for path, image in zip(paths, stored, strict=True):
        Path(path).write_bytes(image["bytes"])
    files = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    identity = image_index.index_identity(pixel_encoder(), dataset)
    assert image_index.index_identity(pixel_encoder(), files) == identity
    Path(paths[3]).unlink()
    assert image_index.index_identity(pixel_encoder(), files) != identity


def test_an_interrupted_index_is_finished(dual, dataset, tmp_path, monkeypatch):
    built = []
    build = image_index.build_index

    def killed_at_the_second(vectors, folder, **options):
        built.append(folder.name)
        if len(built) == 2:
            raise KeyboardInterrupt
        return build(vectors, folder, **options)

    monkeypatch.setattr(image_index, "build_index", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        index_images(dual, dataset, tmp_path, progress=False)
    with pytest.raises(InputError, match="not finished"):
        open_image_index(tmp_path, dual, dataset)
    assert len(index_images(dual, dataset, tmp_path, progress=False)) == 30
    assert built == ["features", "embeds", "embeds"], "the part that was finished is not made again"
    assert open_image_index(tmp_path, dual, dataset).embeds is not None


def test_a_bad_image_is_left_out_and_rows_stay_right(dataset, tmp_path):
    images = [dict(row) for row in dataset.with_format("arrow")[:]["image"].to_pylist()]
    images[4]["bytes"] = b"no picture"
    broken = (
        dataset.remove_columns("image").add_column("image", images).cast_column("image", dataset.features["image"])
    )
    index = index_images(pixel_encoder(), broken, tmp_path, max_bad_images=1, progress=False)
    assert index.rows.tolist() == [row for row in range(30) if row != 4]
    features, _ = embed_image(pixel_encoder(), dataset[9]["image"])
    assert index.rows[index.features.search(features, 1)[1]].tolist() == [[9]]


def test_transparent_pictures_find_themselves(tmp_path):
    generator = np.random.default_rng(0)
    shapes = generator.integers(0, 2, (20, 8, 8, 1), np.uint8).repeat(4, 1).repeat(4, 2) * 255
    icons = [Image.fromarray(np.pad(shape, ((0, 0), (0, 0), (3, 0)))) for shape in shapes]  # black, all of them
    index = index_images(
        pixel_encoder(),
        datasets.Dataset.from_dict({"image": icons}, features=datasets.Features(image=datasets.Image())),
        progress=False,
    )
    found = [index.features.search(embed_image(pixel_encoder(), icon)[0], 1)[1].item() for icon in icons]
    assert found == list(range(20))


def test_the_command_builds_opens_and_explains(dataset, tmp_path, monkeypatch, capsys):
    dataset.to_parquet(tmp_path / "data" / "test.parquet")
    monkeypatch.chdir(tmp_path)
    arguments = ["index", "data", "embedded-stablerep", "--split", "test", "--cache", "cache", "--exact_below", "10"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    command = re.search(r"with `stablerep demo-app (.*)`", said)[1]
    _, settings = COMMAND.parse(shlex.split(command))
    assert Searchers(load_collections(settings), settings).first.by_picture(dataset[0]["image"], 1, [REAL])
    assert re.search(r"30 x 256  HNSW, recall@10 (1\.000|0\.9\d\d) of exact", said)
    assert main(arguments) == 0
    assert main(["index", "data"]) == 2
    assert "required: ENCODER" in capsys.readouterr().err
    assert main(["index", "data", "nothing/there", "--split", "test"]) == 2
    index = open_image_index("index", load_encoder(assets.encoder_path()), dataset)
    assert (index.features.facts.kind, index.embeds) == ("hnsw", None)


def test_embedded_is_the_encoder_that_the_page_takes_by_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["index", "embedded", "embedded", "--split", "held_out_artist", "--cache", "none"]) == 0
    settings = SpaceSettings(index="index", split="held_out_artist", synthetic_dataset="none")
    assert Searchers(load_collections(settings), settings).first.by_text("red", 1, [REAL])


def test_the_command_keeps_no_features_and_no_path_of_this_machine(dataset, tmp_path, monkeypatch):
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["index", str(tmp_path / "data"), str(assets.encoder_path()), "--cache", "none"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "index"]
    names = image_index.read_names("index")
    assert (names["encoder"], names["dataset"]) == ("encoder", "data")
    assert str(tmp_path) not in (tmp_path / "index" / "images.json").read_text()


@pytest.mark.parametrize("flag", ["--output", "--cache"])
@pytest.mark.parametrize("place", ["notes.txt", "notes.txt/index", "/proc/index"])
def test_a_place_that_cannot_be_written_is_refused_before_encoding(
    dataset, tmp_path, monkeypatch, capsys, flag, place
):
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").touch()
    monkeypatch.setattr(image_index, "extract_features", lambda *_, **__: pytest.fail("it was encoded"))
    assert main(["index", "data", "embedded", flag, place]) == 2
    assert f"{flag} {place} cannot be written" in capsys.readouterr().err
    assert not Path("index").exists()


def test_a_map_lies_in_its_square():
    torch.manual_seed(0)
    vectors = torch.randn(40, 2) @ torch.randn(2, 16)
    laid = project(vectors, "pca")
    assert laid.points.shape == (40, 2)
    assert (laid.points.min(), laid.points.max()) == (0, 1)
    assert laid.variance == pytest.approx(1, abs=1e-5), "two directions hold all of a plane"
    assert project(np.ones((3, 16)), "pca").points.tolist() == [[0, 0]] * 3
