from __future__ import annotations

import io
import itertools
import shutil

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets.utils import file_utils
from PIL import ExifTags, Image

from stablerep_hf.captions import read_captions
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import decoding
from stablerep_hf.evaluation.decoding import decode_image, to_rgb
from stablerep_hf.evaluation.images import image_splits, load_images

PARQUET = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
FOLDERS = "---\nconfigs:\n- config_name: default\n  data_dir: .\n---\n"


def write_parquet(folder, colour):
    (folder / "data").mkdir(exist_ok=True)
    rows = {"image": [Image.new("RGB", (8, 8), colour)] * 2}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    data.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def write_pictures(folder, colour):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(folder / name / "0.png")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("card", "write"), [(PARQUET, write_parquet), (FOLDERS, write_pictures)])
def test_a_folder_with_a_card_is_read_as_its_files_stand_now(tmp_path, card, write, streaming):
    (tmp_path / "README.md").write_text(card)
    seen = []
    for colour in ("red", "blue"):
        write(tmp_path, colour)
        loaded = load_images(tmp_path, "train", streaming=streaming)
        seen.append((next(iter(loaded))["image"].getpixel((0, 0)), None if streaming else loaded._fingerprint))
    assert [pixel for pixel, _ in seen] == [(255, 0, 0), (0, 0, 255)]
    if not streaming:
        assert seen[0][1] != seen[1][1], "features are kept by the fingerprint"
        assert load_images(tmp_path, "train")._fingerprint == seen[1][1]


def test_what_the_card_says_of_the_columns_still_counts(tmp_path):
    (tmp_path / "train.csv").write_text("label\n1\n0\n")
    names = {"class_label": {"names": {"0": "cat", "1": "dog"}}}
    info = yaml.safe_dump({"dataset_info": {"features": [{"name": "label", "dtype": names}]}})
    (tmp_path / "README.md").write_text(f"---\n{info}---\n")
    assert load_images(tmp_path, "train").features["label"].names == ["cat", "dog"]


def test_a_split_or_a_folder_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "README.md").write_text(PARQUET)
    with pytest.raises(InputError, match="neither a folder with images nor within reach"):
        load_images(tmp_path, "train")
    write_parquet(tmp_path, "red")
    for name in ("x" * 300, "loop"):
        if name == "loop":
            (tmp_path / name).symlink_to(tmp_path / name)
        with pytest.raises(InputError, match=r"neither a folder with images nor within reach|link loop"):
            load_images(tmp_path / name, "train")
        with pytest.raises(InputError, match=r"neither a folder with images nor within reach|link loop"):
            image_splits(tmp_path / name)
    (tmp_path / "loop").unlink()
    with pytest.raises(InputError, match="cannot give the split 'nope'"):
        load_images(tmp_path, "nope")


@pytest.mark.parametrize("aliases", ["BOMB", "a: &a [*a]"])
def test_a_card_cannot_fill_the_memory(tmp_path, aliases):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, after in itertools.pairwise("abcdefghi"):
        bomb += f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    write_parquet(tmp_path, "red")
    (tmp_path / "README.md").write_text(f"---\n{aliases.replace('BOMB', bomb)}\n---\n")
    with pytest.raises(InputError, match="aliases stand for more values than a card can have"):
        load_images(tmp_path, "train")


FOREIGN = ("/etc/passwd", "http://127.0.0.1:9/x.png", "hf://datasets/me/private@main/x.png", "../outside.png",
           "zip://x.png::http://127.0.0.1:9/x.zip", "ROOT/../outside.png", "OUTSIDE", "ROOTbeside.png")  # fmt: skip


