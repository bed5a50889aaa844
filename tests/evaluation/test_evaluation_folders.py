"""Folders as people have them: which file belongs to which split, and what is not read."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from PIL import Image, features

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import folders
from stablerep_hf.evaluation.images import check_splits, image_splits, load_images


def picture(kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(stream, kind)
    return stream.getvalue()


def fill(root, *places):
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("AVIF" if path.suffix == ".avif" else "PNG"))
    return root


def names_of(loaded):
    label = loaded.features["label"]
    return [label.names[number] for number in loaded["label"]]


@pytest.mark.parametrize("root", ["v", "a train, of [brackets]/test v*"])
def test_a_class_called_as_a_split_is_no_split(tmp_path, root):
    folder = fill(
        tmp_path / root,
        *(
            f"{split}/{name}/{n}.png"
            for split in ("train", "test")
            for name in ("bus", "train", "test")
            for n in "0123"
        ),
    )
    assert image_splits(folder) == ["test", "train"]
    for split in ("train", "test"):
        assert names_of(load_images(folder, split)) == ["bus"] * 4 + ["test"] * 4 + ["train"] * 4


def test_class_folders_without_splits_are_all_loaded(tmp_path):
    folder = fill(tmp_path / "v", *(f"{name}/{n}.png" for name in ("bus", "car", "train") for n in "01"))
    assert image_splits(folder) == ["train"]
    assert names_of(load_images(folder, "train")) == ["bus", "bus", "car", "car", "train", "train"]
    assert len(load_images(folder, "train", streaming=True).take(9)._head(9)["image"]) == 6


def test_words_inside_names_say_nothing(tmp_path):
    folder = fill(tmp_path / "v", "test_1.png", "train station.png", "a/val.png")
    assert image_splits(folder) == ["train"]
    assert len(load_images(folder, "train")) == 3


@pytest.mark.parametrize("names", [("train2017", "val2017"), ("Train", "dev"), ("images/train", "images/valid")])
def test_usual_names_of_splits_are_known_and_are_no_classes(tmp_path, names):
    folder = fill(tmp_path / "v", *(f"{name}/{n}.JPG" for name in names for n in "01"))
    assert image_splits(folder) == ["train", "validation"]
    validation = load_images(folder, "validation")
    assert len(validation) == 2 and validation.column_names == ["image"]


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (["train/a/0.png", "test/a/0.png", "extra/a/0.png"], "'extra' is none of train, validation and test"),
        (["train/a/0.png", "test/a/0.png", "0.png"], "'0.png' is none of train"),
        (["train_images/0.png", "test_images/0.png"], "look like splits and are not named as such"),
        (["cars_train.parquet", "cars_test.parquet"], "look like splits and are not named as such"),
        (["train.parquet", "more.parquet"], "'more.parquet' is none of train"),
        (["notes.txt", "a.heic"], r"holds no image and no table that can be read \(1 .heic .*, 1 .txt cannot\)"),
    ],
)
def test_a_file_in_no_split_is_refused(tmp_path, monkeypatch, places, says):
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=says):
        load_images(fill(tmp_path, *places), "train")


def test_tables_are_named_by_their_split(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "hidden-00000-of-00001", "test"):
        pq.write_table(pa.table({"image": [{"bytes": picture(), "path": "x"}]}), tmp_path / f"{name}.parquet")
    assert image_splits(tmp_path) == ["hidden", "test", "train"]
    assert [len(load_images(tmp_path, split)) for split in ("train", "hidden", "test")] == [2, 1, 1]


def test_what_is_not_read_is_counted_and_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    fill(
        tmp_path, "a/0.png", "a/1.png", "b/0.png", "a/2.heic", "b/3.HEIC", "a/0.txt", "b/c.mp4", "README.md", ".x.png"
    )
    (tmp_path / "README.md").write_text("my cats\n")
    assert len(load_images(tmp_path, "train")) == 3
    assert "not read: 2 .heic (`pip install pillow-heif` to read them), 1 .mp4, 1 .txt." in caplog.text


def test_avif_is_loaded_beside_other_pictures_and_described_by_metadata(tmp_path):
    fill(tmp_path, "a.png")
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "b.avif")
    assert len(load_images(tmp_path, "train")) == 2
    (tmp_path / "metadata.csv").write_text("file_name,caption\nb.avif,a blue thing\n")
    (row,) = load_images(tmp_path, "train")
    assert row["caption"] == "a blue thing" and row["image"].convert("RGB").getpixel((3, 3))[2] > 240


def test_captions_of_metadata_are_read_as_written(tmp_path, caplog):
    fill(tmp_path, *(f"{n}.png" for n in range(4)))
    file = tmp_path / "metadata.csv"
    file.write_text('file_name,caption\n0.png,None\n1.png,"nan, or NA"\n2.png,null\n3.png,\n')
    for streaming in (False, True):
        rows = list(load_images(tmp_path, "train", streaming=streaming))
        assert [row["caption"] for row in rows] == ["None", "nan, or NA", "null", None]
    assert not caplog.records
    file.write_text("file_name,caption\n0.png,a red heart, on a blue ground\n")
    for streaming in (False, True):
        with pytest.raises(InputError, match=r"metadata.csv' has 3 fields, but the first line names 2: put"):
            load_images(tmp_path, "train", streaming=streaming)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("csv", "file_name,mask_file_name\n0.png,1.png\n0.png,1.png\n"),
        ("jsonl", '{"file_names": ["0.png", "1.png"]}\n'),
    ],
)
def test_images_that_no_metadata_names_are_counted_and_said(tmp_path, caplog, name, text):
    fill(tmp_path, *(f"{n}.png" for n in range(4)))
    (tmp_path / f"metadata.{name}").write_text(text)
    for _ in range(2):  # also of what lies in the cache
        load_images(tmp_path, "train[:1]")
        assert caplog.messages.pop() == f"2 images in {tmp_path} are not read: no metadata file names them."
        caplog.clear()


def test_a_split_of_one_class_has_labels(tmp_path):
    fill(tmp_path, "test/cat/0.png", "train/cat/0.png", "train/dog/0.png")
    for streaming in (False, True):
        loaded = load_images(tmp_path, None, streaming=streaming)
        assert [row["label"] for row in loaded["test"]] == [0] and [row["label"] for row in loaded["train"]] == [0, 1]


@pytest.mark.parametrize(("link", "target"), [("test", "train"), ("test", "train/cat"), ("val", "train")])
def test_a_link_that_puts_files_into_two_splits_is_refused(tmp_path, link, target):
    fill(tmp_path, "train/cat/0.png", "train/dog/0.png")
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="is in the data set twice, by a link, so that"):
        load_images(tmp_path, "train")


def test_a_loop_of_links_ends(tmp_path):
    fill(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert len(load_images(tmp_path, "train")) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_structs_of_bytes_and_path_are_images(tmp_path, streaming):
    pq.write_table(pa.table({"image": [{"bytes": picture(), "path": "x"}] * 2}), tmp_path / "train.parquet")
    loaded = load_images(tmp_path, "train", streaming=streaming)
    assert type(loaded.features["image"]).__name__ == "Image"
    assert next(iter(loaded))["image"].size == (4, 4)


def test_damaged_folders_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="Parquet file size is 4 bytes"):
        load_images(tmp_path, "train")
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.tar").write_bytes(b"no archive")
    with pytest.raises(InputError, match="truncated header"):
        load_images(tmp_path, "train")
    (tmp_path / "train.tar").unlink()
    (tmp_path / "train.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(InputError, match="Expected 2 fields in line 3, saw 3"):
        load_images(tmp_path, "train")
    (tmp_path / "train.csv").rename(tmp_path / "data.py")
    with pytest.raises(InputError, match="Dataset scripts are no longer supported"):
        load_images(tmp_path / "data.py", "train")
    (tmp_path / "README.md").write_text("---\n: {\n---\n")
    with pytest.raises(InputError, match="does not begin with YAML"):
        load_images(tmp_path, "train")


def test_a_card_that_counts_other_images_is_refused(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": picture(), "path": "x"}] * 2}), tmp_path / "train.parquet")
    counts = "dataset_info:\n  splits:\n  - name: train\n    num_bytes: 9\n    num_examples: 3\n"
    card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.parquet\n"
    (tmp_path / "README.md").write_text(f"---\n{card}{counts}---\n")
    with pytest.raises(InputError, match="counts other images than its files hold"):
        load_images(tmp_path, "train")


def test_pickles_in_an_archive_are_never_opened(tmp_path):
    with tarfile.open(tmp_path / "train-0000.tar", "w") as archive:
        for name, content in (("0.png", picture()), ("0.pkl", b"cos\nsystem\n(S'touch pwned'\ntR.")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (row,) = load_images(tmp_path, "train")
    assert row["pkl"].startswith(b"cos") and row["png"].size == (4, 4)


def test_a_backslash_in_the_name_of_a_file_takes_no_label(tmp_path):
    folder = fill(tmp_path / "v", "cat/a\\1.png", "cat/b.png", "dog/a.png", "dog/c\\d\\e.png")
    assert names_of(load_images(folder, "train")) == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("card", ["", "license: mit", "configs: [{config_name: default, data_files: '*/*.png'}]"])
def test_the_folder_in_which_one_stands_has_a_card(tmp_path, monkeypatch, card):
    folder = fill(tmp_path / "v", "cat/1.png", "dog/1.png")
    (folder / "README.md").write_text(f"---\n{card}\n---\n# Mine\n" if card else "# Mine\n")
    monkeypatch.chdir(folder)
    assert image_splits(".") == ["train"]
    assert len(load_images(".", "train")) == 2
    check_splits(".", "train")
    with pytest.raises(InputError, match="cannot give the split 'test', it has 'train'"):
        check_splits(".", "test")


ON_THE_HUB = """
from stablerep_hf.evaluation.images import check_splits, image_splits, load_images
print(image_splits("alice/photos"))
check_splits("alice/photos", "train[:50%]+test")
for split in ("train", "test"):
    for streaming in (False, True):
        loaded = load_images("alice/photos", split, streaming=streaming)
        names = loaded.features["label"].names
        print(split, sorted(names[row["label"]] for row in loaded))
