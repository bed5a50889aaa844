"""The search page: its functions, its programs' interface, and the page itself in a real browser."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_data import make_dataset
from transformers import ViTConfig, ViTImageProcessor, ViTModel

APP = Path(__file__).parents[2] / "spaces" / "retrieval" / "app.py"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The module, configured by environment variables as a Space is."""
    folder = tmp_path_factory.mktemp("space")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "encoder")
    make_dataset([3] * 10).to_parquet(folder / "data" / "train.parquet")
    variables = {
        "ENCODER": str(folder / "encoder"), "DATASET": str(folder / "data"), "SPLIT": "train", "RESULTS": "6",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    spec = importlib.util.spec_from_file_location("retrieval_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def address(app):
    demo = app.build_demo()
    _, url, _ = demo.launch(
        prevent_thread_lock=True, server_name="127.0.0.1", ssr_mode=False, quiet=True, inbrowser=False
    )
    yield url
    demo.close()


def test_nothing_of_this_package_is_imported():
    assert "import stablerep_hf" not in APP.read_text("utf-8")
    assert "from stablerep_hf" not in APP.read_text("utf-8")


def test_a_picture_of_the_set_finds_itself_and_a_result_does_not(app):
    image = app.index().dataset[7]["image"]
    rows, similarities = zip(*app.index().nearest(image, 5), strict=True)
    assert rows[0] == 7
    assert similarities[0] == pytest.approx(1, abs=1e-4)
    assert list(similarities) == sorted(similarities, reverse=True)
    assert 7 not in dict(app.index().nearest(image, 100, skip=7))
    assert len(app.index().nearest(image, 100, skip=7)) == len(app.index().dataset) - 1


def test_search_shows_captions_and_similarities(app):
    pictures, rows, note = app.search(app.index().dataset[0]["image"])
    assert len(pictures) == len(rows) == 6
    assert pictures[0][1].startswith("thing 0 · 1.00")
    assert "6 of 30 pictures" in note
    assert app.search(None)[:2] == ([], [])


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_any_kind_of_picture_can_be_asked_for(app, mode):
    assert len(app.search(Image.new("RGB", (300, 20), "red").convert(mode))[0]) == 6


def test_programs_can_ask(app, address, tmp_path):
    from gradio_client import Client, handle_file

    app.index().dataset[3]["image"].convert("RGB").save(tmp_path / "query.png")
    client = Client(address, verbose=False)
    gallery, *_ = client.predict(handle_file(tmp_path / "query.png"), api_name="/search")
    assert gallery[0]["caption"].startswith("thing 1 · 1.00")


def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium on this machine (apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.mark.browser
def test_a_person_can_search_and_click_on(app, address, tmp_path):
    from playwright.sync_api import sync_playwright

    app.index().dataset[3]["image"].convert("RGB").save(tmp_path / "query.png")
    requested = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        page.set_input_files("input[type=file]", tmp_path / "query.png")
        thumbnails = page.locator("#results .thumbnail-item")
        thumbnails.first.wait_for()
        assert thumbnails.count() == 6
        assert "thing 1 · 1.00" in thumbnails.first.inner_text()
        clicked = thumbnails.nth(2).inner_text().rpartition(" · ")[0]
        thumbnails.nth(2).click()
        page.get_by_text(f"most like {clicked} first").wait_for()
        assert thumbnails.count() == 6
        page.screenshot(path=os.environ.get("SCREENSHOT", tmp_path / "page.png"))
        browser.close()
    outside = [url for url in requested if not url.startswith((address, "data:", "blob:"))]
    assert not outside, "the page must work with no connection"
