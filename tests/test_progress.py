"""Progress: lines where there is no terminal, a bar where there is one, silence on request."""

import io
import os
import re
import sys
import time

import pytest
from waiting import wait_until

from stablerep_hf import progress
from stablerep_hf.cli import main
from stablerep_hf.progress import Progress, track


@pytest.fixture(autouse=True)
def _shown():
    progress.hide(False)  # a command with --quiet may have run in this process before


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_tell_how_far_how_fast_and_how_long(capsys, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("training", 1000, done=100) as shown:
        shown._started -= 10
        shown.advance(200, loss=2.34567)
        assert capsys.readouterr().err == "training: 300 of 1,000 images, 20 images/s, 0:35 left, loss 2.346\n"
        shown._started -= 10
        shown.advance(700)
    assert capsys.readouterr().err == "training: 1,000 of 1,000 images, 45 images/s, took 0:20, loss 2.346\n"


def test_a_line_comes_though_nothing_moves(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.02)
    with Progress("drawing", unit="caption") as shown:
        lines = []
        wait_until(lambda: lines.extend(capsys.readouterr().err.splitlines()) or len(lines) >= 3)
        assert lines[0] == "drawing: 0 captions, 0 captions/s, 0:00 so far"
    capsys.readouterr()
    shown.close()
    time.sleep(0.05)
    assert not capsys.readouterr().err, "nothing follows the end"


def test_a_terminal_gets_a_bar_with_values(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("training", 40) as shown:
        shown.advance(40, loss=0.5)
        progress.say("step 1: loss 0.5")
    assert re.search(r"training: 100%\|.*40/40 .*images/s, loss 0.5", terminal.getvalue())
    assert "step 1: loss 0.5\n" in terminal.getvalue()


def test_a_terminal_that_says_nothing_of_its_size_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(terminal, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    with Progress("training", 40) as shown:
        shown.advance(40)
    assert terminal.getvalue().startswith("training: 40 of 40 images, ")


def test_items_are_tracked_and_hidden_work_is_silent(capsys):
    assert list(track("abc", "reading", unit="file")) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("reading: 3 of 3 files, ")
    progress.hide()
    try:
        assert list(track("ab", "reading")) == ["a", "b"]
        progress.say("done")
    finally:
        progress.hide(False)
    assert list(track("ab", "reading", shown=False)) == ["a", "b"]
    assert not capsys.readouterr().err


def test_a_quiet_command_does_not_silence_the_next(tmp_path):
    for flags in (["--quiet"], []):
        assert main(["score", str(tmp_path / "nothing"), *flags]) == 2
        assert progress._hidden == bool(flags)
