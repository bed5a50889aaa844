"""Several folders side by side: is what a faster setting draws still aligned and diverse?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError, refusing
from ..evaluation.intervals import bootstrap_interval
from ..files.atomic import check_output_file, write_at_once, write_file
from ..files.shards import shard_path
from .provenance import read_provenance

Interval = tuple[float, float, float]  # mean, low and high end of 95 %


@dataclass(frozen=True)
class FolderMeasures:
    """One folder's numbers.

    Attributes:
        name: The folder's name.
        settings: What drew it, in a few words.
        images_per_second: Rows by the drawing time of its shards, of one worker.
        alignment: Mean over images, with a bootstrap interval over captions; None if not scored.
        diversity: Mean over captions; None if not scored.
        blank_share: Share of blank images.
    """

    name: str
    settings: str
    images_per_second: float
    alignment: Interval | None
    diversity: Interval | None
    blank_share: float


def compare_folders(folders: Sequence[str | Path]) -> list[FolderMeasures]:
    """Read speed, alignment and diversity of folders that `synthesize` drew and `score_store` scored.

    Raises:
        InputError: One is no such folder or is empty, a shard is damaged, or two were scored by different models.
    """
    measures: list[FolderMeasures] = []
    scored_by: dict[str, object] = {}
    for folder in folders:
        provenance = read_provenance(folder)
        paths = [shard_path(Path(folder), record["shard"], provenance.num_shards) for record in provenance.shards]
        columns = ["caption_id", "alignment", "diversity", "is_blank"]
        tables = [_read(path, columns) for path in paths if path.exists()]
        if not tables or not sum(map(len, tables)):
            raise InputError(
                f"The folder {str(folder)!r} holds no images yet, so there is nothing to compare; draw some."
            )
        for column, scorer in provenance.shards[0].get("scores", {}).items():
            if scored_by.setdefault(column, scorer) != scorer:
                raise InputError(
                    f"The {column} of {str(folder)!r} was measured by {scorer}, that of {str(folders[0])!r} by "
                    f"{scored_by[column]}, so the numbers cannot be compared; score both with the same."
                )
        table = pa.concat_tables(tables)
        ids = table["caption_id"].to_numpy()
        generator = provenance.settings["generator"]
        words = [generator.get("name"), generator.get("scheduler"), f"{generator.get('num_inference_steps')} steps"]
        words += [f"guidance {generator.get('guidance_scale')}"]
        if interval := generator.get("guidance_interval"):
            words[-1] += " from {:g} to {:g}".format(*interval)
        measures.append(
            FolderMeasures(
                Path(folder).resolve().name,
                ", ".join(str(word) for word in words),
                provenance.num_images / provenance.seconds if provenance.seconds else 0.0,
                _mean(table["alignment"], ids, per_caption=False),
                _mean(table["diversity"], ids, per_caption=True),
                float(np.mean(table["is_blank"].to_numpy())),
            )
        )
    return measures


def _read(path: Path, columns: list[str]) -> pa.Table:
    with refusing(
        f"The shard {str(path)!r} cannot be read", "`stablerep verify --repair` draws it again", (OSError, ValueError)
    ):
        return pq.read_table(path, columns=columns)


def _mean(column: pa.ChunkedArray, ids: np.ndarray, *, per_caption: bool) -> Interval | None:
    if column.null_count:
        return None
    values = column.to_numpy().astype(np.float64)
    if per_caption:
        values = values[np.unique(ids, return_index=True)[1]]
        return float(values.mean()), *bootstrap_interval(values)
    return float(values.mean()), *bootstrap_interval(values, ids)


def write_comparison(folders: Sequence[str | Path], plot: str | Path | None = None) -> str:
    """Compare two or more folders, and write the table and a plot of it if asked.

    Args:
        folders: See `compare_folders`.
        plot: PNG to write; the table goes beside it as `.md`.

    Returns:
        The table, Markdown.

    Raises:
        InputError: Fewer than two folders, as `compare_folders` and `plot_comparison`, or an output that cannot be
            written.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} folders were named: give two or more to compare.")
    place = None if plot is None else Path(plot)
    if place is not None:
        if place.suffix.lower() == ".md":
            raise InputError(f"The output {str(plot)!r} is where the table goes: name the plot, such as plot.png.")
        for path in (place, place.with_suffix(".md")):
            check_output_file(path)
    measures = compare_folders(folders)
    table = comparison_table(measures)
    if place is not None:
        write_at_once(place, lambda file: plot_comparison(measures, file))
        write_file(place.with_suffix(".md"), table.encode())
    return table


def comparison_table(measures: Sequence[FolderMeasures]) -> str:
    """The numbers as a Markdown table."""
    lines = [
        "| folder | settings | images/s | alignment | diversity (Vendi) | blank |",
        "| :--- | :--- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.name} | {row.settings} | {row.images_per_second:,.2f} | {_shown(row.alignment)} | "
        f"{_shown(row.diversity)} | {row.blank_share:.1%} |"
        for row in measures
    ]
    return "\n".join(lines) + "\n"


def _shown(interval: Interval | None) -> str:
    return "not scored" if interval is None else "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def plot_comparison(measures: Sequence[FolderMeasures], file: IO[bytes]) -> None:
    """Draw diversity over alignment as a PNG, a point a folder, its area by images/s; both scores are needed."""
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.subplots()
    fastest = max(row.images_per_second for row in measures) or 1.0
    for row in measures:
        if row.alignment is None or row.diversity is None:
            raise InputError(
                f"The folder {row.name!r} lacks alignment or diversity, so it has no place in the plot; score it."
            )
        (x, low_x, high_x), (y, low_y, high_y) = row.alignment, row.diversity
        bars = [[x - low_x], [high_x - x]], [[y - low_y], [high_y - y]]
        ax.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="none", ecolor="0.7", zorder=1)
        label = f"{row.name}: {row.images_per_second:,.2f} images/s"
        ax.scatter([x], [y], s=30 + 270 * row.images_per_second / fastest, zorder=2, alpha=0.8, label=label)
    ax.set(xlabel="alignment (cosine of image and prompt)", ylabel="diversity (Vendi score of siblings)")
    ax.margins(0.25)
    for handle in figure.legend(loc="outside upper left", frameon=False).legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([60])
    figure.savefig(file, format="png", dpi=120)
