"""Which plot shows which claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation import EvaluationResult
from .cells import ImageSet
from .claims import Claim
from .figures import Panel, Point, dot_panels, line_panels, name_of

Combined = Mapping[str, Mapping[str, EvaluationResult]]


def plot_claim(claim: Claim, combined: Combined, described: Mapping[ImageSet, Mapping[str, Any]]) -> bytes | None:
    """A PNG, or None while there is nothing to show."""
    if not combined:
        return None
    match claim.number:
        case 2:
            return _by_guidance(claim, combined, described)
        case 3:
            return _lines(claim, combined, "images per caption", lambda setting: setting.images.images_per_caption)
        case 4:
            return _lines(claim, combined, "captions", lambda setting: setting.images.captions)
        case 7:
            return _lines(claim, combined, "views", lambda setting: setting.steps * setting.views)
    points = {
        name_of(measure): {
            label: _point(results[measure]) for label, results in combined.items() if measure in results
        }
        for measure in claim.measures
    }
    # where there are baselines the axis reaches down to chance anyway
    chance: dict[str, float] = {}
    for results in combined.values() if claim.number == 1 else ():
        for measure in claim.measures:
            if measure in results and (level := results[measure].chance) is not None:
                chance[name_of(measure)] = level
    return dot_panels(points, chance)


def _by_guidance(claim: Claim, combined: Combined, described: Mapping[ImageSet, Mapping[str, Any]]) -> bytes:
    panels = _panels(claim, combined, lambda setting: setting.images.guidance_scale)
    for name in ("alignment", "diversity") if described else ():
        line = {
            images.guidance_scale: Point(*(record[name][key] for key in ("value", "low", "high")))
            for images, record in described.items()
        }
        panels.append(Panel(name_of(name), {"the images": line}, percent=False))
    return line_panels(panels, "guidance scale")


def _lines(claim: Claim, combined: Combined, x_label: str, x_of: Any) -> bytes:
    return line_panels(_panels(claim, combined, x_of), x_label)


def _panels(claim: Claim, combined: Combined, x_of: Any) -> list[Panel]:
    """One a measure; a line is what stands before the comma of a label."""
    panels = []
    for measure in claim.measures:
        lines: dict[str, dict[float, Point]] = {}
        for label, results in combined.items():
            if measure in results:
                line = lines.setdefault(label.rpartition(", ")[0], {})
                line[float(x_of(claim.settings[label]))] = _point(results[measure])
        panels.append(Panel(name_of(measure), lines))
    return panels


def _point(result: EvaluationResult) -> Point:
    return Point(result.value, result.low, result.high)
