import os
import shutil

import pytest
from painters import Painter

from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.images import load_images
from stablerep_hf.files import shards
from stablerep_hf.files.shards import check_shards
from stablerep_hf.synthesis import SynthesisPlan, export_parquet, synthesize


@pytest.fixture(autouse=True)
def _remembered_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf_home"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three shards: as they were drawn, of another seed, and exported."""
    root = tmp_path_factory.mktemp("drawn")
    captions = CaptionSet.from_texts(f"thing {number}" for number in range(6))
    for name, seed in (("store", 0), ("other", 1)):
        plan = SynthesisPlan(
            captions, Painter().describe(), images_per_caption=2, captions_per_shard=2, base_seed=seed
        )
        synthesize(plan, Painter(), root / name, progress=False)
    export_parquet(root / "store", root / "export", shard_bytes=1)
    return root


def names(folder):
    return sorted((folder / "data").iterdir()), sorted((folder / "provenance").glob("shard-*.json"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGES = {
    "deleted": (lambda rows, records, other: rows[1].unlink(), "is missing"),
    "deleted with its record": (lambda rows, records, other: (rows[1].unlink(), records[1].unlink()), "is missing"),
    "record deleted": (lambda rows, records, other: records[1].unlink(), "has no record"),
    "record torn": (lambda rows, records, other: records[1].write_text("{"), "has a damaged record"),
    "record a folder": (lambda rows, records, other: (records[1].unlink(), records[1].mkdir()), "damaged record"),
    "shard a folder": (lambda rows, records, other: (rows[1].unlink(), rows[1].mkdir()), "is missing"),
    "foreign": (lambda rows, records, other: shutil.copy(names(other)[0][1], rows[1]), r"bytes"),
    "foreign with its record": (
        lambda rows, records, other: [shutil.copy(names(other)[i][1], (rows, records)[i][1]) for i in (0, 1)],
        "has the record of another shard or data set",
    ),
    "copied over with its record": (
        lambda rows, records, other: [shutil.copy(part[0], part[1]) for part in (rows, records)],
        "has the record of another shard or data set",
    ),
    "swapped": (lambda rows, records, other: swap(rows[1], rows[2]), "bytes"),
    "cut": (lambda rows, records, other: os.truncate(rows[1], 100), "has 100 bytes where its record says"),
    "flipped": (lambda rows, records, other: flip(rows[1]), "has other bytes than its record says"),
    "extra": (lambda rows, records, other: shutil.copy(rows[1], rows[1].with_name("x.parquet")), "is no shard of"),
    "extra of another format": (
        lambda rows, records, other: rows[1].with_name("x.csv").write_text("image\n/etc/passwd\n"),
        "is no shard of",
    ),
    "extra folder": (lambda rows, records, other: rows[1].with_name("x.d").mkdir(), "is no shard of"),
    "all records and the plan deleted": (
        lambda rows, records, other: [path.unlink() for path in (*records, records[0].parent / "plan.json")],
        "missing or damaged",
    ),
    "plan deleted": (lambda rows, records, other: (records[0].parent / "plan.json").unlink(), "missing or damaged"),
    "link to itself": (lambda rows, records, other: (rows[1].unlink(), rows[1].symlink_to(rows[1])), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_the_name_of_its_file(drawn, tmp_path, damage):
    folder = shutil.copytree(drawn / "store", tmp_path / "images")
    check_shards(folder)
    harm, said = DAMAGES[damage]
    harm(*names(folder), drawn / "other")
    with pytest.raises(InputError, match=rf"'(train-00001-of-00003|x|plan)\.\w+' of .*{said}.*verify .* --repair"):
        check_shards(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda files: files[0].unlink(), "is missing"),
        (lambda files: flip(files[0]), "has other bytes"),
        (lambda files: os.truncate(files[0], 9), "has 9 bytes where manifest/files.json says"),
        (lambda files: shutil.copy(files[0], files[0].with_name("train-other.parquet")), "is no shard"),
        (lambda files: (files[0].parents[1] / "manifest" / "files.json").write_text("[]"), "is damaged"),
    ],
)
def test_so_is_an_exported_one(drawn, tmp_path, damage, said):
    folder = shutil.copytree(drawn / "export", tmp_path / "images")
    check_shards(folder)
    damage(sorted((folder / "data").iterdir()))
    with pytest.raises(InputError, match=f"{said}.*: export the data set again"):
        check_shards(folder)


@pytest.mark.parametrize("damage", ["deleted", "flipped", "extra", "swapped", "record deleted"])
@pytest.mark.parametrize("streaming", [False, True])
def test_whatever_reads_images_checks_them(drawn, tmp_path, damage, streaming):
    folder = shutil.copytree(drawn / "store", tmp_path / "images")
    assert load_images(folder, "train", streaming=streaming).features["image"]
    DAMAGES[damage][0](*names(folder), drawn / "other")
    with pytest.raises(InputError, match="--repair"):
        load_images(folder, "train", streaming=streaming)


def test_several_wrong_files_are_counted(drawn, tmp_path):
    folder = shutil.copytree(drawn / "store", tmp_path / "images")
    for path in names(folder)[0]:
        path.unlink()
    with pytest.raises(InputError, match=r"'train-00000-of-00003.parquet' .* is missing, and 2 more files are wrong:"):
        check_shards(folder)


def test_a_file_is_read_once_until_it_is_written_again(drawn, tmp_path, monkeypatch):
    folder = shutil.copytree(drawn / "store", tmp_path / "images")
    read = []
    sha256_of = shards.sha256_of
    monkeypatch.setattr(shards, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    check_shards(folder)
    assert len(read) == 3
    check_shards(folder)
    assert len(read) == 3
    path = names(folder)[0][2]
    path.write_bytes(path.read_bytes())
    check_shards(folder)
    assert read[3:] == [path.name]


def test_other_peoples_folders_and_hub_ids_are_left_alone(tmp_path):
    check_shards("owner/name")
    check_shards(tmp_path)
    (tmp_path / "provenance").mkdir()
    (tmp_path / "provenance" / "notes.txt").write_text("mine")
    check_shards(tmp_path)
