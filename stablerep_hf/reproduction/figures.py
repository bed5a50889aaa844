"""The plots of the study, readable in print and without colour: every line has a marker and a dash of its own."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.catalogue import MEASURES
from ..evaluation.figures import COLOURS

_MARKERS = ("o", "s", "^", "D")
_DASHES = ("-", "--", "-.", ":")
_OF_IMAGES = {"alignment": "alignment (cosine)", "diversity": "diversity (Vendi score)"}


def name_of(measure: str) -> str:
    """What a measure is called in tables and plots; "linear probe accuracy, tail"."""
    if measure in _OF_IMAGES:
        return _OF_IMAGES[measure]
    name, _, variant = measure.partition(", ")
    protocol, _, metric = name.partition(" ")
    return ", ".join(filter(None, (f"{MEASURES[protocol].title} {metric}", variant.removeprefix("frequency = "))))


@dataclass(frozen=True)
class Point:
    """A mean with its interval; shares are in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: what is on its y axis.
        lines: name -> x -> point. Lines of one name look the same in all panels.
        percent: whether the values are shares, to be shown in per cent.
    """

    title: str
    lines: Mapping[str, Mapping[float, Point]]
    percent: bool = True


def line_panels(panels: Sequence[Panel], x_label: str) -> bytes:
    """A PNG of panels side by side, three in a row, x on a logarithmic axis with a tick for each value."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, 3.1 * columns, 2.7 * rows + 0.5)
    for axis, panel in zip(axes, panels, strict=False):
        ticks = sorted({x for line in panel.lines.values() for x in line})
        for name, line in panel.lines.items():
            place = names.index(name)
            scale = 100 if panel.percent else 1
            xs = sorted(line)
            values = [scale * line[x].value for x in xs]
            below = [scale * (line[x].value - line[x].low) for x in xs]
            above = [scale * (line[x].high - line[x].value) for x in xs]
            axis.errorbar(
                xs,
                values,
                yerr=(below, above),
                label=name,
                color=COLOURS[place % len(COLOURS)],
                marker=_MARKERS[place % len(_MARKERS)],
                linestyle=_DASHES[place % len(_DASHES)],
                markersize=5,
                linewidth=1.4,
                capsize=2.5,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{x:,.12g}" for x in ticks])
        axis.minorticks_off()
        _dress(axis, f"{panel.title}{', %' if panel.percent else ''}", x_label)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles, labels = [], []
    for name in names:
        owner = next(axis for axis, panel in zip(axes, panels, strict=False) if name in panel.lines)
        found = dict(zip(*reversed(owner.get_legend_handles_labels()), strict=True))
        handles.append(found[name])
        labels.append(name)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=8, frameon=False)
    return _png(figure)


def dot_panels(measures: Mapping[str, Mapping[str, Point]], lines: Mapping[str, float]) -> bytes:
    """A PNG with one panel a measure and one row a setting: a dot at the mean, a bar over its interval.

    Args:
        measures: title -> setting -> point, shares.
        lines: title -> a value to mark by a dashed line, such as chance.
    """
    settings = list(dict.fromkeys(name for points in measures.values() for name in points))
    width = 1.2 + max(len(name) for name in settings) * 0.07 + 2.2 * min(3, len(measures))
    rows = -(-len(measures) // 3)
    figure, axes = _figure(rows, min(3, len(measures)), width, rows * (0.9 + 0.3 * len(settings)), sharey=True)
    for axis, (title, points) in zip(axes, measures.items(), strict=False):
        for place, name in enumerate(settings):
            if name not in points:
                continue
            point = points[name]
            axis.plot([100 * point.low, 100 * point.high], [place, place], color="black", linewidth=1.6)
            axis.plot([100 * point.value], [place], "o", color="black", markersize=5)
        if title in lines:
            axis.axvline(100 * lines[title], color="0.5", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(settings)), settings)
        axis.set_ylim(len(settings) - 0.5, -0.5)
        _dress(axis, title, "per cent")
    return _png(figure)


def _figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def _dress(axis: Any, title: str, x_label: str) -> None:
    axis.set_title(textwrap.fill(title, 42), fontsize=9)
    axis.set_xlabel(x_label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
