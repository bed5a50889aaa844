import errno
import fcntl
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


CONTEND = """if True:
    import os, sys, time
    from stablerep_hf.errors import InputError
    from stablerep_hf.files.locks import lock_folder
    folder, held, end = sys.argv[1], 0, time.monotonic() + 2
    while time.monotonic() < end:
        try:
            with lock_folder(folder):
                os.close(os.open(folder + ".alone", os.O_CREAT | os.O_EXCL))
                os.unlink(folder + ".alone")
                held += 1
        except InputError:
            pass
    print(held)
"""


def test_two_never_hold_a_folder_however_often_it_changes_hands(tmp_path):
    words = [sys.executable, "-c", CONTEND, str(tmp_path / "out")]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    assert sum(int(held) for held, _ in told) > 100


def test_who_opened_the_file_before_it_was_removed_does_not_hold_the_folder(tmp_path, monkeypatch):
    flock, others = fcntl.flock, []

    def late(lock, how):
        if not others:  # the holder goes, and another comes, between the opening and the locking
            (tmp_path / LOCK).unlink()
            others.append((tmp_path / LOCK).open("w"))
            flock(others[0], fcntl.LOCK_EX)
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="Another process"), lock_folder(tmp_path):
        raise AssertionError


def test_shared_locks_keep_out_only_those_who_want_a_folder_for_themselves(tmp_path):
    with lock_folder(tmp_path, shared=True):
        with lock_folder(tmp_path, shared=True):
            pass
        with pytest.raises(InputError, match="Another process"), lock_folder(tmp_path):
            raise AssertionError
    with lock_folder(tmp_path), pytest.raises(InputError, match="Another process"), lock_folder(tmp_path, shared=True):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_has_the_holder_written_down(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path), pytest.raises(InputError, match="Another process"), lock_folder(tmp_path):
        raise AssertionError
    with lock_folder(tmp_path):
        pass
