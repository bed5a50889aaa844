"""`stablerep publish space`: what arrives at the Hub is a page that runs by itself."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from huggingface_hub import RepoCard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stablerep_hf.cli import main
from stablerep_hf.errors import InputError
from stablerep_hf.hub import assemble_space

# Run in the copy, by a Python that sees only its library, the copy and what the requirements bring: start and search.
DRIVER = """
import json, sys
from importlib.machinery import PathFinder

absent = set(json.loads(sys.argv[1]))

class OnlyRequired(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

# without the finder of an editable install, which knows another copy of the package
sys.meta_path[:] = [
    OnlyRequired if finder is PathFinder else finder for finder in sys.meta_path if "editable" not in repr(finder)
]
sys.path.insert(0, ".")
import app
from gradio import networking
networking.url_ok = lambda url: True
_, url, _ = app.space.launch(
    app.build_demo(), app.SETTINGS, prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, inbrowser=False
)
from gradio_client import Client
client = Client(url, verbose=False)
found = client.predict("red", "all", 3, api_name="/search_by_text")
print("RESULT", json.dumps({
    "package": app.space.__file__, "found": len(found), "facts": client.predict(api_name="/about"),
}))
"""


def required(file: Path) -> set[str]:
    """Names of all distributions that a requirements file brings."""
    waiting = [Requirement(line) for line in file.read_text().splitlines() if line.strip()]
    found: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            waiting += [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
    return found


@pytest.mark.slow
def test_the_published_page_runs_from_its_own_copy(hub, tmp_path):
    environment = hub.environment(tmp_path / "home")
    arguments = ["publish", "space", "alice/search", "--variables", "INDEX_SIZE=40", "COMPARE=pixels"]
    subprocess.run([sys.executable, "-m", "stablerep_hf.cli", *arguments], check=True, env=environment)
    copy = tmp_path / "copy"
    for name, content in hub.files("alice/search", "spaces").items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    assert not hub.repository("alice/search", "spaces").variables, "its settings stand in its file"
    assert 'Client("alice/search")' in (copy / "README.md").read_text()
    assert (copy / "NOTICE").exists()

    offline = {name: value for name, value in environment.items() if name not in ("HF_ENDPOINT", "PYTHONPATH")}
    offline |= {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    brought = required(copy / "requirements.txt")
    owners = packages_distributions()
    absent = [name for name, owned in owners.items() if not brought & {canonicalize_name(owner) for owner in owned}]
    absent.remove("stablerep_hf")
    assert {"diffusers", "scipy"} & set(absent) == {"diffusers"}, "scikit-learn brings SciPy"
    run = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER, json.dumps(absent)],
        cwd=copy,
        env=offline,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.partition("RESULT ")[2])
    assert Path(result["package"]).is_relative_to(copy), "not the package of this repository"
    assert result["found"] == 3
    assert result["facts"]["collections"] == {"real": 40, "synthetic": 40}


def test_ids_stand_in_the_card_and_the_settings(tmp_path):
    chosen = {"ENCODER": "me/encoder", "DATASET": "me/photos", "split": "test+more", "COMPARE": "untrained,me/other"}
    folder = assemble_space(tmp_path / "space", chosen)
    card = RepoCard.load(folder / "README.md").data
    assert card.models == ["me/encoder", "me/other"]
    assert card.datasets == ["me/photos"]
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    assert card.sdk_version.startswith("6.")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["encoder"], config["dataset"], config["split"]) == ("me/encoder", "me/photos", "test+more")
    assert config["compare"] == ["untrained", "me/other"]
    heavy = [path.name for path in folder.rglob("*") if path.suffix in (".parquet", ".safetensors")]
    assert not heavy, "what ships is carried only where it is shown"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ENCODER": "/home/me/encoder"}, "a path of this machine"),
        ({"COMPARE": "../encoder"}, "a path of this machine"),
        ({"COLOUR": "red"}, "unknown key 'colour'"),
        ({"RESULTS": "many"}, "must be of type int"),
    ],
)
def test_what_no_space_could_use_is_refused(tmp_path, settings, says):
    with pytest.raises(InputError, match=says):
        assemble_space(tmp_path / "space", settings)


def test_a_folder_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        assemble_space(tmp_path, {})


def test_the_folder_by_name_is_assembled_too(capsys):
    source = Path(__file__).parents[2] / "spaces" / "retrieval"
    assert main(["publish", str(source), "me/search", "--dry-run", "--variables", "ENCODER=me/e", "DATASET=me/d"]) == 0
    said = capsys.readouterr().out
    assert "stablerep_hf/space/page.py" in said
    assert "- me/e" in said
