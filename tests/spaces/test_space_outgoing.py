"""No request makes the page's server connect to anywhere, and only the routes that the page needs are open."""

from __future__ import annotations

from functools import partial

import gradio as gr
import pytest
import uvicorn
from break_page_outgoing import TARGETS, Request, gradio_routes, outgoing_requests, send, watch_outgoing
from fastapi.routing import iter_route_contexts
from gradio import http_server, networking
from starlette.routing import compile_path

from stablerep_hf.space import SpaceSettings, launch
from stablerep_hf.space.guard import OPEN_ROUTES

CLOSED = 403
SEEN: list[str] = []
WATCHED: list[bool] = []


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A small page with an upload and an endpoint behind the guard, served by a loop whose connections Python sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setattr(networking, "url_ok", lambda url: True)
        patch.setattr(http_server.uvicorn, "Config", partial(uvicorn.Config, loop="asyncio"))
        with gr.Blocks(analytics_enabled=False) as demo:
            picture = gr.Image(type="filepath")
            gr.Button().click(lambda picture: picture, picture, gr.Image(), api_name="search_by_picture")
        demo.queue(api_open=False)
        settings = SpaceSettings(requests_per_minute=100_000)
        application, url, _ = launch(
            demo, settings, prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, inbrowser=False
        )
        yield application, url.rstrip("/")
        demo.close()


@pytest.fixture
def outgoing():
    """What this process asked of the network while the test ran."""
    if not WATCHED:
        watch_outgoing(SEEN.append)
        WATCHED.append(True)
    SEEN.clear()
    return SEEN


def test_no_request_leads_to_a_connection(served, outgoing):
    _, url = served
    routes = gradio_routes()
    assert ("GET", "/gradio_api/file/{path:path}") in routes
    requests = list(dict.fromkeys(outgoing_requests(routes)))
    assert len(requests) > 1500
    answers = {request: send(url, request, timeout=0.2) for request in requests}
    assert not outgoing
    named = {request: status for request, status in answers.items() if "/file" in request.path and status == 200}
    assert not named


def test_the_watch_sees_what_a_server_without_a_guard_does(served, outgoing):
    import httpx

    with pytest.raises((httpx.ConnectError, ConnectionRefusedError)):
        httpx.get(TARGETS[0], trust_env=False)
    assert "203.0.113.7" in outgoing[0]


def test_every_route_is_closed_that_nobody_opened(served):
    application, url = served
    running = {
        (method, str(route.path)) for route in iter_route_contexts(application.routes) for method in route.methods
    }
    opened = {(method, compile_path(path)[1]) for path, methods in OPEN_ROUTES.items() for method in methods}
    for method, path in sorted(running):
        filled = compile_path(path)[1]
        shape = filled.replace("{path_or_url}", "{file}").replace("{session_hash}", "{session}")
        shape = shape.replace("{api_name}", "{name}").replace("{event_id}", "{event}")
        answered = send(url, Request(method, filled.replace("{", "").replace("}", ""), b"{}"), timeout=0.2)
        if (method, shape) not in opened:
            assert answered == CLOSED, f"{method} {path}"
        opened.discard((method, shape))
    assert not opened, "routes that this Gradio does not have"
    assert not [path for _, path in running if "run-history" in path]
