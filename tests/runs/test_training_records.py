"""What tells a training run from others, and what it pushes when it is done."""

import errno
import json
import shutil

import pytest
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny_training import TRAIN_FLAGS
from training_data import make_dataset

from stablerep_hf.errors import InputError
from stablerep_hf.runs.content import content_of, is_content, readable_data_errors
from stablerep_hf.runs.record import contents_of, read_record, write_record

PUSH = ["--push_to_hub", "--hub_model_id", "alice/run", "--hub_strategy", "end"]


pytestmark = pytest.mark.usefixtures("hub_here")


@pytest.fixture
def train(stablerep, grouped_folder, tmp_path):
    def run(*flags, data=grouped_folder, output=tmp_path / "encoder", code=0):
        result = stablerep("train", "--data", data, "--output", output, *TRAIN_FLAGS, "--disable_tqdm", "true", *flags)
        assert result[0] == code, result
        return result[2]

    return run


def record_of(folder):
    return json.loads((folder / "training.json").read_text())


def test_a_folder_is_known_again_elsewhere_by_what_is_in_it(grouped_folder, tmp_path):
    moved = shutil.copytree(grouped_folder, tmp_path / "moved")
    (moved / "README.md").write_text("another card")
    (moved / ".cache").mkdir()
    (moved / ".cache" / "seen").write_text("")
    assert content_of(str(moved)) == content_of(str(grouped_folder))
    make_dataset([4] * 13).to_parquet(moved / "train.parquet")
    assert content_of(str(moved)) != content_of(str(grouped_folder))
    assert content_of("alice/drawings") == "alice/drawings"


