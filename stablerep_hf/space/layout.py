"""The map: all pictures of the page on a plane, as near to each other as an encoder has them."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from ..retrieval.projection import project
from .gallery import Collections
from .searching import Searcher

_COLOURS, _OTHER = 8, "other"
_SIDE = 32  # pixels of a thumbnail


def lay_out(searcher: Searcher, collections: Collections, most: int) -> dict[str, Any]:
    """The value of `components.picture_map`, of at most so many pictures, spread over all."""
    every = searcher.places()
    chosen = np.linspace(0, len(every) - 1, min(len(every), most)).astype(int)
    places = [every[number] for number in chosen.tolist()]
    laid = project(searcher.sample(places))
    counts = Counter(collections.group(place) or _OTHER for place in places)
    groups = sorted(group for group, _ in counts.most_common(_COLOURS) if group != _OTHER)
    if groups and len(counts) > len(groups):
        groups = [*groups[: _COLOURS - 1], _OTHER]
    numbers = {group: number for number, group in enumerate(groups)}
    columns = int(np.ceil(np.sqrt(len(places))))
    atlas = Image.new("RGB", (columns * _SIDE, -(-len(places) // columns) * _SIDE), "white")
    points = []
    for number, (place, point) in enumerate(zip(places, laid.points.tolist(), strict=True)):
        thumbnail = collections.picture(place).resize((_SIDE, _SIDE))
        atlas.paste(thumbnail, (number % columns * _SIDE, number // columns * _SIDE))
        group = numbers.get(collections.group(place), max(0, len(groups) - 1))
        where = [round(value, 4) for value in point]
        points.append([*where, place.collection, place.row, collections.caption(place), group])
    several = len(collections.parts) > 1
    stream = io.BytesIO()
    atlas.save(stream, "WEBP", quality=80)
    how = "UMAP, which keeps neighbours together"
    if laid.variance is not None:
        how = f"the first two principal components, which hold {laid.variance:.0%} of the variance"
    return {
        "points": points,
        "groups": groups,
        "note": f"{len(points):,} of {len(every):,} pictures in the features of {searcher.label}, on "
        f"{how}.{' Circles are real, diamonds synthetic.' if several else ''} Choose one to search by it.",
        "atlas": f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}",
        "several": several,
        "side": _SIDE,
        "columns": columns,
    }
