"""The house: imports go one way, public names are documented, and importing the package is cheap."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stablerep_hf"
# A room may import the rooms named here, `errors`, and itself. models and losses travel alone: not even `errors`.
ROOMS = {
    "captions": set(),
    "models": set(),
    "losses": set(),
    "evaluation": set(),
    "assets": set(),
    "reproduction": {"evaluation"},
    "synthesis": {"captions", "assets", "evaluation"},
    "retrieval": {"evaluation"},
    "space": {"models", "evaluation", "assets", "retrieval"},  # what a Space carries with it
    "hub": {"captions", "evaluation", "synthesis", "space"},
    "training": {"captions", "models", "losses", "evaluation", "synthesis", "hub"},  # what it pushes has a card
    "cli": {
        "captions",
        "models",
        "losses",
        "evaluation",
        "assets",
        "synthesis",
        "retrieval",
        "space",
        "training",
        "hub",
        "reproduction",
    },
}
ALONE = {"models", "losses"}


def files():
    return sorted(PACKAGE.rglob("*.py"))


def imported_rooms(path):
    """Rooms of the package that a file imports, anywhere in it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    package = ["stablerep_hf", *parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("stablerep_hf."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return  # the package's own __init__ names every room, lazily; errors imports nothing
    room = parts[0]
    allowed = (
        ROOMS[room] | {room} | (set() if room in ALONE else {"errors"}) | ({"__version__"} if room == "cli" else set())
    )
    assert set(imported_rooms(path)) <= allowed


def test_every_room_is_known_and_none_is_a_dumping_ground():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)
    names = {part for path in files() for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "misc", "helpers", "common", "util"}


def test_no_file_is_a_house_of_its_own():
    long = {str(path): count for path in files() if (count := len(path.read_text("utf-8").splitlines())) > 500}
    assert not long


def public_objects():
    for room in ["", *sorted(ROOMS)]:
        module = importlib.import_module(f"stablerep_hf.{room}" if room else "stablerep_hf")
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield f"{module.__name__}.{name}", thing


def test_every_public_name_is_documented():
    undocumented = []
    seen = 0
    for name, thing in public_objects():
        seen += 1
        things = {name: thing}
        if inspect.isclass(thing):
            things |= {
                f"{name}.{member}": value
                for member, value in vars(thing).items()
                if inspect.isfunction(value) and not member.startswith("_")
            }
        for key, value in things.items():
            inherited = inspect.isclass(thing) and any(
                hasattr(base, key.rpartition(".")[2]) for base in thing.__mro__[1:]
            )
            if not (value.__doc__ or "").strip() and not inherited:
                undocumented.append(key)
    assert seen > 40
    assert not undocumented


@pytest.mark.parametrize(
    "module", ["stablerep_hf", "stablerep_hf.captions", "stablerep_hf.assets", "stablerep_hf.cli"]
)
def test_importing_is_cheap(module):
    code = (
        f"import sys, {module}; print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_lazy_names_exist_and_wrong_ones_do_not():
    import stablerep_hf

    for name in stablerep_hf.__all__:
        assert getattr(stablerep_hf, name)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        stablerep_hf.Nonsense  # noqa: B018
