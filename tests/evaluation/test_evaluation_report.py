from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import EvaluationResult, image_grid, load_results, score_plot, write_report


def result(encoder: str, protocol: str, metric: str, value: float, chance: float | None = 0.1) -> EvaluationResult:
    return EvaluationResult(
        encoder=encoder,
        protocol=protocol,
        metric=metric,
        value=value,
        low=value - 0.03,
        high=value + 0.03,
        interval="bootstrap over test groups",
        n=777,
        dataset="pictograms",
        revision="",
        split="test",
        chance=chance,
        settings={"k": 20} if protocol == "knn" else {},
    )


RESULTS = [
    result(encoder, protocol, metric, value + offset)
    for encoder, offset in [("StableRep", 0.1), ("SimCLR", 0.05), ("untrained", 0.0)]
    for protocol, metric, value in [("knn", "accuracy", 0.4), ("retrieval", "recall@1", 0.2)]
]


def colour_of(sheet: Image.Image, row: int, column: int) -> tuple[int, ...]:
    return sheet.getpixel((260 + 4 + column * 100 + 48, 4 + row * 100 + 48))


def test_each_caption_is_a_row_and_its_images_are_the_columns():
    colours = [["red", "lime", "blue"], ["black"], ["yellow", "cyan"]]
    rows = {f"caption {index}": [Image.new("RGB", (32, 32), c) for c in row] for index, row in enumerate(colours)}
    sheet = image_grid(rows)
    assert sheet.size == (260 + 3 * 100 + 4, 3 * 100 + 4)
    for row, names in enumerate(colours):
        for column in range(3):
            expected = names[column] if column < len(names) else "white"
            assert colour_of(sheet, row, column) == Image.new("RGB", (1, 1), expected).getpixel((0, 0))
    captions = np.asarray(sheet.crop((0, 0, 260, sheet.height)).convert("L"))
    for row in range(3):
        assert (captions[4 + row * 100 : 100 + row * 100] < 128).sum() > 50  # something is written beside each row


def test_pictures_keep_their_shape_and_transparency_does_not_break_them():
    sheet = image_grid({"tall": [Image.new("RGBA", (10, 40), "red")]})
    cell = np.asarray(sheet.crop((264, 4, 360, 100)))
    red = (cell == [255, 0, 0]).all(-1)
    assert red.any(0).sum() == 24  # 96 * 10 / 40
    assert red.any(1).sum() == 96


@pytest.mark.parametrize("caption", ["word " * 200, "x" * 500, "猫" * 300, "", "a\nb"])
def test_captions_of_any_length_and_script_stay_in_their_row(caption):
    white = Image.new("RGB", (8, 8), "white")
    sheet = np.asarray(image_grid({caption: [white], "next": [white]}).convert("L"))
    assert (sheet[:104, 257:] == 255).all()  # not beyond the caption's column
    assert (sheet[96:104] == 255).all()  # nor into the next row


def test_small_pictures_are_enlarged_without_smearing():
    checks = Image.new("RGB", (2, 2), "red")
    checks.putpixel((0, 0), (0, 0, 255))
    cell = image_grid({"checks": [checks]}).crop((264, 4, 360, 100))
    assert {colour for _, colour in cell.getcolors()} == {(255, 0, 0), (0, 0, 255)}


def test_a_grid_of_nothing_is_refused():
    for nothing in ({}, {"caption": []}):
        with pytest.raises(InputError, match="have 0 images"):
            image_grid(nothing)


def test_the_plot_is_deterministic_and_moves_with_a_number():
    assert score_plot(RESULTS) == score_plot(RESULTS)
    plain = score_plot(RESULTS[:1])
    for name, number in {"value": 0.505, "low": 0.45, "high": 0.55, "chance": 0.11}.items():
        assert score_plot([dataclasses.replace(RESULTS[0], **{name: number})]) != plain, name
    picture = Image.open(io.BytesIO(score_plot(RESULTS)))
    assert "Software" not in picture.info  # no version of matplotlib in the bytes
    assert picture.format == "PNG"
    assert picture.width > picture.height
    with pytest.raises(InputError, match="0 results"):
        score_plot([])


def test_the_report_holds_the_results_and_points_at_files_that_are_there(tmp_path):
    images = {"a red house": [Image.new("RGB", (32, 32), "red")] * 4}
    path = write_report(
        tmp_path / "report",
        RESULTS,
        title="Demo",
        introduction="What was done.",
        facts={"captions": 1320, "guidance scale": 2.0, "prompts": ("{caption}", "a | b")},
        caption_images=images,
    )
    text = path.read_text()
    assert load_results(tmp_path / "report" / "results.json") == RESULTS
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (path.parent / target).is_file(), target
    assert {file.name for file in path.parent.iterdir()} == {"report.md", "results.json", "scores.png", "grid.png"}
    assert "| StableRep | 50.0 [47.0, 53.0] | 30.0 [27.0, 33.0] |" in text
    assert "| captions | 1,320 |" in text
    assert "| prompts | {caption}, a \\| b |" in text
    assert "**Linear probe**" not in text  # only what was measured is explained
    again = write_report(tmp_path / "again", RESULTS, title="Demo", introduction="What was done.")
    assert "grid.png" not in again.read_text()
    assert "What was run" not in again.read_text()
    assert not re.search(r"\n\n\n|^#[^\n]*\n+(?=#{1,2} )", text.split("\n", 2)[2], re.MULTILINE)
