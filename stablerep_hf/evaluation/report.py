"""A report that a person reads: the scores, a plot, the pictures, the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from .figures import image_grid, png_bytes, score_plot
from .results import EvaluationResult, save_results, write_atomically
from .tables import markdown_table, readable, results_table

_PROTOCOL_NOTES = {
    "knn": (
        "**kNN**: the most similar training images (cosine) vote for their label with weight exp(similarity / "
        "temperature), as in DINO; nothing is trained."
    ),
    "linear_probe": (
        "**Linear probe**: logistic regression on frozen, standardised features. C is chosen on a part held out of "
        "the training set, the regression refitted on all of it, the test set scored once."
    ),
    "linear_probe_sgd": (
        "**Linear probe (SGD)**: the release's linear heads, trained by SGD on frozen features at ten learning rates. "
        "The rate is chosen on a part held out of the training set."
    ),
    "linear_probe_sgd_optimistic": (
        "**Linear probe (SGD, chosen on the test set)**: the same heads, and the maximum over them and over "
        "checkpoints on the very images that are reported, as in the release. Optimistic: it says something only "
        "beside the release's own tables."
    ),
    "few_shot": (
        "**Few-shot**: in each episode a few images of a few classes are labelled, and others get the class whose "
        "mean feature is nearest."
    ),
    "zero_shot": (
        "**Zero-shot**: sentences that name each class are embedded, normalised, averaged and normalised; an image "
        "gets the class it is most similar to."
    ),
    "retrieval": (
        "**Cross-artist retrieval**: each image ranks all images by other artists; a hit is the same concept among "
        "the first k. Images whose concept nobody else drew are left out."
    ),
    "retrieval_displaced": (
        "**Displaced cross-artist retrieval**: the same, but the image that asks is shrunk and moved on its ground by "
        "a fixed random amount, so that things cannot be found by where they lie."
    ),
    "text_retrieval": (
        "**Image-text retrieval**: images rank all captions and captions all images; a hit is one of its own among "
        "the first k."
    ),
    "sibling_retrieval": (
        "**Sibling retrieval**: each image ranks all others; the mean over images of the average precision at which "
        "the other images of its caption come."
    ),
}


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
        "\n".join(f"- {_PROTOCOL_NOTES[name]}" for name in _PROTOCOL_NOTES if any(r.protocol == name for r in results))
    )
    if caption_images:
        sections += ["## Images", "One caption a row, its images side by side.", "![captions and images](grid.png)"]
        write_atomically(folder / "grid.png", png_bytes(image_grid(caption_images)))
    if facts:
        rows = [["what", "value"], *([name, readable(value)] for name, value in facts.items())]
        sections += ["## What was run", markdown_table(rows, align_right=False)]
    sections.append("The numbers of this page, with all their settings, are in [results.json](results.json).")
    write_atomically(folder / "scores.png", score_plot(results))
    save_results(folder / "results.json", results)
    path = folder / "report.md"
    write_atomically(path, ("\n\n".join(section for section in sections if section) + "\n").encode())
    return path
