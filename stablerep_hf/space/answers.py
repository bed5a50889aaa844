"""What the page answers: no Gradio in it but values of its components, so that it can be read and tested alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from ..errors import InputError
from .gallery import Place, load_collections, load_guidance
from .guidance import Guidance
from .layout import lay_out
from .pictures import read_picture
from .searching import Hit, Searchers
from .settings import SpaceSettings
from .writing import (
    about_html,
    agreement,
    guidance_html,
    heading_html,
    page_title,
    provenance_html,
    status_html,
    tiles_html,
)

ALL = "all"
MOST_LETTERS = 200  # of a text query
# A text is said to match nothing well if so many random strings match as well and none of its words stands below a
# picture. With what ships, that is said of 90% of other random strings, of no caption of the pictures, and of 26% of
# captions that it never saw: by its vectors alone, that encoder takes 61% of its own captions for random strings.
_MOST_NONSENSE = 0.1
_COMPARED = 12  # results of each encoder
_MOST_SIBLINGS = 48

# query as the page keeps it, tiles, status, note on siblings, their tiles, their table
Shown = tuple[dict[str, Any] | None, str, str, str, str, str]


class Answers:
    """The state behind all visitors: pictures, encoders, and what was made of them once.

    Attributes:
        collections: The pictures.
        searchers: The encoders over them.
        uploads: Folder of the pictures that visitors send.
    """

    uploads: str | None = None

    def __init__(self, settings: SpaceSettings) -> None:
        """Load what the first search needs.

        Raises:
            InputError: Something of the settings is not within reach or does not fit.
        """
        self._settings = settings
        self.collections = load_collections(settings)
        self.searchers = Searchers(self.collections, settings)
        for name, rows in self.searchers.first.rows().items():
            self.collections.parts[name].rows = rows  # what it could not decode cannot be shown either
        self._drawn = load_guidance(settings)
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- what the layout asks

    @property
    def reads_texts(self) -> bool:
        """Whether there is a box for words."""
        return self.searchers.first.reads_texts

    @property
    def example_texts(self) -> list[str]:
        """Words to click on."""
        return self._settings.example_texts or next(iter(self.collections.parts.values())).example_texts

    @property
    def sources(self) -> list[str]:
        """Choices of the filter."""
        names = list(self.collections.parts)
        return [ALL, *names] if len(names) > 1 else [ALL]

    @property
    def encoders(self) -> list[str]:
        """Labels of the encoders that can be compared."""
        return self.searchers.labels

    @cached_property
    def guidance_captions(self) -> list[str]:
        """Captions of the guidance tab, [] if it has nothing to show."""
        return list(dict.fromkeys(self._drawn.captions)) if self._drawn is not None else []

    def heading(self) -> str:
        """HTML of the head of the page."""
        return heading_html(self._settings, self.searchers.first, self.collections)

    def about_page(self) -> str:
        """HTML of the last tab."""
        return about_html(self.facts(), self.reads_texts)

    def guidance_lead(self) -> str:
        """HTML above the guidance tab."""
        label = escape(self.searchers.first.label)
        return (
            "<p>Classifier-free guidance pulls a drawing towards its caption and its siblings towards each other. "
            f"Each row has the same seeds. <b>Alignment</b> and <b>diversity</b> are measured here, by {label}.</p>"
        )

    def example_tiles(self, number: int) -> str:
        """HTML of pictures to click on."""
        return self._tiles([self.collections.describe(place) for place in self.collections.examples(number)])

    def title(self) -> str:
        """Title of the browser's window."""
        return page_title(self._settings, self.searchers.first)

    # ---------------------------------------------------------------- search

    def opening(self, asked: Mapping[str, str]) -> tuple[Any, ...]:
        """What is there when the page opens: the search that its address names, or else the first example.

        Args:
            asked: The parameters of the address: `text` or `picture` (COLLECTION:ROW), `show`, `results`.

        Returns:
            The source, the number of results, and as `search_place`.

        Raises:
            InputError: The address names what is not here.
        """
        source, wanted = asked.get("show", ALL), asked.get("results", "")
        count = self._count(int(wanted) if wanted.isdecimal() else self._settings.results)
        if "text" in asked and self.reads_texts:
            return source, count, None, asked["text"], *self.search_text(asked["text"], source, count)
        if "picture" in asked:
            collection, _, row = asked["picture"].partition(":")
            place = self.collections.place(collection, int(row) if row.isdecimal() else None)
            return source, count, *self.search_place(place, source, count)
        if self.reads_texts and self.example_texts:
            text = self.example_texts[0]
            return source, count, None, text, *self.search_text(text, source, count)
        return source, count, *self.search_place(self.collections.examples(1)[0], source, count)

    def search_text(self, text: str, source: str, count: int) -> Shown:
        """Search by words."""
        wanted = _text(text)
        hits = self.searchers.first.by_text(wanted, self._count(count), self._names(source))
        nonsense = self.searchers.first.share_of_nonsense(wanted)
        note = ""
        if nonsense >= _MOST_NONSENSE and not self.collections.knows_a_word_of(wanted):
            note = f"Nothing here matches that well: {nonsense:.0%} of random strings of letters match as well."
        link = self._link({"text": wanted}, source, self._count(count))
        return self._shown({"text": wanted}, hits, f"nearest to “{wanted}”", link=link, note=note)

    def search_picture(self, sent: Any, source: str, count: int) -> Shown:
        """Search by an uploaded picture."""
        hits = self.searchers.first.by_picture(self._picture(sent), self._count(count), self._names(source))
        return self._shown({"picture": True}, hits, "most like your picture")

    def search_place(self, place: Place | tuple[Any, Any], source: str, count: int) -> tuple[Any, ...]:
        """Search by a picture of the page.

        Returns:
            The picture, the words if there is a box for them (none), and what is shown.
        """
        place = self._place(place)
        shown = self._show_place(place, source, count)
        picture = self.collections.picture(place)
        return picture, *([""] if self.reads_texts else []), *shown

    def search_again(self, query: Any, sent: Any, source: str, count: int) -> Shown:
        """Search by the last query with other filters."""
        if not isinstance(query, dict):
            raise InputError("Type words, or choose a picture, to begin.")
        if "text" in query:
            return self.search_text(query["text"], source, count)
        if "place" in query:
            return self._show_place(self._place(query["place"]), source, count)
        return self.search_picture(sent, source, count)

    def _show_place(self, place: Place, source: str, count: int) -> Shown:
        picture = self.collections.picture(place)
        hits = self.searchers.first.by_picture(picture, self._count(count), self._names(source), without=place)
        caption = self.collections.caption(place)
        link = self._link({"picture": f"{place.collection}:{place.row}"}, source, self._count(count))
        what = f"most like “{caption}”" if caption else "most like the chosen one"
        note = agreement([hit.place for hit in hits], place, self.collections)
        return self._shown({"place": [place.collection, place.row]}, hits, what, place, link=link, note=note)

    def _link(self, query: dict[str, str], source: str, count: int) -> str:
        """The address, relative to the page's, that opens a search; see `opening`."""
        chosen = {} if source == ALL else {"show": source}
        return "?" + urlencode({**query, **chosen, **({} if count == self._settings.results else {"results": count})})

    def _tiles(self, described: list[dict[str, Any]], query: tuple[str, int] | None = None) -> str:
        return tiles_html(described, query, name_collection=len(self.collections.parts) > 1)

    def _shown(
        self,
        query: dict[str, Any],
        hits: Sequence[Hit],
        what: str,
        place: Place | None = None,
        *,
        link: str = "",
        note: str = "",
    ) -> Shown:
        found = self._tiles(self._describe(hits))
        status = status_html(f"{len(hits)} of {len(self.collections):,} pictures, {what}.", note, link)
        if not self.collections.has_siblings:
            return query, found, status, "", "", ""
        if place is None:
            return query, found, status, "Choose a picture to see all of its caption.", "", ""
        places = self.collections.siblings(place)
        known = [self.collections.describe(sibling) for sibling in places[:_MOST_SIBLINGS]]
        family = f"{len(places)} of “{escape(self.collections.caption(place))}”"
        family += f", the first {_MOST_SIBLINGS} shown" if len(places) > _MOST_SIBLINGS else ""
        return query, found, status, family, self._tiles(known, (place.collection, place.row)), provenance_html(known)

    # ---------------------------------------------------------------- compare

    def compare_picture(self, sent: Any, left: str, right: str) -> tuple[Any, ...]:
        """Two encoders, asked by an uploaded picture."""
        picture = self._picture(sent)
        return {"picture": True}, *self._side(left, picture, None), *self._side(right, picture, None)

    def compare_place(self, place: Place | tuple[Any, Any], left: str, right: str) -> tuple[Any, ...]:
        """Two encoders, asked by a picture of the page; it comes first."""
        place = self._place(place)
        picture = self.collections.picture(place)
        query = {"place": [place.collection, place.row]}
        return picture, query, *self._side(left, picture, place), *self._side(right, picture, place)

    def compare_again(self, query: Any, sent: Any, left: str, right: str) -> tuple[Any, ...]:
        """The last query with other encoders; nothing if there was none."""
        if not isinstance(query, dict):
            return None, "", "", "", ""
        if "place" in query:
            return self.compare_place(tuple(query["place"]), left, right)[1:]
        return self.compare_picture(sent, left, right)

    def _side(self, label: str, picture: Image.Image, place: Place | None) -> tuple[str, str]:
        searcher = self.searchers[label]
        hits = searcher.by_picture(picture, _COMPARED, list(self.collections.parts), without=place)
        note = agreement([hit.place for hit in hits], place, self.collections) if place is not None else ""
        return status_html(f"First {len(hits)} of {label}.", note), self._tiles(self._describe(hits))

    # ---------------------------------------------------------------- map

    def map(self) -> dict[str, Any]:
        """Value of the map, made once."""
        with self._lock:
            return self._map

    @cached_property
    def _map(self) -> dict[str, Any]:
        return lay_out(self.searchers.first, self.collections, self._settings.map_size)

    # ---------------------------------------------------------------- guidance

    def guidance_table(self, caption: str) -> str:
        """HTML of one caption's rows, a guidance scale each, and the means over all captions."""
        if caption not in self.guidance_captions:
            raise InputError("That caption was not drawn at several guidance scales: choose one of the list.")
        with self._lock:
            return guidance_html(self.guidance, caption)

    @cached_property
    def guidance(self) -> Guidance:
        """What was measured of the guidance scales."""
        assert self._drawn is not None  # else it has no captions
        return Guidance(self._drawn, self.searchers.first)

    # ---------------------------------------------------------------- programs

    def describe_text(self, text: str, source: str, results: int) -> list[dict[str, Any]]:
        """Search by words, as JSON values; see `Collection.describe`."""
        return self._describe(self.searchers.first.by_text(_text(text), self._count(results), self._names(source)))

    def describe_picture(self, sent: Any, source: str, results: int) -> list[dict[str, Any]]:
        """Search by a picture, likewise."""
        picture = self._picture(sent)
        return self._describe(self.searchers.first.by_picture(picture, self._count(results), self._names(source)))

    def _describe(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        return [self.collections.describe(hit.place, hit.score) for hit in hits]

    def describe_siblings(self, collection: str, row: int) -> list[dict[str, Any]]:
        """All pictures of a caption, likewise."""
        places = self.collections.siblings(self.collections.place(collection, row))
        return [self.collections.describe(place) for place in places[:_MOST_SIBLINGS]]

    def facts(self) -> dict[str, Any]:
        """What is searched by what, as JSON values."""
        first = self.searchers.first
        settings = self._settings
        return {
            "encoder": _public_name(settings.encoder),
            "encoder_name": first.label,
            "parameters": sum(parameter.numel() for parameter in first.vision.whole.parameters()),
            "compare": self.encoders,
            "dataset": _public_name(settings.dataset),
            "split": settings.split,
            "synthetic_dataset": _public_name(str(settings.synthetic_dataset)),
            "synthetic_split": settings.synthetic_split,
            "collections": {name: len(part) for name, part in self.collections.parts.items()},
            "indexes": {name: vars(facts) for name, facts in first.facts().items()},
            "reads_texts": self.reads_texts,
        }

    # ---------------------------------------------------------------- what people send

    def _picture(self, sent: Any) -> Image.Image:
        """A picture, or the one that the reference to an upload names; see `read_picture`."""
        if sent is None or (self.uploads is None and not isinstance(sent, Image.Image)):
            raise InputError("There is no picture yet: drop one, or choose one that is shown.")
        if isinstance(sent, Image.Image):
            return sent
        return read_picture(
            sent.get("path") if isinstance(sent, dict) else sent,
            str(self.uploads),
            most_bytes=round(1e6 * self._settings.most_upload_megabytes),
            most_pixels=round(1e6 * self._settings.most_megapixels),
        )

    def _place(self, place: Place | tuple[Any, Any] | list[Any]) -> Place:
        return place if isinstance(place, Place) else self.collections.place(*place)

    def _count(self, count: Any) -> int:
        if isinstance(count, bool) or not isinstance(count, int | float) or not count == count:
            raise InputError("The number of results must be a number.")
        return int(min(max(count, 1), self._settings.most_results))

    def _names(self, source: Any) -> list[str]:
        if source == ALL:
            return list(self.collections.parts)
        if not isinstance(source, str) or source not in self.collections.parts:
            raise InputError(f"There is no such source: choose one of {', '.join(self.sources)}.")
        return [source]


def _public_name(name: str) -> str:
    """A name of the settings as visitors may see it: of a folder of this machine only the last part."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _text(text: Any) -> str:
    """The words of a text query; `InputError` if it is empty, too long, or no text."""
    if not isinstance(text, str):
        raise InputError("Words must be text.")
    if len(text) > 10 * MOST_LETTERS or len(words := " ".join(text.split())) > MOST_LETTERS:
        raise InputError(f"That is {len(text):,} letters, and at most {MOST_LETTERS} are read: say it in fewer words.")
    if not words:
        raise InputError("There are no words yet: type some, such as what a picture shows.")
    return words
