"""The images of a data set indexed: by function and by `stablerep index`."""

import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from training_data import make_dataset

from stablerep_hf import assets
from stablerep_hf.cli import main
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import extract_features, load_encoder, pixel_encoder
from stablerep_hf.models import StableRepModel  # noqa: F401  # makes it known to transformers
from stablerep_hf.retrieval import embed_image, image_index, index_images, open_image_index
from stablerep_hf.retrieval.projection import project


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
    arguments = ["index", "data", "embedded", "--split", "test", "--cache", "cache", "--exact_below", "10"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(r"30 x 96  HNSW, recall@10 (1\.000|0\.9\d\d) of exact", said)
    assert main(arguments) == 0
    assert main(["index", "data"]) == 2
    assert "two are needed" in capsys.readouterr().err
    assert main(["index", "data", "nothing/there", "--split", "test"]) == 2
    index = open_image_index("index", load_encoder(assets.encoder_path()), dataset)
    assert (index.features.facts.kind, index.embeds) == ("hnsw", None)


def test_a_map_lies_in_its_square():
    torch.manual_seed(0)
    vectors = torch.randn(40, 2) @ torch.randn(2, 16)
    laid = project(vectors, "pca")
    assert laid.points.shape == (40, 2)
    assert (laid.points.min(), laid.points.max()) == (0, 1)
    assert laid.variance == pytest.approx(1, abs=1e-5), "two directions hold all of a plane"
    assert project(np.ones((3, 16)), "pca").points.tolist() == [[0, 0]] * 3
