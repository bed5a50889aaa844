"""The README does what it says: its Python runs, its commands parse, its numbers are those of the result files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_two_commands_are_there():
    assert "make demo" in blocks("bash")[0]
    assert "make test" in blocks("bash")[0]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"demo", "test", "lint", "app"} <= set(targets)


def test_the_python_runs_and_what_it_makes_loads_without_this_package(tmp_path):
    make, load = blocks("python")
    for program in (
        make,
        "import sys; sys.modules['stablerep_hf'] = None\n" + load + "\nassert features.shape == (1, 96)",
    ):
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "quickstart" / "encoder" / "model.safetensors").exists()


def test_every_shown_command_parses(capsys):
    from stablerep_hf.cli.captions import CaptionsCommand
    from stablerep_hf.cli.evaluate import EvaluateCommand
    from stablerep_hf.cli.generate import GenerateCommand
    from stablerep_hf.cli.parsing import parse_command
    from stablerep_hf.cli.publish import PublishCommand
    from stablerep_hf.cli.reproduce import ReproduceCommand
    from stablerep_hf.cli.train import parse

    kinds = {
        "captions": CaptionsCommand,
        "evaluate": EvaluateCommand,
        "generate": GenerateCommand,
        "publish": PublishCommand,
        "reproduce": ReproduceCommand,
    }

    lines = " ".join(blocks("bash")).replace("\\\n", " ").splitlines()
    seen = set()
    for line in lines:
        words = shlex.split(line.partition("#")[0])
        launched = [place for place, word in enumerate(words) if word in ("stablerep", "stablerep_hf.cli")]
        if not launched:
            continue
        words = words[launched[0] :]
        seen.add(words[1])
        flags = words[2:]
        if words[1] == "train":
            parse([*flags, "--fp16", "false"])  # the preset's half precision needs a GPU
            continue
        while flags and not flags[0].startswith("-"):
            flags = flags[1:]
        parse_command([kinds[words[1]]], flags, name=words[1], description="")
    assert seen == {"captions", "generate", "train", "evaluate", "publish", "reproduce"}


def test_the_tables_are_those_of_the_result_files():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "update_readme.py", "--check"], capture_output=True)
    assert run.returncode == 0, "run scripts/update_readme.py"


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()
