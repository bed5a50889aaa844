"""Results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..errors import InputError
from .catalogue import MEASURES
from .results import OVER_EPISODES, TEXT_BOOTSTRAP, EvaluationResult

_UNITS = {TEXT_BOOTSTRAP: "texts", OVER_EPISODES: "episodes"}


def measure_name(result: EvaluationResult) -> str:
    """The heading of a result's column: "kNN accuracy (k = 20)", "cross-artist retrieval recall@1"."""
    known = MEASURES.get(result.protocol)
    name = f"{known.title if known else result.protocol} {result.metric}"
    details = [f"k = {result.settings['k']}"] if "k" in result.settings else []
    details += [result.variant] if result.variant else []
    return f"{name} ({', '.join(details)})" if details else name


def percent(value: float) -> str:
    """A share in per cent with one decimal, which is finer than any interval here."""
    return f"{100 * value:.1f}"


def results_table(results: Sequence[EvaluationResult], *, measures_as_rows: bool = False) -> str:
    """One row an encoder, one column a measure, each cell the value in per cent with its 95 % interval.

    Rows and columns keep the order in which they first appear. A last row gives chance where it is known. Below the
    table are the data, the number of images and what the intervals are over. With `measures_as_rows` measures are
    rows and encoders columns, which suits one encoder with many measures.

    Raises:
        InputError: there are no results, or two for one cell.
    """
    if not results:
        raise InputError("There are 0 results, so there is no table to write; evaluate an encoder first.")
    sources = dict.fromkeys((result.dataset, result.split) for result in results)
    cells: dict[tuple[str, str], str] = {}
    columns: dict[str, float | None] = {}
    for result in results:
        column = _column(result, several_sources=len(sources) > 1)
        if (result.encoder, column) in cells:
            raise InputError(
                f"Two results give {column!r} for {result.encoder!r}; combine the seeds first or name the encoders "
                "apart."
            )
        cells[result.encoder, column] = f"{percent(result.value)} [{percent(result.low)}, {percent(result.high)}]"
        columns.setdefault(column, result.chance)
    rows = [["encoder", *columns]]
    for encoder in dict.fromkeys(result.encoder for result in results):
        rows.append([encoder, *(cells.get((encoder, column), "") for column in columns)])
    if any(chance is not None for chance in columns.values()):
        rows.append(["*chance*", *("" if chance is None else percent(chance) for chance in columns.values())])
    if measures_as_rows:
        rows = [list(line) for line in zip(*rows, strict=True)]
        rows[0] = ["measure", *rows[0][1:]]
    return f"{markdown_table(rows)}\n\n{_note(results)}\n"


def differences_table(results: Sequence[EvaluationResult]) -> str:
    """The differences that `compare_encoders` found: one row a measure, one column a pair; empty if there is none.

    Cells are percentage points with their paired 95 % intervals.
    """
    cells = {
        (_column(result, several_sources=False), f"{result.encoder} - {other}"): found
        for result in results
        for other, found in result.settings.get("minus", {}).items()
    }
    if not cells:
        return ""
    pairs = list(dict.fromkeys(pair for _, pair in cells))
    rows = [["difference", *pairs]]
    for measure in dict.fromkeys(measure for measure, _ in cells):
        row = [cells.get((measure, pair)) for pair in pairs]
        rows.append([measure, *(_signed(found) if found else "" for found in row)])
    return f"\n{markdown_table(rows)}\n\nPercentage points, paired 95 % intervals in brackets.\n"


def _signed(found: Sequence[float]) -> str:
    value, low, high = (f"{100 * number:+.1f}" for number in found)
    return f"{value} [{low}, {high}]"


def readable(value: Any) -> str:
    """A value as a person writes it: thousands separated, floats without noise, and of a path only its last part.

    What is written here gets published, and a folder of somebody's machine says nothing to anybody else.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(entry) for entry in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {readable(entry)}" for name, entry in value.items())
    return public_name(str(value))


def public_name(name: str) -> str:
    """A repository id, or any other text, as it is; of an absolute path only its last part."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def markdown_table(rows: Sequence[Sequence[str]], *, align_right: bool = True) -> str:
    """A Markdown table; the first row is the heading, columns after the first are aligned right or left."""
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    other = "---:" if align_right else ":---"
    rule = "| " + " | ".join([":---", *([other] * (len(rows[0]) - 1))]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(text: str) -> str:
    """Text that neither ends the cell nor the row."""
    return " ".join(text.replace("|", "\\|").split())


def _column(result: EvaluationResult, *, several_sources: bool) -> str:
    name = measure_name(result)
    return f"{name}, {result.dataset} {result.split}".rstrip() if several_sources else name


def _note(results: Sequence[EvaluationResult]) -> str:
    parts = []
    for dataset, split in dict.fromkeys((result.dataset, result.split) for result in results):
        own = [result for result in results if (result.dataset, result.split) == (dataset, split)]
        counts: dict[str, list[str]] = {}  # number and unit -> the measures that have it
        for name, count in dict.fromkeys(
            (measure_name(result), f"{result.n:,} {_UNITS.get(result.interval, 'images')}") for result in own
        ):
            counts.setdefault(count, []).append(name)
        scored = next(iter(counts))
        if len(counts) > 1:
            scored = ", ".join(f"{count} ({', '.join(names)})" for count, names in counts.items())
        revision = f", revision `{own[0].revision}`" if own[0].revision else ""
        parts.append(f"{dataset}, split `{split}`{revision}: {scored} scored.")
    intervals = " and ".join(dict.fromkeys(result.interval for result in results))
    return f"Per cent, 95 % intervals in brackets ({intervals}). " + " ".join(parts)
