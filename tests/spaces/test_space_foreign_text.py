"""Text of a data set, file names and encoder names are shown letter by letter and never run, in a real browser."""

from __future__ import annotations

import io
import shutil
from itertools import cycle

import datasets
import numpy as np
import pytest
from PIL import Image

from stablerep_hf import assets
from stablerep_hf.space import SpaceSettings
from stablerep_hf.space.answers import Answers

pytestmark = pytest.mark.browser
HOSTILE = [
    "${alert(document.domain)}",
    "price ${total}",
    "back\\slash \\",
    "`; alert(1); `",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "{{value}} {{#each value}}{{constructor.constructor 'alert(1)'}}{{/each}}",
    "</ul><script>alert(1)</script>",
    "'); alert(1); ('",
    "javascript:alert(1)",
]


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory, serve):
    """A page whose every text is hostile: its data set's, its drawings', and the names of its encoders."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    columns = ("caption", "group", "prompt", "style", "license", "source", "artist", "generator", "scheduler")
    rows = {"image": [], **{column: [] for column in columns}, "seed": [], "guidance_scale": []}
    for number, text in zip(range(2 * len(HOSTILE)), cycle(HOSTILE), strict=False):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(stream, "PNG")
        rows["image"].append({"bytes": stream.getvalue(), "path": f"{text.replace('/', '')}.png"})
        for place, column in enumerate(columns):
            rows[column].append(HOSTILE[(number + place) % len(HOSTILE)])
        rows["seed"].append(number)
        rows["guidance_scale"].append(1.0 + number // len(HOSTILE))
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data.to_parquet(folder / "data" / "train.parquet")
    encoder = folder / "${alert(1)}<img src=x onerror=alert(1)>`"
    shutil.copytree(assets.dual_encoder_path(), encoder)
    data_folder = str(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(folder / "home"))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        settings = SpaceSettings(
            title="<img src=x onerror=alert(1)> ${alert(1)}", encoder=str(encoder), compare=["pixels"],
            dataset=data_folder, synthetic_dataset=data_folder, guidance_dataset=data_folder, results=20,
            example_texts=HOSTILE[:3], requests_per_minute=10_000,
        )  # fmt: skip
        with serve(Answers(settings), settings) as address:
            yield address


def test_hostile_text_is_shown_and_not_run(hostile_page, browser):
    page = browser.new_context().new_page()
    page.set_default_timeout(60_000)
    ran, errors = [], []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "template" in said.text else None)
    page.on("request", lambda request: ran.append(request.url) if request.url.endswith("/x") else None)
    page.goto(hostile_page)
    page.locator("#results .tile").nth(19).wait_for()
    assert page.locator("#heading h1").inner_text() == "<img src=x onerror=alert(1)> ${alert(1)}"

    shown = page.locator("#results .caption").all_text_contents()
    assert set(shown) <= set(HOSTILE)
    assert "price ${total}" in shown
    for text in HOSTILE:
        tile = page.locator("#results .tile").filter(has=page.locator(".caption", has_text=text)).first
        tile.click()
        page.locator("#status", has_text=f"most like “{text}”").wait_for()
        assert set(page.locator("#siblings .caption").all_text_contents()) == {text}
        assert f"of “{text}”" in page.locator("#siblings-note").inner_text()
        known = page.locator("#provenance tbody tr").first.locator("td").all_text_contents()
        assert len(set(known) & set(HOSTILE)) >= 6
    page.get_by_label("Words").fill("${alert(2)}<img src=x onerror=alert(2)>")
    page.get_by_label("Words").press("Enter")
    page.get_by_text("nearest to “${alert(2)}<img src=x onerror=alert(2)>”").wait_for()

    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-examples .tile").first.click()
    page.locator("#left .tile").nth(11).wait_for()
    assert "${alert(1)}<img src=x onerror=alert(1)>`" in page.locator("#note-left").inner_text()
    page.get_by_role("tab", name="Map").click()
    page.locator("#map .legend li").first.wait_for()
    assert set(page.locator("#map .legend li").all_text_contents()) <= {*HOSTILE, "other"}
    assert "${alert(1)}<img" in page.locator("#map figcaption").inner_text()
    page.locator("#map canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#map .card .words").inner_text().split(" · ")[0] in HOSTILE
    page.get_by_role("tab", name="Guidance").click()
    page.locator("#guidance tbody tr").first.wait_for()
    assert page.locator("#guidance thead th").nth(1).inner_text() == HOSTILE[0]
    page.get_by_role("tab", name="About").click()
    page.get_by_text("onerror=alert(1)>`").first.wait_for()
    assert not ran
    assert not errors
