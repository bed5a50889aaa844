"""Gradio components of the page: a grid of pictures to click on, and a map of them.

Gradio puts values that a component's template names into a JavaScript template literal, where they could run in the
visitor's browser. The templates here name no value: grids get HTML that `writing.tiles_html` has escaped, and the map
sets text by `textContent`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

_FOLDER = Path(__file__).parent

_GRID_EVENTS = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('button.tile');
  if (tile) {
    trigger('select', {collection: tile.dataset.collection, row: Number(tile.dataset.row)});
  }
});
"""


# Functions, not subclasses: for each of those Gradio writes a stub beside its source.


def picture_grid(label: str, value: str = "", **options: Any) -> gr.HTML:
    """Pictures as buttons (`writing.tiles_html`); choosing one sends `select` with its `collection` and `row`."""
    return gr.HTML(value, label=label, js_on_load=_GRID_EVENTS, **options)


def picture_map(label: str, **options: Any) -> gr.HTML:
    """Pictures as points of a plane, with a thumbnail under the pointer; `select` as of `picture_grid`.

    Its value is a dict: `points`, a list of [x, y, collection, row, caption, group number] with x and y from 0 to 1;
    `groups`, their names; `note`, a sentence; `several`, whether there are several collections; `atlas`, a data URL of
    all thumbnails, `side` pixels each, `columns` a row.
    """
    return gr.HTML(
        {
            "points": [],
            "groups": [],
            "note": "Laying the pictures out ...",
            "several": False,
            "atlas": "",
            "side": 1,
            "columns": 1,
        },
        label=label,
        html_template=(_FOLDER / "map.html").read_text("utf-8"),
        js_on_load=(_FOLDER / "map.js").read_text("utf-8"),
        **options,
    )