@pytest.fixture
def hostile(tmp_path):
    """A folder whose rows hold an image, a file of the folder, nothing, and names of what lies outside."""
    root = tmp_path / "data"
    root.mkdir()
    outside = tmp_path / "outside.png"
    for path in (root / "own.png", outside, tmp_path / "databeside.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    own = {"bytes": (root / "own.png").read_bytes(), "path": "http://127.0.0.1:9/x.png"}
    named = [path.replace("ROOT", str(root)).replace("OUTSIDE", str(outside)) for path in FOREIGN]
    rows = [own, {"bytes": None, "path": str(root / "own.png")}, None]
    rows += [{"bytes": None, "path": path} for path in named]
    features = datasets.Features({"image": datasets.Image(), "row": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"image": rows, "row": range(len(rows))}, features=features).data.table
    pq.write_table(table, root / "train.parquet")
    return root


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_reach_no_file_outside_their_data_set_and_no_address(hostile, monkeypatch, caplog, streaming):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was fetched"))
    loaded = load_images(hostile, "train", streaming=streaming)
    rows = list(loaded.cast_column("image", datasets.Image(decode=False)))
    assert [row["row"] for row in rows] == list(range(len(FOREIGN) + 3)), "no row is lost"
    cells = [row["image"] for row in rows]
    assert [decode_image(cell).size for cell in cells[:2]] == [(8, 8)] * 2
    assert cells[2] is None
    for cell in cells[3:]:
        assert cell == {"bytes": None, "path": None}
        with pytest.raises(ValueError, match="neither the bytes of an image nor a file of its data set"):
            decode_image(cell)
    if not streaming:
        assert f"{len(FOREIGN)} rows of {hostile} name files outside of it (such as '/etc/passwd')" in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["../outside.png", "OUTSIDE", "http://127.0.0.1:9/x.png"])
def test_pictures_reach_no_file_outside_their_folder_by_their_metadata(tmp_path, streaming, name):
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "data" / "own.png", tmp_path / "outside.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    named = name.replace("OUTSIDE", str(tmp_path / "outside.png"))
    (tmp_path / "data" / "metadata.csv").write_text(f"file_name,caption\n{named},a\nown.png,b\n")
    try:
        rows = list(load_images(tmp_path / "data", "train", streaming=streaming).cast_column(
            "image", datasets.Image(decode=False)
        ))  # fmt: skip
    except (InputError, OSError, ValueError):
        return
    for row in rows:
        assert row["caption"] == "b" or row["image"] == {"bytes": None, "path": None}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "says",
    [
        "data_files: OUTSIDE/secret.parquet",
        "data_files: ../outside/*.parquet",
        "data_files:\n  - split: train\n    path: [a.parquet, 'http://127.0.0.1:9/x.parquet']",
        "data_files:\n    train: hf://datasets/me/private/a.parquet",
        "data_files: zip://a.parquet::http://127.0.0.1:9/x.zip",
        "data_dir: ../outside",
        "data_dir: OUTSIDE",
    ],
)
def test_a_card_reaches_no_file_outside_its_data_set_and_no_address(tmp_path, monkeypatch, says, streaming):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was fetched"))
    for name in ("data", "outside"):
        (tmp_path / name).mkdir()
        datasets.Dataset.from_dict({"caption": [name]}).to_parquet(tmp_path / name / "secret.parquet")
    says = says.replace("OUTSIDE", str(tmp_path / "outside"))
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {says}\n---\n")
    with pytest.raises(InputError, match="names data outside of it"):
        load_images(tmp_path / "data", "train", streaming=streaming)
    with pytest.raises(InputError, match="names data outside of it"):
        read_captions(tmp_path / "data")


