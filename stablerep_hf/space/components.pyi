"""Gradio components of the page: a grid of pictures to click on, a map of them, and an upload that is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ..errors import InputError
from .pictures import read_picture

_FOLDER = Path(__file__).parent

_GRID = """
<ul class="grid">{{#each value}}
<li><button type="button" class="tile{{#if this.query}} query{{/if}}" data-collection="{{this.collection}}"
 data-row="{{this.row}}" {{#if this.fixed}}disabled{{/if}} title="{{this.hint}}" aria-label="{{this.label}}">
<img src="{{this.image}}" alt="" loading="lazy">
<span class="caption">{{this.caption}}</span>
<span class="facts">{{#if this.shown}}<b>{{this.shown}}</b>{{/if}}
{{#if this.group}}<span>{{this.group}}</span>{{/if}}<span class="source {{this.collection}}">{{this.source}}</span></span>
</button></li>{{/each}}</ul>
"""
_GRID_EVENTS = """
element.addEventListener('click', (event) => {
  const tile = event.target.closest('button.tile');
  if (tile && !tile.disabled) {
    trigger('select', {collection: tile.dataset.collection, row: Number(tile.dataset.row)});
  }
});
"""

from gradio.events import Dependency

class PictureGrid(gr.HTML):
    """Pictures as buttons; choosing one sends `select` with its `collection` and `row`.

    Its value is a list of what `tiles` returns.
    """

    def __init__(self, label: str, value: list[dict[str, Any]] | None = None, **options: Any) -> None:
        super().__init__(value or [], label=label, html_template=_GRID, js_on_load=_GRID_EVENTS, **options)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class PictureMap(gr.HTML):
    """Pictures as points of a plane, with a thumbnail under the pointer; `select` as of `PictureGrid`.

    Its value is a dict: `points`, a list of [x, y, collection, row, caption, group number] with x and y from 0 to 1;
    `groups`, their names; `note`, a sentence; `atlas`, a data URL of all thumbnails, `side` pixels each, `columns` a
    row.
    """

    def __init__(self, label: str, **options: Any) -> None:
        super().__init__(
            {"points": [], "groups": [], "note": "", "atlas": "", "side": 1, "columns": 1},
            label=label,
            html_template=(_FOLDER / "map.html").read_text("utf-8"),
            js_on_load=(_FOLDER / "map.js").read_text("utf-8"),
            **options,
        )
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class PictureUpload(gr.Image):
    """gr.Image whose upload is checked by `read_picture` before anything decodes it, and which fetches no address."""

    is_template = True  # the browser's half is gr.Image's

    def __init__(self, *, most_bytes: int, most_pixels: int, **options: Any) -> None:
        self.most_bytes, self.most_pixels = most_bytes, most_pixels
        super().__init__(type="pil", sources=["upload", "clipboard"], **options)

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Leave an upload where it is, and fetch nothing."""
        return None if url_or_file_path is None else str(url_or_file_path)

    def preprocess(self, payload: Any) -> Any:
        """FileData to a picture, RGB; None stays None.

        Raises:
            gr.Error: Whatever is wrong with it, in a sentence.
        """
        if payload is None:
            return None
        return checked_upload(payload.path, self.most_bytes, self.most_pixels)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

def checked_upload(path: Any, most_bytes: int, most_pixels: int) -> Any:
    """The picture of an upload; its faults as what Gradio shows in the page."""
    try:
        return read_picture(str(path), get_upload_folder(), most_bytes=most_bytes, most_pixels=most_pixels)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False, title="That picture") from None

def tiles(
    described: list[dict[str, Any]], query: tuple[str, int] | None = None, *, fixed: bool = False
) -> list[dict[str, Any]]:
    """Descriptions of pictures (see `Collection.describe`) as a grid shows them.

    Args:
        described: The pictures.
        query: Collection and row of the one that is marked.
        fixed: Nothing happens when one is clicked on.
    """
    result = []
    for entry in described:
        caption = entry["caption"] or "no caption"
        score = "" if entry["score"] is None else f"{entry['score']:.2f}"
        source = {"real": "real", "synthetic": "synthetic"}.get(entry["collection"], "")
        known = [caption, f"similarity {score}" if score else "", entry["group"], source]
        told = ", ".join(word for word in known if word)
        origin = "\n".join(f"{name}: {value}" for name, value in entry["provenance"].items())
        result.append(
            {
                **{key: entry[key] for key in ("collection", "row", "image", "group")},
                "caption": caption,
                "shown": score or entry.get("shown", ""),
                "source": source,
                "label": told if fixed else f"{told}. Search by this picture",
                "hint": origin or told,
                "query": query == (entry["collection"], entry["row"]),
                "fixed": fixed,
            }
        )
    return result