def test_a_repository_is_known_by_its_files(hub_here, grouped_folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    api, data = HfApi(), {"repo_id": "alice/drawings", "repo_type": "dataset"}
    api.create_repo(**data)
    api.upload_folder(folder_path=grouped_folder, **data)
    settings = {"data": "alice/drawings", "split": "train", "tokenizer": "embedded"}
    began = contents_of(settings)
    assert began.keys() == {"data"} and is_content(began["data"])
    write_record(tmp_path / "training.json", {"settings": settings, "contents": began})
    api.upload_file(path_or_fileobj=b"# Drawings", path_in_repo="README.md", **data)
    assert contents_of(settings) == began
    make_dataset([4] * 13).to_parquet(tmp_path / "more.parquet")
    api.upload_file(path_or_fileobj=tmp_path / "more.parquet", path_in_repo="train.parquet", **data)
    with pytest.raises(
        InputError, match=r"whose data=alice/drawings has changed since it began \(content .* then, con"
    ):
        read_record(tmp_path, "training.json", settings, contents_of(settings))
    both = {"data": ["alice/drawings", str(grouped_folder)]}
    parts = contents_of(both)["data"].split(" + ")
    assert list(map(is_content, parts)) == [True, True]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert contents_of(settings) == {}
    assert contents_of(both)["data"].split(" + ") == ["alice/drawings", parts[1]]
    assert read_record(tmp_path, "training.json", settings, {})["contents"] == began


def test_a_model_is_known_by_its_weights(tmp_path):
    import torch

    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    before = content_of(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state.json").write_text("{}")
    assert content_of(str(tmp_path)) == before
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert content_of(str(tmp_path)) != before


def test_big_data_is_known_by_names_and_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr("stablerep_hf.runs.content._MOST_BYTES", 4)
    (tmp_path / "a.tar").write_bytes(b"12345")
    before = content_of(str(tmp_path))
    (tmp_path / "a.tar").write_bytes(b"123456")
    assert content_of(str(tmp_path)) != before


@pytest.mark.parametrize("flags", [[], ["--projection_dim", "4"]], ids=["data", "model"])
def test_the_checkpoint_of_another_training_is_not_taken_from_the_hub(train, grouped_folder, tmp_path, flags):
    """Also where nobody chose the repository's name: it is the output folder's."""
    train("--push_to_hub", "--hub_always_push", output=tmp_path / "here" / "encoder")
    head = HfApi().model_info("alice/encoder").sha
    others = grouped_folder
    if not flags:
        others = tmp_path / "others"
        make_dataset([4] * 20).select(range(32, 80)).to_parquet(others / "train.parquet")
    output = tmp_path / "there" / "encoder"
    error = train("--push_to_hub", *flags, data=others, output=output, code=2)
    other = "--projection-dim 8" if flags else "--data "
    assert f"alice/encoder holds a checkpoint of a training run with {other}" in error
    assert not (output / "training.json").exists()
    assert HfApi().model_info("alice/encoder").sha == head, "nothing was pushed over it"


def test_the_same_data_elsewhere_goes_on_from_the_hub(train, grouped_folder, tmp_path):
    train("--push_to_hub", "--hub_always_push", output=tmp_path / "here" / "encoder")
    moved = shutil.copytree(grouped_folder, tmp_path / "moved")
    train("--push_to_hub", data=moved, output=tmp_path / "there" / "encoder")
    assert record_of(tmp_path / "there" / "encoder")["seconds"] is None


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [("POST", "/commit/", 403, "may not write there"), ("PUT", "/storage/upload/", 507, "run the command again")],
)
def test_a_push_that_fails_at_the_end_loses_nothing_and_is_made_up_for(
    train, hub_here, tmp_path, method, path, status, said
):
    hub_here.fail(method, path, status=status)
    error = train(*PUSH, "--save_strategy", "no", code=2)
    assert error.startswith("stablerep train: Publishing alice/run stopped: ") and said in error
    record = record_of(tmp_path / "encoder")
    assert record["finished"] and "pushed" not in record
    assert (tmp_path / "encoder" / "model.safetensors").exists()
    train(*PUSH, "--save_strategy", "no")
    again = record_of(tmp_path / "encoder")
    assert again == record | {"pushed": {"repository": "alice/run", "revision": None}}, "it was not trained again"
    pushed = hub_here.files("alice/run")
    assert pushed["model.safetensors"] == (tmp_path / "encoder" / "pretraining" / "model.safetensors").read_bytes()
    asked = len(hub_here.requests())
    train(*PUSH, "--save_strategy", "no")
    assert len(hub_here.requests()) == asked, "what is there is not pushed again"


def test_the_card_on_the_hub_is_the_card_here(train, hub_here, tmp_path):
    train(
        "--push_to_hub", "--hub_model_id", "alice/run", "--license", "mit", "--ema_decay", "0.9", "--save_steps", "6"
    )
    files = hub_here.files("alice/run")
    here = (tmp_path / "encoder" / "pretraining" / "README.md").read_text()
    assert files["README.md"].decode() == here.replace("path/to/this/folder", "alice/run")
    assert record_of(tmp_path / "encoder")["data"]["revision"] in here
    under_way = files["last-checkpoint/README.md"].decode()
    for line in here.splitlines():
        if line.startswith(("license:", "| data set", "| revision of the data", "| parameters", "| size", "| steps")):
            assert line in under_way
    assert "ema.safetensors" not in files


def test_a_licence_that_is_none_is_refused_before_the_training(train, tmp_path):
    for license in ("other", ""):
        assert "names none" in train("--license", license, code=2)
    assert not (tmp_path / "encoder").exists()


def test_another_licence_is_another_card_and_no_other_training(train, hub_here, tmp_path):
    train(*PUSH)
    record = record_of(tmp_path / "encoder")
    train(*PUSH, "--license", "mit")
    again = record_of(tmp_path / "encoder")
    assert again.pop("settings") == record.pop("settings") | {"license": "mit"}
    assert again == record
    for card in (tmp_path / "encoder" / "README.md", tmp_path / "encoder" / "pretraining" / "README.md"):
        assert "\nlicense: mit\n" in card.read_text()
    assert b"\nlicense: mit\n" in hub_here.files("alice/run")["README.md"]


def test_data_that_stops_coming_is_no_failed_push(train, monkeypatch):
    def read_on(*_args, **_kwargs):
        HfApi().dataset_info("alice/gone")

    monkeypatch.setattr("stablerep_hf.training.StableRepTrainer.train", read_on)
    error = train(code=2)
    assert error.startswith("stablerep train: Reading --data ") and "run the same command again" in error
    assert "http" not in error, "an address may be signed"


def test_a_pipe_that_breaks_is_no_data_that_stops_coming():
    with pytest.raises(BrokenPipeError), readable_data_errors("alice/drawings"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    sentence = r"Reading data=alice/drawings stopped \(Server Disconnected\): run"
    with pytest.raises(InputError, match=sentence), readable_data_errors("alice/drawings"):
        raise ConnectionError("Server Disconnected")  # what `datasets` says after its last try
