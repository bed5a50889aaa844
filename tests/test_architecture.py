"""The house: imports go one way, public names are documented, and importing the package is cheap."""

import ast
import importlib
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stablerep_hf"
# A room may import itself and the rooms on the lines above its own; models and losses travel alone.
LINES = [
    {"errors", "extras", "files", "models", "losses", "assets", "progress", "services", "setting"},
    {"captions", "evaluation"},
    {"synthesis", "retrieval"},
    {"space"},
    {"hub"},
    {"training"},
    {"runs"},
    {"reproduction"},
    {"cli"},
    {"__main__"},
]
SIDEWAYS = {name: {"errors"} for name in ("extras", "files", "services", "setting")}
ALONE = {"models", "losses", "assets", "errors", "progress"}


def allowed(room):
    below = next(number for number, line in enumerate(LINES) if room in line)
    return {room} | SIDEWAYS.get(room, set()) | set().union(*LINES[:below])


def files():
    return sorted(PACKAGE.rglob("*.py"))


def imported_names(path):
    """Dotted names of this package that a file imports, anywhere in it, below `stablerep_hf`."""
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
        yield from (name.removeprefix("stablerep_hf.") for name in names if name.startswith("stablerep_hf."))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        return  # it names every room, lazily
    rooms = {name.partition(".")[0] for name in imported_names(path)} - {"__version__"}
    assert rooms <= allowed(room)


def test_no_cycle_of_files():
    stubs = {  # public name -> file, as the lazy rooms say
        f"{room.relative_to(PACKAGE).as_posix().replace('/', '.')}.{alias.name}": (room / node.module).with_suffix(
            ".py"
        )
        for stub in PACKAGE.rglob("__init__.pyi")
        for room in [stub.parent]
        for node in ast.parse(stub.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and room != PACKAGE
        for alias in node.names
    }

    def file_of(name):
        while name:
            if name in stubs:
                return stubs[name]
            for path in (PACKAGE / f"{name.replace('.', '/')}.py", PACKAGE / name.replace(".", "/") / "__init__.py"):
                if path.exists():
                    return path
            name = name.rpartition(".")[0]
        return None

    arrows = {path: {file_of(name) for name in imported_names(path)} - {None, path} for path in files()}
    assert sum(map(len, arrows.values())) > 400  # the reading works
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the files


def test_every_room_is_known_and_none_is_a_dumping_ground():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms | modules == set().union(*LINES)
    names = {part for path in files() for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "misc", "helpers", "common", "util"}


def test_no_file_is_a_house_of_its_own():
    long = {str(path): count for path in files() if (count := len(path.read_text("utf-8").splitlines())) > 500}
    assert not long


def public_objects():
    for room in ["", *sorted(set().union(*LINES))]:
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
    with pytest.raises(AttributeError, match="attribute Nonsense"):
        stablerep_hf.Nonsense  # noqa: B018
