"""README and docs do what they say: their code runs, their commands parse, their numbers are those of result files."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from datasets import load_dataset
from stranger import run_as_stranger

from stablerep_hf import assets, read_captions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "spaces" / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "README.md", *DOCS.rglob("*.md"))
}
README, TASKS = PAGES["README.md"], PAGES["spaces/docs/tasks.md"]
GUIDES = "\n".join(text for name, text in PAGES.items() if "/guides/" in name)


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_is_short():
    assert len(README.encode()) <= 9000


def test_the_two_commands_are_there():
    assert "make demo" in blocks("bash", README)[0]
    assert "make test" in blocks("bash", README)[0]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {"demo", "test", "lint", "app"} <= set(targets)


def test_the_python_runs_and_what_it_makes_loads_without_this_package(tmp_path):
    make, load = blocks("python", README)
    for program in (
        make,
        "import sys; sys.modules['stablerep_hf'] = None\n" + load + "\nassert features.shape == (1, 96)",
    ):
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "quickstart" / "encoder" / "model.safetensors").exists()


def test_every_shown_command_parses():
    lines = " ".join(blocks("bash", README + GUIDES)).replace("\\\n", " ").splitlines()
    seen = set()
    for line in lines:
        words = shlex.split(line.partition("#")[0])
        launched = [place for place, word in enumerate(words) if word in ("stablerep", "stablerep_hf.cli")]
        if not launched:
            continue
        name, *flags = words[launched[0] + 1 :]
        seen.add(name)
        gpu = ["--fp16", "false"] if name == "train" else []  # the preset's half precision needs a GPU
        importlib.import_module(f"stablerep_hf.cli.{name.replace('-', '_')}").COMMAND.parse([*flags, *gpu])
    shown = "captions demo-app evaluate finetune generate index publish reproduce train"
    assert seen >= set(shown.split())


def test_every_command_that_draws_at_scale_names_its_generator():
    commands = " ".join(blocks("bash", README + GUIDES)).replace("\\\n", " ")
    drawing = re.findall(r"(?:stablerep|stablerep_hf\.cli) generate .*", commands)
    assert len(drawing) == 13
    named = re.compile("--generator (stabilityai/|stable-diffusion|https://|inference:)")
    assert all(named.search(command) for command in drawing)


def test_the_table_of_extras_is_that_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    table = PAGES["spaces/docs/install.md"]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(extras)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """What the guide takes as given: captions, labelled photos, captioned drawings."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "captions.txt").write_text("a red heart\na green apple\na blue car\na smiling face\n")
    pictures = load_dataset(str(assets.pictograms_path()), split="held_out_artist").select(range(40))
    for split, numbers in (("train", range(0, 12)), ("test", range(12, 16))):
        for row in numbers:
            for kind, start in (("cat", 0), ("dog", 20)):
                place = folder / "photos" / split / kind
                place.mkdir(parents=True, exist_ok=True)
                pictures[start + row]["image"].save(place / f"{row - numbers[0]}.png")
    (folder / "drawn-by-me").mkdir()
    pictures.select(range(6)).select_columns(["image", "caption"]).to_parquet(folder / "drawn-by-me" / "train.parquet")
    return folder


def test_every_python_block_runs_in_a_test():
    """README's and the task page's run in tests of their own; a new page with code needs one, too."""
    others = {name for name, text in PAGES.items() if blocks("python", text)} - {"README.md", "spaces/docs/tasks.md"}
    assert others == {"spaces/docs/guides/captions.md"}


def test_the_captions_guide_runs(tmp_path, monkeypatch, capsys):
    (program,) = blocks("python", PAGES["spaces/docs/guides/captions.md"])
    (tmp_path / "captions.txt").write_text("a red heart\nsee www.example.com\n" + "a long one " * 20)
    (tmp_path / "concepts.txt").write_text("heart\n")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert capsys.readouterr().out == "{'personal: URL': 1, 'too long': 1}\n"
    assert read_captions("captions.parquet").captions == ["a red heart"]
    assert Path("captions.audit.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "said"), [("my_first_encoder", "kNN accuracy"), ("my_captions_to_a_search_page", "a red heart\n")]
)
def test_the_notebooks_run(notebook, said, tmp_path):
    assert f"scripts/notebooks/{notebook}.py" in README and f"notebooks/{notebook}.py" in PAGES["spaces/docs/tasks.md"]
    path = ROOT / "scripts" / "notebooks" / f"{notebook}.py"
    run = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    assert said in run.stdout


@pytest.mark.timeout(900)  # a dozen commands, each of which loads PyTorch anew
@pytest.mark.slow
def test_the_guide_by_task_runs_as_it_stands(tasks):
    commands = "\n".join(blocks("bash", TASKS))
    scripts = Path(sysconfig.get_path("scripts"))
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(tasks / "home"),
        "HF_DATASETS_CACHE": str(tasks / "home" / "datasets"),
    }
    run = subprocess.run(
        ["bash", "-euc", commands], cwd=tasks, env=environment, capture_output=True, text=True, timeout=800
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "classification accuracy" in run.stdout
    (program,) = blocks("python", TASKS)
    run_as_stranger(program + "\nassert {answer['label'] for answer in answers} == {'cat', 'dog'}", folder=tasks)


def test_the_tables_are_those_of_the_result_files():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "update_tables.py", "--check"], capture_output=True)
    assert run.returncode == 0, "run scripts/update_tables.py"


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name):
    for path in re.findall(r"\]\(((?!https?:)[^)#]+)(?:#[^)]*)?\)", PAGES[name]):
        assert ((ROOT / name).parent / path).exists(), path


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Every reference inside the site leads somewhere, and every docstring is well-formed."""
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    run = subprocess.run(build, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    assert "MultiPositiveContrastiveLoss" in (tmp_path / "reference" / "losses.html").read_text()
    assert (tmp_path / "README.md").read_text().startswith("---\ntitle: stablerep_hf documentation")
