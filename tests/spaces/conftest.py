"""One page for all tests, and one browser for those in one: the page that ships, over fewer pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from absent import skip_or_fail

ARTEFACTS = Path(__file__).parents[2] / ".artefacts" / "space"


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from huggingface_hub import constants

    from stablerep_hf.space import SpaceSettings

    home, uploads = constants.HF_HOME, os.environ.get("GRADIO_TEMP_DIR")
    constants.HF_HOME = str(tmp_path_factory.mktemp("home"))  # nothing of earlier runs is found there
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("uploads"))
    yield SpaceSettings(index_size=120, map_size=80, requests_per_minute=10_000, behind_proxy=True)
    constants.HF_HOME = home
    os.environ.pop("GRADIO_TEMP_DIR") if uploads is None else os.environ.update(GRADIO_TEMP_DIR=uploads)


@pytest.fixture(scope="session")
def answers(settings: Any) -> Any:
    from stablerep_hf.space.answers import Answers

    return Answers(settings)


@pytest.fixture(scope="session")
def serve() -> Any:
    """`with serve(answers, settings) as address`: the page, at an address of this machine."""
    return _served


@contextmanager
def _served(answers: Any, settings: Any) -> Iterator[str]:
    from gradio import networking

    from stablerep_hf.space import build_demo, launch

    demo = build_demo(settings, answers)
    reachable = networking.url_ok
    networking.url_ok = lambda url: True  # Gradio gives itself three seconds, which a busy machine does not keep
    try:
        _, url, _ = launch(
            demo, settings, prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, inbrowser=False
        )
    finally:
        networking.url_ok = reachable
    yield url.rstrip("/")
    demo.close()


@pytest.fixture(scope="session")
def address(answers: Any, settings: Any, serve: Any) -> Iterator[str]:
    """Where the page is served."""
    with serve(answers, settings) as url:
        yield url


@pytest.fixture(scope="module")  # while it runs, asyncio's loop of this thread is taken
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        skip_or_fail("no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield started
        started.close()


@pytest.fixture
def open_page(address: str, browser: Any) -> Iterator[Any]:
    """`open_page(width=..., dark=...)` -> a page whose first search is there; no request may leave the machine."""
    contexts = []
    requested: list[str] = []
    errors: list[str] = []
    refused: list[str] = []

    def opened(width: int = 1280, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 860}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requested.append(request.url))
        page.on("response", lambda response: refused.append(response.url) if response.status == 403 else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator("#results .tile").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert requested
    outside = [url for url in requested if not url.startswith((address, "data:", "blob:"))]
    assert not outside, "the page must work with no connection"
    assert not errors, "its scripts must not fail"
    assert not refused, "the page needs a route that is closed"


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Any:
    """`keep(page, name)`: a screenshot to look at, below `.artefacts/space`."""

    def kept(page: Any, name: str) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)

    return kept
