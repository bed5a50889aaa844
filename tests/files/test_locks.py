import subprocess
import sys

import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.files.locks import LOCK, lock_folder

HOLD = """if True:
    import sys, time
    from stablerep_hf.files.locks import lock_folder
    with lock_folder(sys.argv[1]):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_is_written_by_one_process_until_that_dies(holder, tmp_path):
    with (
        pytest.raises(InputError, match=r"Another process is writing to '.*out': let it finish"),
        lock_folder(tmp_path / "out"),
    ):
        raise AssertionError
    holder.kill()
    holder.wait()
    assert (tmp_path / "out" / LOCK).exists()  # what it left holds nobody back
    with lock_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "out" / LOCK).exists()


def test_nothing_stays_of_a_folder_in_which_nothing_was_written(tmp_path):
    with pytest.raises(InputError, match="bad input"), lock_folder(tmp_path / "a" / "b"):
        raise InputError("bad input")
    assert list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]


def test_a_place_that_takes_no_folder_gets_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name in ("loop", "file", "x" * 300, "file/below"):
        with (
            pytest.raises(InputError, match=r"cannot be written in .*; name another folder"),
            lock_folder(tmp_path / name),
        ):
            raise AssertionError
