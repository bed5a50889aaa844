import errno

import pytest
import safetensors.torch
import torch

from stablerep_hf.errors import InputError
from stablerep_hf.files.atomic import readable_disk_errors, replacing


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def write_torch_to_file(path):
    class Full:
        write = full

    torch.save({"x": torch.zeros(9)}, Full())


def rust(path):
    raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def torch_to_path(path):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def quota(path):
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


def numpy_to_file(path):
    raise OSError("9216 requested and 8160 written")


def limit(path):
    raise OSError(errno.EFBIG, "File too large")


@pytest.mark.parametrize("write", [full, write_torch_to_file, rust, torch_to_path, quota, numpy_to_file, limit])
def test_a_full_disk_is_one_sentence_whoever_says_so(tmp_path, write):
    unknown = r"no room left for 'out' in .*, which takes more than the [\d,.]+ MB"
    with pytest.raises(InputError, match=unknown), readable_disk_errors(tmp_path / "out"):
        write(tmp_path / "out")
    known = r"takes about 2\.5 MB while [\d,.]+ MB are free: free some and run the same"
    with pytest.raises(InputError, match=known), replacing(tmp_path / "out", 2_500_000) as file:
        file.write(b"begun")
        write(file)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_and_sentences_pass(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), readable_disk_errors(tmp_path):
        raise RuntimeError("something else")
    with pytest.raises(InputError, match=r"^its own sentence$"), readable_disk_errors(tmp_path):
        try:
            full()
        except OSError as error:
            raise InputError("its own sentence") from error


@pytest.mark.parametrize("name", ["loop", "folder", "x" * 300])
def test_a_place_that_takes_no_file_is_one_sentence(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written in"), replacing(tmp_path / name / "x") as file:
        if name == "folder":
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        file.write(b"x")
