"""Sentences and tables of the page, as HTML. Whatever comes from data or visitors is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .gallery import PROVENANCE, REAL, SYNTHETIC, Collections, Place
from .settings import EMBEDDED, NONE, SpaceSettings

if TYPE_CHECKING:
    from .guidance import Guidance
    from .searching import Searcher


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
    lines = []
    for entry in described:
        caption = entry["caption"]
        group = "" if entry["group"] == caption else entry["group"]
        collection = entry["collection"] if name_collection else ""
        score = "" if entry["score"] is None else f"{entry['score']:.3f}"
        known = [caption or f"picture {entry['row'] + 1}", f"similarity {score}" if score else "", group, collection]
        name = ", ".join(word for word in known if word)
        origin = "\n".join(f"{key}: {value}" for key, value in entry["provenance"].items())
        marked = " query" if query == (entry["collection"], entry["row"]) else ""
        lines.append(
            f'<li><button type="button" class="tile{marked}" data-collection="{escape(entry["collection"])}" '
            f'data-row="{entry["row"]}" title="{escape(origin or name)}" '
            f'aria-label="{escape(name)}. Search by this picture"><img src="{entry["image"]}" alt="">'
            f"{_span('caption', caption)}{_span('group', group)}"
            f'<span class="facts"><b>{score}</b>{_span(f"source {collection}", collection)}</span></button></li>'
        )
    return f'<ul class="grid">{"".join(lines)}</ul>'


def status_html(sentence: str, note: str = "", link: str = "") -> str:
    """What a search found; read aloud when it changes. `link` is an address that opens the same search."""
    anchor = f' <a href="{escape(link)}">Link to this search</a>' if link else ""
    return f'<p role="status">{escape(sentence)}{" " + escape(note) if note else ""}{anchor}</p>'


def refusal_html(sentence: str, about: str = "") -> str:
    """Why something that was asked for was not done; read aloud at once. `about` tells the page of which upload."""
    return f'<p class="refused" role="alert" data-about="{escape(about)}">{escape(sentence)}</p>'


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
    if not columns:
        return ""
    head = "".join(f"<th scope='col'>{escape(name.replace('_', ' '))}</th>" for name in columns)
    rows = "".join(
        f"<tr><th scope='row'><img src='{entry['image']}' alt=''> {escape(entry['collection'])}</th>"
        + "".join(f"<td>{escape(entry['provenance'].get(name, ''))}</td>" for name in columns)
        + "</tr>"
        for entry in described
    )
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Seeds and provenance'>"
        f"<table><thead><tr><th scope='col'>picture</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def guidance_html(guidance: Guidance, caption: str) -> str:
    """A caption's images and numbers at each guidance scale, beside the means over all captions."""
    means = {scale: (alignment, diversity) for scale, alignment, diversity in guidance.means()}
    most = max((len(row.images) for row in guidance.rows(caption)), default=1)
    lines = []
    for row in guidance.rows(caption):
        images = "".join(
            f"<img src='{entry['image']}' alt='drawing of {escape(caption)}' "
            f"title='seed {escape(entry['provenance'].get('seed', ''))}'>"
            for entry in row.images
        )
        alignment, diversity = means[row.scale]
        lines.append(
            f"<tr><th scope='row'>{row.scale:g}</th><td class='drawn'>{images}</td>"
            f"{_bar(row.alignment, 1)}{_bar(row.diversity, most)}"
            f"<td class='number'>{_number(alignment)}</td><td class='number'>{_number(diversity)}</td></tr>"
        )
    number = len(guidance.captions)
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Guidance scales'><table><thead>"
        f"<tr><th rowspan='2' scope='col'>guidance scale</th><th colspan='3' scope='colgroup'>{escape(caption)}</th>"
        f"<th colspan='2' scope='colgroup'>mean of {number} captions</th></tr>"
        "<tr><th scope='col'>drawn</th><th scope='col'>alignment</th><th scope='col'>diversity</th>"
        "<th scope='col'>alignment</th><th scope='col'>diversity</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        "<p class='small'>Alignment: mean cosine of image and caption. Diversity: Vendi score, the effective number "
        f"of different images, 1 to {most}. Measured by the encoder that searches, which saw drawings of this kind: "
        "compare rows with each other, not with other papers' numbers.</p>"
    )


def about_html(facts: dict[str, Any], reads_texts: bool) -> str:
    """What is searched by what, and how programs ask."""
    small = ""
    if facts["encoder"] == EMBEDDED:
        small = (
            "<p>What ships is small: 32 x 32 pixels, 1,315 captions, minutes of training on a CPU. Its words reach "
            "little further than colours and kinds of things; pictures find pictures better.</p>"
        )
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
    if facts["synthetic_dataset"] == NONE:
        drawn = {}
    else:
        drawn = {"synthetic pictures": f"{facts['synthetic_dataset']}, split {facts['synthetic_split']}"}
    rows = {
        "encoder": f"{facts['encoder_name']} ({facts['parameters'] / 1e6:.2g} M parameters)",
        "real pictures" if drawn else "pictures": f"{facts['dataset']}, split {facts['split']}",
        **drawn,
        "index": "<br>".join(map(escape, indexes)),
    }
    lines = "".join(
        f"<tr><th scope='row'>{name}</th><td>{value if name == 'index' else escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    endpoint, argument = (
        ("search_by_text", '"a red heart"') if reads_texts else ("search_by_picture", "handle_file(FILE)")
    )
    return (
        f"<table><tbody>{lines}</tbody></table>{small}"
        "<h2>For programs</h2><pre>from gradio_client import Client, handle_file\n"
        'found = Client("<span class="address">THIS PAGE</span>").predict('
        f'{argument}, "all", 12, api_name="/{endpoint}")</pre>'
        "<p>Also <code>/search_by_picture</code>, <code>/siblings</code> and <code>/about</code>: see “Use via API” "
        "below.</p>"
        "<h2>What it does with what you send</h2><p>Pictures are decoded to be searched by and removed within the "
        "hour; words are not kept. Nothing goes to other servers.</p>"
    )


def _span(kind: str, text: str) -> str:
    return f'<span class="{escape(kind)}">{escape(text)}</span>' if text else ""


def _bar(value: float | None, most: float) -> str:
    width = 0 if value is None else max(0.0, min(1.0, value / most))
    return f"<td class='number'><span class='bar' style='--part:{width:.3f}'></span>{_number(value)}</td>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
