"""A report that a person reads: the scores, a plot, the pictures, the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..files.atomic import write_file
from .catalogue import MEASURES
from .figures import image_grid, png_bytes, score_plot
from .results import EvaluationResult, save_results
from .tables import markdown_table, readable, results_table


def write_report(
    output_dir: str | Path,
    results: Sequence[EvaluationResult],
    *,
    title: str,
    introduction: str = "",
    facts: Mapping[str, object] | None = None,
    caption_images: Mapping[str, Sequence[Image.Image]] | None = None,
) -> Path:
    """Write `report.md`, `results.json`, `scores.png` and, with images, `grid.png` into a folder.

    Args:
        output_dir: made if it is not there; files of an earlier report are replaced.
        results: what was measured, one for each encoder and measure.
        title: the heading.
        introduction: Markdown below it.
        facts: name -> value of what was run, as a table.
        caption_images: caption -> its images, for the grid.

    Returns:
        The path of `report.md`.

    Raises:
        InputError: there are no results, or two for one cell of the table.
    """
    folder = Path(output_dir)
    sections = [f"# {title}"]
    if introduction:
        sections.append(introduction.strip())
    sections += ["## Scores", results_table(results).strip(), "![scores with 95 % intervals](scores.png)"]
    sections.append(
        "\n".join(
            f"- **{measure.title[0].upper()}{measure.title[1:]}**: {measure.note}"
            for name, measure in MEASURES.items()
            if any(result.protocol == name for result in results)
        )
    )
    if caption_images:
        sections += ["## Images", "One caption a row, its images side by side.", "![captions and images](grid.png)"]
        write_file(folder / "grid.png", png_bytes(image_grid(caption_images)))
    if facts:
        rows = [["what", "value"], *([name, readable(value)] for name, value in facts.items())]
        sections += ["## What was run", markdown_table(rows, align_right=False)]
    sections.append("The numbers of this page, with all their settings, are in [results.json](results.json).")
    write_file(folder / "scores.png", score_plot(results))
    save_results(folder / "results.json", results)
    path = folder / "report.md"
    write_file(path, ("\n\n".join(section for section in sections if section) + "\n").encode())
    return path
