"""Serving the page: its look, its guard, and nothing that leaves the machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from .guard import Guard
from .settings import SpaceSettings

_STYLE = Path(__file__).parent / "page.css"


def launch(demo: gr.Blocks, settings: SpaceSettings, **options: Any) -> tuple[Any, str, str]:
    """Serve a page of `build_demo`.

    Behind `Guard`, with no folder served but Gradio's own uploads and no error's text shown but ours. Rendered in the
    browser, so that nothing but Python runs here.

    Args:
        demo: The page.
        settings: Its settings.
        options: For `gradio.Blocks.launch`, such as `server_port` and `prevent_thread_lock`. A `server_port` of 0 is a
            free one; Gradio alone would not find its own server there.

    Returns:
        As `gradio.Blocks.launch`: the application, its address here, and "" for a shared one.
    """
    # a picture that is too large is refused in its place on the page, and a much larger one does not arrive
    most_upload = round(4e6 * settings.most_upload_megabytes)
    if options.get("server_port") == 0:
        host = options.get("server_name") or "127.0.0.1"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as free:
            options["server_port"] = free.getsockname()[1]
    guard = Middleware(
        Guard,
        uploads=get_upload_folder(),
        most_upload=most_upload,
        requests_per_minute=settings.requests_per_minute,
        behind_proxy=settings.behind_proxy,
    )
    application, local, shared = demo.launch(
        theme=_theme(),
        css_paths=[_STYLE],
        footer_links=["api", "settings"],
        max_file_size=most_upload,
        allowed_paths=[],
        app_kwargs={"middleware": [guard]},
        share=False,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        run_history=False,  # it would keep runs in a bucket on the Hub
        mcp_server=False,
        pwa=False,
        state_session_capacity=1000,
        **options,
    )
    return application, local, shared


def _theme() -> gr.themes.Base:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # what is there, fetched from nowhere
    theme = gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        radius_size="md",
    )
    # text has a contrast of 4.5 and more with its ground, and the edge of an input of 3
    inks: dict[str, Any] = {}
    for name in (
        "block_title_text_color",
        "block_label_text_color",
        "block_info_text_color",
        "input_placeholder_color",
    ):
        inks |= {name: "*neutral_600", f"{name}_dark": "*neutral_300"}
    for name in (
        "body_text_color_subdued",
        "input_border_color",
        "checkbox_border_color",
        "checkbox_label_border_color",
    ):
        inks |= {name: "*neutral_500", f"{name}_dark": "*neutral_400"}
    for name in ("link_text_color", "link_text_color_hover", "link_text_color_active", "link_text_color_visited"):
        inks |= {name: "*primary_700", f"{name}_dark": "*primary_300"}
    for name in ("button_primary_background_fill", "checkbox_label_background_fill_selected", "color_accent"):
        inks |= {name: "*primary_600"} | ({} if name == "color_accent" else {f"{name}_dark": "*primary_600"})
    return theme.set(
        **inks,
        background_fill_primary="*neutral_50",  # Soft's own, which `set` forgets
        input_border_width="1px",
        input_border_width_dark="1px",
        checkbox_label_border_width="1px",
        checkbox_label_border_width_dark="1px",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_label_background_fill="*block_background_fill",
        block_label_background_fill_dark="*block_background_fill",
    )
