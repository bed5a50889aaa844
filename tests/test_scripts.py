"""Every script can be imported: none is left behind when the package moves on."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
IMPORT_ALL = """
import pathlib, runpy, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    print(path.name, file=sys.stderr)
    runpy.run_path(str(path), run_name="imported")
"""


@pytest.mark.slow
def test_the_names_that_scripts_take_from_the_package_exist(tmp_path):
    assert len(list(SCRIPTS.glob("*.py"))) > 20
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, sys.argv[1]){IMPORT_ALL}", str(SCRIPTS)],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
