"""Sentences and tables of the page, as HTML. Whatever comes from data or visitors is escaped by `fragments.html`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .gallery import PROVENANCE, REAL, SYNTHETIC, Collections, Place
from .settings import EMBEDDED, NONE, SpaceSettings

if TYPE_CHECKING:
    from .guidance import Guidance
    from .searching import Searcher

_FRAGMENTS: Any = (
    Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    .get_template("fragments.html")
    .module
)


def heading_html(settings: SpaceSettings, searcher: Searcher, collections: Collections) -> str:
    """The head of the page: what it is, in two lines."""
    real, drawn = (len(collections.parts.get(name, ())) for name in (REAL, SYNTHETIC))
    lead = f"<b>{escape(searcher.label)}</b> searches {real:,} pictures by picture"
    lead += " and words" if searcher.reads_texts else ""
    if settings.encoder == EMBEDDED and settings.dataset == EMBEDDED:
        lead = (
            f"An encoder that learned from <b>synthetic drawings of captions alone</b> searches {real:,} real "
            "pictograms by human artists that it never saw"
        )
    lead += f", and {drawn:,} drawings with their origin." if drawn else "."
    return f"<h1>{escape(page_title(settings, searcher))}</h1><p>{lead} Choose a result to search by it.</p>"


def page_title(settings: SpaceSettings, searcher: Searcher) -> str:
    """The title of the settings, or one that promises no more than the encoder can."""
    return settings.title or f"Find pictures by picture{' or words' if searcher.reads_texts else ''}"


def tiles_html(
    described: Sequence[dict[str, Any]], query: tuple[str, int] | None = None, *, name_collection: bool = True
) -> str:
    """Pictures (see `Collection.describe`) as a list of buttons, for `components.picture_grid`.

    Args:
        described: The pictures.
        query: Collection and row of the one that is marked.
        name_collection: Say which collection each picture is of.
    """
    entries = []
    for entry in described:
        caption, score = entry["caption"], "" if entry["score"] is None else f"{entry['score']:.3f}"
        group = "" if entry["group"] == caption else entry["group"]
        source = entry["collection"] if name_collection else ""
        known = [caption or f"picture {entry['row'] + 1}", f"similarity {score}" if score else "", group, source]
        own = {
            "score": score,
            "group": group,
            "source": source,
            "name": ", ".join(filter(None, known)),
            "origin": "\n".join(f"{key}: {value}" for key, value in entry["provenance"].items()),
            "is_query": query == (entry["collection"], entry["row"]),
        }
        entries.append(entry | own)
    return str(_FRAGMENTS.tiles(entries))


def status_html(sentence: str, note: str = "", link: str = "") -> str:
    """What a search found; read aloud when it changes. `link` is an address that opens the same search."""
    return str(_FRAGMENTS.status(sentence, note, link))


def refusal_html(sentence: str, about: str = "") -> str:
    """Why something that was asked for was not done; read aloud at once. `about` tells the page of which upload."""
    return str(_FRAGMENTS.refusal(sentence, about))


def agreement(found: Sequence[Place], query: Place, collections: Collections) -> str:
    """How many results share the query's caption and group, as far as these are known."""
    counts = []
    family = set(collections.siblings(query))
    if len(family) > 1:
        counts.append(f"{len(family.intersection(found))} of its caption")
    if group := collections.group(query):
        known = [collections.group(place) for place in found if collections.group(place)]
        counts.append(f"{known.count(group)} of {len(known)} of its group, {group}")
    return f"Among them {'; '.join(counts)}." if counts else ""


def provenance_html(described: Sequence[dict[str, Any]]) -> str:
    """A table of where pictures come from, with the columns that any of them has."""
    columns = [name for name in PROVENANCE if any(name in entry["provenance"] for entry in described)]
    return str(_FRAGMENTS.provenance(columns, described)) if columns else ""


def guidance_html(guidance: Guidance, caption: str) -> str:
    """A caption's images and numbers at each guidance scale, beside the means over all captions."""
    means = {scale: (alignment, diversity) for scale, alignment, diversity in guidance.means()}
    rows = guidance.rows(caption)
    most = max((len(row.images) for row in rows), default=1)
    return str(_FRAGMENTS.guidance(caption, rows, means, len(guidance.captions), most))


def about_html(facts: dict[str, Any], reads_texts: bool) -> str:
    """What is searched by what, and how programs ask."""
    indexes = []
    for name, index in facts["indexes"].items():
        how = "exact scan, recall 1 by construction"
        if index["kind"] != "exact":
            how = (
                f"HNSW graph, recall@10 {index['recall']:.3f} against the exact scan "
                f"(measured when it was built, {index['probes']} queries)"
            )
        named = f"{name} " if len(facts["indexes"]) > 1 else ""
        indexes.append(f"{index['count']:,} {named}pictures x {index['dimensions']} dimensions: {how}")
    is_alone = facts["synthetic_dataset"] == NONE
    rows = {
        "encoder": f"{facts['encoder_name']} ({facts['parameters'] / 1e6:.2g} M parameters)",
        "pictures" if is_alone else "real pictures": f"{facts['dataset']}, split {facts['split']}",
    }
    if not is_alone:
        rows["synthetic pictures"] = f"{facts['synthetic_dataset']}, split {facts['synthetic_split']}"
    argument, endpoint = (
        ('"a red heart"', "search_by_text") if reads_texts else ("handle_file(FILE)", "search_by_picture")
    )
    return str(_FRAGMENTS.about(rows, indexes, facts["encoder"] == EMBEDDED, argument, endpoint))
