"""A generator of photos is measured beside real ones, and its card says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import measure_photo_generator
import pytest
import train_embedded_generator
import yaml
from embedded_generator import photo_card
from embedded_generator.world import World
from test_train_generator import TINY, picture, save


@pytest.fixture
def world_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished training of two classes, and the file that it was trained by."""
    names = {"label": datasets.ClassLabel(names=["tench, Tinca tinca", "goldfish, Carassius auratus"])}
    save(tmp_path / "photos", names, image=[picture(i) for i in range(12)], label=[0] * 6 + [1] * 6)
    save(tmp_path / "photos", names, "validation", image=[picture(i + 50) for i in range(10)], label=[0] * 5 + [1] * 5)
    held = {"data": "photos", "split": "validation", "wordings": ["a photo of a {caption}"]}
    path = tmp_path / "world.yaml"
    path.write_text(yaml.safe_dump({**TINY, "sources": [{"data": "photos"}], "held_out": [held], "shown": ["tench"]}))
    assert run(monkeypatch, train_embedded_generator, path) == 0
    return path


def run(monkeypatch: pytest.MonkeyPatch, script: object, path: Path, *more: str) -> int:
    where = ["--data", str(path.parent), "--work", str(path.parent / "work"), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["script", str(path), *where, *more])
    return script.main()


def test_drawn_photos_are_measured_and_the_card_says_it(world_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = world_file.parent / "card"
    monkeypatch.setattr(measure_photo_generator.measures, "TIMED_BATCHES", 1)
    asked = ("--card", str(card), "--guidance", "1", "2.5", "--captions", "2")
    assert run(monkeypatch, measure_photo_generator, world_file, *asked) == 0
    results = json.loads((card / "results.json").read_text())
    assert (results["captions"], results["siblings"], results["learned"], results["held_out"]) == (2, 4, 12, 10)
    assert set(results["guidance"]) == {"1", "2.5"}
    for row in results["guidance"].values():
        assert row["kid"] > results["real"]["kid"] and row["seconds_per_image"] > 0
        assert 0 <= row["recognised"] <= 1 and row["recognised_in_5"] == 1  # there are two classes
        assert row["very_close"] == 0 and row["median_distance"] > 0.05
    assert results["training"]["denoiser"][-1]["samples"] == 4 * 2
    assert sorted(path.name for path in card.iterdir()) == [
        "README.md",
        "guidance-1.png",
        "guidance-2.5.png",
        "results.json",
    ]
    text = (card / "README.md").read_text()
    assert f"| drawn, guidance 2.5 | {1000 * results['guidance']['2.5']['kid']:.1f} ±" in text
    assert "trained from nothing on 12 captioned photos: photos (1 of a batch)" in text

    (card / "README.md").write_text("lost")
    assert run(monkeypatch, measure_photo_generator, world_file, *asked, "--card-only") == 0
    assert (card / "README.md").read_text() == text
    world = World.model_validate(yaml.safe_load(world_file.read_text()))
    assert photo_card.render(results, world) == text


def test_without_real_photos_nothing_is_measured(
    world_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(world_file.read_text())
    world_file.write_text(yaml.safe_dump({**values, "held_out": []}))
    card = world_file.parent / "card"
    assert run(monkeypatch, measure_photo_generator, world_file, "--card", str(card)) == 2
    assert "name a set in `held_out`" in capsys.readouterr().err.splitlines()[-1]