"""


def test_images_on_the_hub_are_sorted_as_those_of_a_folder(hub_here, tmp_path):
    api, data = HfApi(), {"repo_id": "alice/photos", "repo_type": "dataset"}
    kinds = ["0.png", "1.avif" if features.check("avif") else "1.png"]
    places = [f"{split}/{name}/{kind}" for split in ("train", "test") for name in ("bus", "train") for kind in kinds]
    api.create_repo(**data)
    api.upload_folder(folder_path=fill(tmp_path / "v", *places), **data)
    words = [sys.executable, "-c", ON_THE_HUB]
    environment = hub_here.environment(tmp_path / "home") | {"HF_TOKEN": "hf_alice"}
    ran = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = "['bus', 'bus', 'train', 'train']"
    assert ran.stdout.splitlines() == ["['test', 'train']", *[f"train {found}"] * 2, *[f"test {found}"] * 2]


def test_class_folders_at_different_depths_are_said_to_name_no_classes(tmp_path, caplog):
    fill(tmp_path / "uneven", "cat/a.png", "cat/b.png", "dog/brown/c.png")
    fill(tmp_path / "even", "cat/white/a.png", "cat/white/b.png", "dog/brown/c.png")
    assert load_images(tmp_path / "uneven", "train").column_names == ["image"]
    (record,) = caplog.records
    assert "different depths (cat/b.png and dog/brown/c.png): move them to one depth" in record.getMessage()
    assert load_images(tmp_path / "even", "train").features["label"].names == ["brown", "white"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "named",
    ["'*/*.png'", "[{split: train, path: ['cat/*.png']}, {split: test, path: 'dog/*.png'}]"],
)
def test_a_card_names_the_files_of_a_folder_with_brackets_in_its_name(tmp_path, named):
    folder = fill(tmp_path / "photos [1] * of mine", "cat/1.png", "dog/1.png")
    (folder / "README.md").write_text(f"---\nconfigs: [{{config_name: default, data_files: {named}}}]\n---\n")
    assert len(load_images(folder, "train")) == (1 if "cat" in named else 2)
    assert len(list(load_images(folder, "train", streaming=True))) == (1 if "cat" in named else 2)
    assert image_splits(folder) == (["train", "test"] if "test" in named else ["train"])
    with pytest.raises(InputError, match="cannot give the split 'dev'"):
        check_splits(folder, "dev")


def test_class_folders_in_an_archive_are_read_or_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for name in ("bus/0.png", "car/0.png"):
            archive.writestr(name, picture())
    with pytest.raises(InputError, match="class folders in an archive: unpack that"):
        load_images(tmp_path, "train")
