"""Pictures of data and of results, readable in print."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from .decoding import to_rgb
from .results import EvaluationResult
from .tables import measure_name

_GAP = 4
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: safe for most eyes


def image_grid(
    caption_images: Mapping[str, Sequence[Image.Image]], *, cell_size: int = 96, caption_width: int = 260
) -> Image.Image:
    """One caption a row, its images in columns, the caption written to the left.

    Args:
        caption_images: caption -> its images; rows may be of different lengths.
        cell_size: pixels of a picture's longer side; small pictures are enlarged without smoothing.
        caption_width: pixels for the caption, which is wrapped and, if it still does not fit, cut with an ellipsis.

    Returns:
        An RGB picture on white.

    Raises:
        InputError: there is no caption, or none has an image.
    """
    import matplotlib

    columns = max((len(images) for images in caption_images.values()), default=0)
    if columns == 0:
        raise InputError(
            f"{len(caption_images)} captions have 0 images, so there is no grid to draw; give some images."
        )
    step = cell_size + _GAP
    sheet = Image.new("RGB", (caption_width + columns * step + _GAP, len(caption_images) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    # DejaVu comes with matplotlib and knows Greek, Cyrillic, Arabic and more; Pillow's own font is Latin only
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 13)
    for row, (caption, images) in enumerate(caption_images.items()):
        top = _GAP + row * step
        lines = _wrap(caption, font, caption_width - 3 * _GAP, max_lines=max(1, cell_size // 17))
        height = 17 * len(lines)
        draw.multiline_text(
            (2 * _GAP, top + (cell_size - height) // 2), "\n".join(lines), fill="black", font=font, spacing=2
        )
        for column, image in enumerate(images):
            sheet.paste(_fit(image, cell_size), (caption_width + _GAP + column * step, top))
    return sheet


def score_plot(results: Sequence[EvaluationResult]) -> bytes:
    """A PNG with one panel a measure and one line an encoder: a dot at the value, a bar over its interval.

    Chance is a dashed line. The same results give the same bytes.

    Raises:
        InputError: there are no results.
    """
    if not results:
        raise InputError("There are 0 results, so there is nothing to plot; evaluate an encoder first.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = list(dict.fromkeys((measure_name(result), result.dataset, result.split) for result in results))
    encoders = list(dict.fromkeys(result.encoder for result in results))
    figure = Figure(figsize=(1.6 + 2.6 * len(measures), 1.1 + 0.38 * len(encoders)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for panel, measure in zip(panels, measures, strict=True):
        own = [result for result in results if (measure_name(result), result.dataset, result.split) == measure]
        for result in own:
            place = encoders.index(result.encoder)
            colour = COLOURS[place % len(COLOURS)]
            panel.plot([100 * result.low, 100 * result.high], [place, place], color=colour, linewidth=2)
            panel.plot([100 * result.value], [place], "o", color=colour, markersize=6)
        if own[0].chance is not None:
            panel.axvline(100 * own[0].chance, color="0.4", linestyle="--", linewidth=1)
            panel.text(100 * own[0].chance, -0.45, " chance", color="0.4", fontsize=7, va="top")
        panel.set_title(measure[0], fontsize=9)
        panel.set_xlabel("per cent", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(encoders)), encoders)
    panels[0].set_ylim(len(encoders) - 0.5, -0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def histogram_plot(histograms: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A PNG with one panel a score: bars over its values, a line at the mean.

    Args:
        histograms: Name -> `edges` (bins + 1), `counts` (bins), `unit` (what is counted) and `mean`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * len(histograms), 3.0), layout="constrained")
    for ax, (name, found) in zip(
        figure.subplots(1, len(histograms), squeeze=False)[0], histograms.items(), strict=True
    ):
        ax.stairs(found["counts"], found["edges"], fill=True, color="0.6")
        ax.axvline(found["mean"], color="0.2")
        ax.set(xlabel=name, ylabel=found["unit"], title=f"mean {found['mean']:.3g}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _fit(image: Image.Image, size: int) -> Image.Image:
    """The picture scaled into a white square of `size` pixels."""
    scale = size / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    cell = Image.new("RGB", (size, size), "white")
    cell.paste(to_rgb(image).resize(shape, method), ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return cell


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int) -> list[str]:
    lines = [""]
    for word in text.split():
        for piece in _pieces(word, font, width):
            longer = f"{lines[-1]} {piece}".strip()
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and font.getlength(lines[-1] + "…") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word cut where it is wider than the column, as the words of scripts without spaces are."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
