"""The page: its layout, and what each control does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.events import api
from gradio.utils import get_upload_folder

from ..errors import InputError
from .answers import ALL, MOST_LETTERS, Answers
from .components import picture_grid, picture_map
from .settings import SpaceSettings
from .writing import refusal_html

# In the browser: the address becomes that of the search, and on a narrow screen what was found comes into view.
_LINK = """() => {
  const link = document.querySelector('#status a');
  history.replaceState(null, '', link ? link.href : location.pathname);
}"""
_SHOW = (
    _LINK.rpartition("}")[0]
    + """
  const wanted = document.querySelector('#notice .refused') || document.querySelector('#status');
  if (innerWidth <= 640 && wanted) wanted.scrollIntoView();
}"""
)
# In the browser: a box of uploads is emptied of what was refused, and of nothing that was put there meanwhile.
_EMPTY = "(file, notice) => file && (notice || '').includes(file.path.split(/[\\\\/]/).at(-2)) ? null : file"
_ADDRESS = "element.querySelector('.address').textContent = location.origin + location.pathname;"


def build_demo(settings: SpaceSettings, answers: Answers | None = None) -> gr.Blocks:
    """Load encoder and pictures, and lay the page out.

    Args:
        settings: From `read_settings`.
        answers: What answers its questions; made of the settings if not given.

    Returns:
        The page, for `launch` of this package: launched otherwise it lacks its style and its guard.

    Raises:
        InputError: An encoder, data set or index of the settings is not within reach or does not fit.
    """
    answers = answers or Answers(settings)
    answers.uploads = get_upload_folder()
    demo = gr.Blocks(title=answers.title(), analytics_enabled=False, delete_cache=(300, 3000))
    with demo:
        gr.HTML(answers.heading(), elem_id="heading", js_on_load=None)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Search", id="search"):
                search = _search_tab(answers, settings)
            with gr.Tab("Compare", id="compare") as compare_tab:
                _compare_tab(answers, compare_tab)
            with gr.Tab("Map", id="map") as map_tab:
                drawn_map = picture_map("Map of the pictures", elem_id="map")
            if answers.guidance_captions:
                with gr.Tab("Guidance", id="guidance") as guidance_tab:
                    _guidance_tab(answers, guidance_tab)
            with gr.Tab("About", id="about"):
                gr.HTML(answers.about_page(), elem_id="about", js_on_load=_ADDRESS)

        def opening(request: gr.Request) -> tuple[Any, ...]:
            return answers.opening(dict(request.query_params))

        def opening_without_link() -> tuple[Any, ...]:
            return answers.opening({})

        _on(demo.load, opening, None, [*search.filters, *search.outputs], search.notice, instead=opening_without_link)
        _on(map_tab.select, answers.map, None, drawn_map)

        def search_from_map(source: str, count: int, event: gr.EventData) -> tuple[Any, ...]:
            return gr.Tabs(selected="search"), *answers.search_place(_place_of(event), source, count)

        _on(drawn_map.select, search_from_map, search.filters, [tabs, *search.outputs], search.notice, js=_SHOW)
        _add_api(answers, settings)
    demo.queue(max_size=settings.queue_size, default_concurrency_limit=4, api_open=False)
    return demo


class _SearchTab(NamedTuple):
    """What other parts of the page need of the search tab."""

    filters: list[Any]
    outputs: list[Any]
    notice: gr.HTML


def _search_tab(answers: Answers, settings: SpaceSettings) -> _SearchTab:
    words: gr.Textbox | None = None
    chips: list[gr.Button] = []
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280, elem_id="ask"):
            if answers.reads_texts:
                words = gr.Textbox(
                    label="Words",
                    placeholder="such as: " + ", ".join(answers.example_texts[:2]) if answers.example_texts else None,
                    max_length=MOST_LETTERS,
                    submit_btn="Search",
                    elem_id="words",
                )
                with gr.Row(elem_id="chips", visible=bool(answers.example_texts)):
                    chips = [gr.Button(text, size="sm", min_width=40) for text in answers.example_texts]
            notice = gr.HTML(elem_id="notice", js_on_load=None)
            picture = _upload("Or a picture" if words is not None else "A picture", elem_id="picture")
            gr.HTML("<h2>Or one of these</h2>", js_on_load=None, elem_classes="head")
            examples = picture_grid("Examples", answers.example_tiles(8), elem_id="examples", elem_classes="small")
        with gr.Column(scale=3, min_width=320):
            with gr.Row(elem_id="filters"):
                source = gr.Radio(
                    answers.sources, value=ALL, label="Show", elem_id="source", visible=len(answers.sources) > 1
                )
                count = gr.Slider(
                    1, settings.most_results, value=settings.results, step=1, label="Results", elem_id="count"
                )
            status = gr.HTML(elem_id="status", js_on_load=None)
            results = picture_grid("Results", elem_id="results")
            has_siblings = answers.collections.has_siblings
            with gr.Accordion(
                "Siblings: all pictures of one caption", open=True, elem_id="siblings-box", visible=has_siblings
            ):
                siblings_note = gr.HTML(elem_id="siblings-note", js_on_load=None)
                siblings = picture_grid("Siblings", elem_id="siblings", elem_classes="small")
                provenance = gr.HTML(elem_id="provenance", js_on_load=None)
    query = gr.State(None)
    filters: list[Any] = [source, count]
    shown: list[Any] = [query, results, status, siblings_note, siblings, provenance]
    outputs = [picture, *([words] if words is not None else []), *shown]

    if words is not None:

        def search_chip(text: str, source: str, count: int) -> tuple[Any, ...]:
            return None, text, *answers.search_text(text, source, count)

        _on(words.submit, answers.search_text, [words, *filters], shown, notice, js=_SHOW)
        for chip in chips:
            _on(chip.click, search_chip, [chip, *filters], outputs, notice, js=_SHOW)

    def search_tile(source: str, count: int, event: gr.EventData) -> tuple[Any, ...]:
        return answers.search_place(_place_of(event), source, count)

    for grid in (results, siblings, examples):
        _on(grid.select, search_tile, filters, outputs, notice, js=_SHOW)
    _on(picture.upload, answers.search_picture, filters, shown, notice, js=_SHOW, upload=picture)
    for control in (source.input, count.release):
        _on(control, answers.search_again, [query, picture, *filters], shown, notice, js=_LINK, preprocess=False)
    return _SearchTab(filters, outputs, notice)


def _compare_tab(answers: Answers, tab: gr.Tab) -> None:
    labels = answers.encoders
    gr.HTML(
        "<p>The same query, two encoders. Choose a picture below, drop one, or click on a result.</p>",
        js_on_load=None,
        elem_classes="lead",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=240):
            picture = _upload("Query picture", elem_id="compare-picture")
            notice = gr.HTML(elem_id="compare-notice", js_on_load=None)
        with gr.Column(scale=3, min_width=320):
            examples = picture_grid(
                "Examples to compare", answers.example_tiles(12), elem_id="compare-examples", elem_classes="small"
            )
    query = gr.State(None)
    with gr.Row():
        left, right = (
            gr.Dropdown(labels, value=label, label=f"Encoder, {side}", elem_id=f"encoder-{side}", min_width=240)
            for side, label in (("left", labels[0]), ("right", labels[min(len(labels) - 1, 2)]))
        )
    sides = []
    with gr.Row(equal_height=False):
        for side in ("left", "right"):
            with gr.Column(min_width=150):
                note = gr.HTML(elem_id=f"note-{side}", js_on_load=None, elem_classes="status")
                sides.append((note, picture_grid(f"Results, {side}", elem_id=f"{side}")))
    (left_note, left_grid), (right_note, right_grid) = sides
    shown = [query, left_note, left_grid, right_note, right_grid]

    def compare_tile(left: str, right: str, event: gr.EventData) -> tuple[Any, ...]:
        return answers.compare_place(_place_of(event), left, right)

    for grid in (examples, left_grid, right_grid):
        _on(grid.select, compare_tile, [left, right], [picture, *shown], notice)

    def compare_example(query: Any, left: str, right: str) -> tuple[Any, ...]:
        if isinstance(query, dict):  # somebody has asked already
            return tuple(gr.skip() for _ in (picture, *shown))
        return answers.compare_place(answers.collections.examples(1)[0], left, right)

    _on(tab.select, compare_example, [query, left, right], [picture, *shown], notice)
    _on(picture.upload, answers.compare_picture, [left, right], shown, notice, upload=picture)
    for chosen in (left, right):
        _on(chosen.change, answers.compare_again, [query, picture, left, right], shown, notice, preprocess=False)


def _guidance_tab(answers: Answers, tab: gr.Tab) -> None:
    gr.HTML(answers.guidance_lead(), js_on_load=None, elem_classes="lead")
    caption = gr.Dropdown(
        answers.guidance_captions, value=answers.guidance_captions[0], label="Caption", elem_id="guidance-caption"
    )
    table = gr.HTML(elem_id="guidance", js_on_load=None)
    for listener in (tab.select, caption.change):
        _on(listener, answers.guidance_table, caption, table)


def _upload(label: str, **options: Any) -> gr.Image:
    return gr.Image(label=label, sources=["upload", "clipboard"], height=200, buttons=[], format="png", **options)


def _folder_of(upload: Any) -> str:
    """The name of the folder of an upload, unique to it; not checked yet."""
    return Path(str(upload.get("path") if isinstance(upload, dict) else upload)).parent.name


def _place_of(event: gr.EventData) -> tuple[Any, Any]:
    """The choice that a grid or the map reports; not checked yet."""
    data = event._data if isinstance(event._data, dict) else {}
    return data.get("collection"), data.get("row")


def _on(
    listener: Any,
    function: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    notice: gr.HTML | None = None,
    *,
    js: str | None = None,
    instead: Callable[[], Any] | None = None,
    upload: gr.Image | None = None,
    **options: Any,
) -> None:
    """Listen, for the page alone: programs have endpoints of their own.

    A refusal is a sentence in `notice`, and a message where there is none; everything else stays, or becomes what
    `instead` returns. `js` runs in the browser afterwards.

    `upload` is a box whose files are the first input. They are not preprocessed: Gradio's own way would open whatever
    Pillow opens, and decode it, before anything here could look. What is put there while another one is looked at
    waits its turn, and what is refused leaves the box.
    """
    several = isinstance(outputs, list)
    if upload is not None:
        inputs = [upload, *inputs]
        options |= {"preprocess": False, "trigger_mode": "always_last"}

    @functools.wraps(function)
    def answer(*arguments: Any) -> Any:
        refused: Any = ""
        try:
            if upload is not None and arguments[0] is None:  # it was refused a moment ago
                return tuple(gr.skip() for _ in (*outputs, notice))
            answered = function(*arguments)
        except InputError as error:
            refused = refusal_html(str(error), "" if upload is None else _folder_of(arguments[0]))
            if instead is not None:
                answered = instead()
            else:
                answered = tuple(gr.skip() for _ in outputs) if several else gr.skip()
            if notice is None:
                gr.Warning(refused, title="Sorry")
        if notice is None:
            return answered
        return (*answered, refused) if several else (answered, refused)

    done = listener(
        fn=answer,
        inputs=inputs,
        outputs=outputs if notice is None else [*(outputs if several else [outputs]), notice],
        api_visibility="private",
        show_progress="minimal",
        **options,
    )
    if upload is not None:
        done = done.then(fn=None, js=_EMPTY, inputs=[upload, notice], outputs=upload, api_visibility="private")
    if js is not None:
        done.then(fn=None, js=js, api_visibility="private")


def _add_api(answers: Answers, settings: SpaceSettings) -> None:
    """Endpoints for programs: JSON in, JSON out. Their docstrings are the API page."""

    def search_by_text(text: str, source: str = ALL, results: int = settings.results) -> list:  # type: ignore[type-arg]
        """Find pictures by words: the most similar first, each with caption, group, score, image and provenance."""
        return answers.describe_text(text, source, results)

    def search_by_picture(picture: dict, source: str = ALL, results: int = settings.results) -> list:  # type: ignore[type-arg]
        """Find pictures by a picture (`handle_file(...)`): as search_by_text."""
        return answers.describe_picture(picture, source, results)

    def siblings(collection: str, row: int) -> list:  # type: ignore[type-arg]
        """All pictures of the caption of one that a search returned, with seeds and provenance."""
        return answers.describe_siblings(collection, row)

    def about() -> dict:  # type: ignore[type-arg]
        """What is searched by what: encoders, collections, the index and its measured recall."""
        return answers.facts()

    for function in (search_by_text, search_by_picture, siblings, about):
        if function is not search_by_text or answers.reads_texts:
            api(_raising(function), api_name=function.__name__)


def _raising(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a refusal reach a program as `AppError` with its sentence."""

    @functools.wraps(function)
    def answer(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return answer
