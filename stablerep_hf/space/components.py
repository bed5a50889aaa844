"""Gradio components of the page: a grid of pictures to click on, and a map of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

_FOLDER = Path(__file__).parent

_GRID = """
<ul class="grid">{{#each value}}
<li><button type="button" class="tile{{#if this.query}} query{{/if}}" data-collection="{{this.collection}}"
 data-row="{{this.row}}" title="{{this.hint}}" aria-label="{{this.label}}">
<img src="{{this.image}}" alt="">
<span class="caption">{{this.caption}}</span>
<span class="group">{{this.group}}</span>
<span class="facts"><b>{{this.score}}</b><span class="source {{this.collection}}">{{this.collection}}</span></span>
</button></li>{{/each}}</ul>
"""
_GRID_EVENTS = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('button.tile');
  if (tile) {
    trigger('select', {collection: tile.dataset.collection, row: Number(tile.dataset.row)});
  }
});
"""


# Functions, not subclasses: for each of those Gradio writes a stub beside its source.


def picture_grid(label: str, value: list[dict[str, Any]] | None = None, **options: Any) -> gr.HTML:
    """Pictures as buttons; choosing one sends `select` with its `collection` and `row`.

    Args:
        label: What it is called.
        value: What `tiles` returns.
        options: For `gradio.HTML`.
    """
    return gr.HTML(value or [], label=label, html_template=_GRID, js_on_load=_GRID_EVENTS, **options)


def picture_map(label: str, **options: Any) -> gr.HTML:
    """Pictures as points of a plane, with a thumbnail under the pointer; `select` as of `picture_grid`.

    Its value is a dict: `points`, a list of [x, y, collection, row, caption, group number] with x and y from 0 to 1;
    `groups`, their names; `note`, a sentence; `atlas`, a data URL of all thumbnails, `side` pixels each, `columns` a
    row.
    """
    return gr.HTML(
        {"points": [], "groups": [], "note": "Laying the pictures out ...", "atlas": "", "side": 1, "columns": 1},
        label=label,
        html_template=(_FOLDER / "map.html").read_text("utf-8"),
        js_on_load=(_FOLDER / "map.js").read_text("utf-8"),
        **options,
    )


def tiles(described: list[dict[str, Any]], query: tuple[str, int] | None = None) -> list[dict[str, Any]]:
    """Descriptions of pictures (see `Collection.describe`) as a grid shows them.

    Args:
        described: The pictures.
        query: Collection and row of the one that is marked.
    """
    result = []
    for entry in described:
        caption = entry["caption"] or "no caption"
        score = "" if entry["score"] is None else f"{entry['score']:.3f}"
        known = [caption, f"similarity {score}" if score else "", entry["group"], entry["collection"]]
        told = ", ".join(word for word in known if word)
        origin = "\n".join(f"{name}: {value}" for name, value in entry["provenance"].items())
        result.append(
            {
                **{key: entry[key] for key in ("collection", "row", "image", "group")},
                "caption": caption,
                "score": score,
                "label": f"{told}. Search by this picture",
                "hint": origin or told,
                "query": query == (entry["collection"], entry["row"]),
            }
        )
    return result
