"""The demo, small but whole: killed twice, and still every part is there and loads without this package."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from waiting import wait_until

SMALL = ["--num_captions", "64", "--max_steps", "2"]


def start(folder, log):
    return subprocess.Popen(
        [sys.executable, "-m", "stablerep_hf.cli", "demo", "--output", str(folder), *SMALL],
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
    )


def kill_when(process, condition):
    wait_until(condition, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--seed", "-1"], "--seed -1"),
        (["--output", "/proc/x"], "takes no file"),
        (["--num_captions", "1"], "siblings"),
    ],
)
def test_a_demo_that_cannot_work_does_not_begin(stablerep, tmp_path, monkeypatch, flags, part):
    monkeypatch.chdir(tmp_path)
    code, _, err = stablerep("demo", *flags)
    assert code == 2
    assert part in err and err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_demo_killed_twice_goes_on_and_leaves_what_it_promises(tmp_path):
    folder, log = tmp_path / "demo", tmp_path / "log.txt"
    dataset, stablerep = folder / "dataset", folder / "encoders" / "stablerep"
    kill_when(start(folder, log), lambda: any((dataset / "provenance").glob("captions.parquet")))
    kill_when(start(folder, log), lambda: finished(stablerep))
    kept = {
        path: path.stat().st_mtime_ns for path in [*dataset.glob("data/*.parquet"), stablerep / "model.safetensors"]
    }
    assert len(kept) > 1
    assert start(folder, log).wait(timeout=600) == 0, log.read_text()
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "what stood was made again"

    results = json.loads((folder / "report" / "results.json").read_text())
    assert {r["encoder"] for r in results} == {"8 x 8 pixels", "untrained", "StableRep", "SimCLR"}
    assert {r["split"] for r in results} == {"held_out_concepts"}
    assert {r["settings"].get("groups_in_both", 0) for r in results} == {0}, "no concept is on both sides"
    assert all(r["low"] <= r["value"] <= r["high"] for r in results)
    report = (folder / "report" / "report.md").read_text()
    for name in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (folder / "report" / name).stat().st_size > 1000
    for card in (dataset / "README.md", stablerep / "README.md", folder / "encoders" / "simclr" / "README.md"):
        assert card.read_text().startswith("---\n")
    assert "knn" in (stablerep / "README.md").read_text().lower(), "the card shows what was measured"

    lines = log.read_text().split("report     ")[1].strip().splitlines()[3:6]
    assert [line.split()[0] for line in lines] == ["from", "dataset", "encoder"]
    code = "import sys; sys.modules['stablerep_hf'] = None\n" + "\n".join(lines) + "\nprint(dataset['train'].num_rows)"
    stock = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert stock.stdout.strip() == "256"


def finished(encoder):
    record = encoder / "training.json"
    return record.exists() and json.loads(record.read_text())["finished"]
