"""Rebuilding the pictograms from drawings, on a few hand-made ones."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHAPES = {
    "red-heart": '<path fill="#e11" d="M16 29 2 14a7 7 0 0 1 14-7 7 7 0 0 1 14 7z"/>',
    "rocket": '<path fill="#888" d="M16 1 24 20H8z"/><circle cx="16" cy="25" r="4" fill="#f80"/>',
    "man-teacher": '<circle cx="16" cy="10" r="8" fill="#fc0"/><path d="M4 20h24v10H4z" fill="#06c"/>',
    "woman-teacher": '<circle cx="16" cy="11" r="8" fill="#fc0"/><path d="M4 20h24v10H4z" fill="#c06"/>',
    "cactus": '<rect x="12" y="2" width="8" height="28" rx="4" fill="#2a2"/><rect x="4" y="12" width="8" height="5"/>',
    "star": '<path fill="#fb0" d="M16 2 20 12 30 12 22 19 25 30 16 23 7 30 10 19 2 12 12 12z"/>',
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("build_pictograms", SCRIPTS / "build_pictograms.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["build_pictograms"] = module  # workers find the module by its name
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, script: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    for artist_set in (script.ARTIST_SETS[0], script.ARTIST_SETS[-1]):
        icons = folder / "node_modules" / artist_set.package
        icons.mkdir(parents=True)
        shift = 0 if artist_set.style == "noto" else 1  # another hand draws with a thin line around
        line = f' stroke="#000" stroke-width="{2 * shift}"'
        bodies = {name: {"body": f"<g{line}>{body}</g>"} for name, body in SHAPES.items()}
        (icons / "icons.json").write_text(json.dumps({"icons": bodies, "width": 32, "height": 32}))
        (icons / "chars.json").write_text("{}")
    return folder


def concepts(script: ModuleType) -> list[object]:
    return [
        script.Concept(f"1F{i:03X}", name.replace("-", " "), name.replace("-", " "), (), "objects", "tool")
        for i, name in enumerate(SHAPES)
    ]


def build(script: ModuleType, packages: Path, output: Path) -> dict[str, str]:
    script.build((script.ARTIST_SETS[0], script.ARTIST_SETS[-1]), packages, concepts(script), output)
    files = sorted(path for path in output.rglob("*.parquet"))
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_drawings_give_the_same_bytes(script: ModuleType, packages: Path, tmp_path: Path) -> None:
    first, again = build(script, packages, tmp_path / "a"), build(script, packages, tmp_path / "b")
    assert len(first) == 5
    assert first == again


def test_ink_fills_all_but_the_margin(script: ModuleType) -> None:
    pixels = script.render(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="3" y="9" width="8" height="4"/></svg>'
    )
    ink = np.argwhere(pixels.min(axis=2) < 128)
    assert pixels.shape == (64, 64, 3)
    assert ink[:, 1].min() == script.MARGIN and ink[:, 1].max() == 63 - script.MARGIN
    assert abs((ink[:, 0].min() + ink[:, 0].max()) / 2 - 31.5) <= 1


def test_an_empty_drawing_is_refused(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="empty"):
        script.render('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"></svg>')


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("man teacher", "woman teacher"),
        ("person running", "man running: facing right"),
        ("mermaid", "merman"),
        ("prince", "princess"),
        ("kiss: woman, man", "kiss: man, man"),
    ],
)
def test_variants_by_gender_share_a_key(script: ModuleType, one: str, other: str) -> None:
    assert script.gender_key(one) == script.gender_key(other)
    assert script.gender_key(one) != script.gender_key("rocket")


def test_linked_concepts_are_held_out_together(script: ModuleType) -> None:
    many = [script.Concept(f"2{i:03X}", f"thing {i}", f"thing {i}", (), "objects", "tool") for i in range(50)]
    links = [(many[2 * i].hexcode, many[2 * i + 1].hexcode) for i in range(25)]
    held = script.held_out_concepts(many, links)
    assert 8 <= len(held) <= 10
    assert all((one in held) == (other in held) for one, other in links)


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        ("woman: blond hair", "woman with blond hair"),
        ("keycap: 7", "keycap 7"),
        ("O button (blood type)", "O button blood type"),
        ("Japanese “free of charge” button", "Japanese free of charge button"),
        ("kiss: woman, man", "kiss of woman man"),
    ],
)
def test_captions_are_phrases(script: ModuleType, label: str, caption: str) -> None:
    assert script.caption_from_label(label) == caption


def test_near_duplicates_are_found_exactly(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    left = rng.random((20, 24 * 24 * 3), dtype=np.float32)
    right = left + rng.uniform(0, 0.06, (20, 1)).astype(np.float32)
    expected = {
        (i, j) for i in range(20) for j in range(20) if np.abs(left[i] - right[j]).mean() < script.NEAR_DUPLICATE
    }
    assert set(script.near_duplicates(left, right)) == expected
    assert expected
