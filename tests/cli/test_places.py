"""Folders that a command may write into."""

import pytest
from tiny_training import TRAIN_FLAGS

from stablerep_hf.errors import InputError
from stablerep_hf.files.places import check_owned


@pytest.mark.parametrize("inside", [[], [".git", ".DS_Store"], ["checkpoints"], ["training.json", "README.md"]])
def test_a_folder_is_free_or_was_begun_by_the_command(tmp_path, inside):
    for name in inside:
        (tmp_path / name).mkdir()
    check_owned(tmp_path, "training.json")
    check_owned(tmp_path / "new", "training.json", str(tmp_path / "data"))


def test_a_folder_with_anything_else_is_somebody_s(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes\.md' and no 'training\.json'"):
        check_owned(tmp_path, "training.json")


def test_the_data_s_folder_is_not_written_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (tmp_path, tmp_path / "new", "link/below/new"):
        with pytest.raises(InputError, match=r"lies in the folder of the data, \., whose content it would change"):
            check_owned(output, "training.json", "embedded", ".")
    check_owned("alice", "training.json", "alice")  # a data set of the Hub


@pytest.mark.parametrize("command", ["generate", "generate --dry_run", "train", "finetune"])
def test_what_others_wrote_stays_as_it_is(stablerep, trained, grouped_folder, labelled_folder, tmp_path, command):
    (tmp_path / "README.md").write_text("# my project")
    arguments = {
        "train": ["--data", grouped_folder, *TRAIN_FLAGS],
        "finetune": [trained, "--data", labelled_folder, "--use_cpu"],
    }
    name, *flags = command.split()
    code, _, error = stablerep(name, *arguments.get(name, []), *flags, "--output", tmp_path)
    assert code == 2 and "holds 'README.md'" in error
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "# my project"


@pytest.mark.parametrize(
    "line",
    [
        "train --data DATA",
        "finetune embedded --data DATA",
        "evaluate embedded --data DATA",
        "embed embedded --data DATA",
        "index DATA embedded",
        "blend embedded embedded --data DATA --general-data embedded",
        "blend embedded embedded --data embedded --general-data DATA",
        "retrieve --captions embedded --data DATA --encoder embedded",
        "adapt-generator --data DATA --license mit",
        "export DATA",
        "captions DATA",
        "generate --captions DATA",
    ],
)
def test_the_output_is_not_in_the_data(stablerep, labelled_folder, line):
    before = sorted(labelled_folder.rglob("*"))
    words = [labelled_folder if word == "DATA" else word for word in line.split()]
    for output in (labelled_folder / "x.parquet", labelled_folder / "below" / "x.parquet"):
        code, _, error = stablerep(*words, "--output", output)
        assert code == 2 and "lies in the folder of the data" in error, error
        assert sorted(labelled_folder.rglob("*")) == before


@pytest.mark.parametrize("line", ["train --data embedded", "finetune embedded --data embedded", "generate"])
def test_a_loop_of_links_takes_no_output(stablerep, tmp_path, line):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, _, error = stablerep(*line.split(), "--output", tmp_path / "loop")
    assert code == 2 and "name another" in error and error.count("\n") == 1, error