def test_a_decoder_fetches_no_address_whoever_hands_it_over(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it was fetched"))
    for path in (path for path in FOREIGN if "://" in path and not path.startswith("hf://")):
        with pytest.raises(ValueError, match="is an address and no file"):
            decode_image({"bytes": None, "path": path})


def test_a_stream_s_own_files_on_the_hub_are_read(monkeypatch):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    opened = []

    def on_the_hub(path, mode):
        opened.append(path)
        return io.BytesIO(stream.getvalue())

    monkeypatch.setattr(file_utils, "xopen", on_the_hub)
    path = "hf://datasets/me/photos@0123abc/train/cat/0.png"
    assert decode_image({"bytes": None, "path": path}).getpixel((0, 0)) == (255, 0, 0)
    assert opened == [path]
    with pytest.raises(ValueError, match="is an address"):
        decode_image({"bytes": None, "path": f"{path}::http://127.0.0.1:9/x"})
    assert opened == [path]


def test_pictures_in_a_folder_and_in_an_archive_are_its_own(tmp_path, monkeypatch):
    write_pictures(tmp_path / "photos", "red")
    archive = shutil.make_archive(str(tmp_path / "packed" / "train"), "zip", tmp_path / "photos")
    assert len(load_images(tmp_path / "photos", "train")) == 2
    packed = {"bytes": None, "path": f"zip://cat/0.png::{archive}"}
    assert decode_image(packed).getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "packed" / "README.md").write_text("---\nconfigs:\n- config_name: default\n  drop_labels: true\n---\n")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "packed")
    for place in (tmp_path / "photos", tmp_path / "packed", tmp_path / "link", "../photos", "../link"):
        loaded = load_images(place, "train").cast_column("image", datasets.Image(decode=False))
        assert [decode_image(cell).getpixel((0, 0)) for cell in loaded["image"][:]] == [(255, 0, 0)] * 2


RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "pgm"])
def test_sixteen_bits_keep_their_greys(tmp_path, suffix):
    Image.fromarray(RAMP).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    pixels = np.asarray(decode_image({"bytes": content, "path": None}))
    assert (pixels[..., 0] == np.arange(256).reshape(16, 16)).all()
    assert (pixels == pixels[..., :1]).all()


def test_a_range_is_read_from_the_file_or_the_picture_is_refused(tmp_path):
    twelve = Image.fromarray((RAMP // 16).astype(np.uint16))
    twelve.save(tmp_path / "twelve.tif")
    narrow = Image.open(tmp_path / "twelve.tif")
    narrow.load()
    narrow.tag_v2[258] = (12,)  # as a camera of 12 bits writes it; Pillow packs 16
    assert np.asarray(to_rgb(narrow))[..., 0].max() == 255
    shares = Image.fromarray((RAMP / 65535).astype(np.float32))
    shares.save(tmp_path / "shares.tif", tiffinfo={340: 0.0, 341: 1.0})
    with Image.open(tmp_path / "shares.tif") as known:
        assert (np.asarray(to_rgb(known))[..., 0] == np.arange(256).reshape(16, 16)).all()
    for unknown in (shares, Image.fromarray(RAMP.astype(np.int32))):
        with pytest.raises(InputError, match=f"mode '{unknown.mode}' has no range that says what is white"):
            to_rgb(unknown)


def test_sixteen_bits_that_use_only_eight_stay_dark_and_are_said_once(caplog):
    decoding._warn_of_low_bits.cache_clear()
    for dark in (np.zeros_like(RAMP), RAMP):
        to_rgb(Image.fromarray(dark))
    assert not caplog.records
    for _ in range(2):
        assert np.asarray(to_rgb(Image.fromarray(RAMP // 257))).max() == 1
    (record,) = caplog.records
    assert "only the values up to 255, while white is 65535" in record.getMessage()


def test_a_transparent_grey_of_sixteen_bits_shows_the_ground(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(to_rgb(picture))[..., 0].ravel()
    assert pixels[0] == 255 and list(pixels[1:]) == list(range(1, 256))


def test_pictures_are_turned_as_datasets_turns_them():
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        stream = io.BytesIO()
        picture.save(stream, "PNG", exif=exif)
        cell = {"bytes": stream.getvalue(), "path": None}
        expected = np.asarray(datasets.Image().decode_example(cell).convert("RGB"))
        assert (np.asarray(decode_image(cell)) == expected).all()
