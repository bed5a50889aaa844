"""Serving the page: its look, its guard, and nothing that leaves the machine."""

from __future__ import annotations

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
        options: For `gradio.Blocks.launch`, such as `server_port` and `prevent_thread_lock`.

    Returns:
        As `gradio.Blocks.launch`: the application, its address here, and "" for a shared one.
    """
    most_upload = round(1e6 * settings.most_upload_megabytes)
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
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        radius_size="md",
    )
