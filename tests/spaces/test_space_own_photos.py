"""The page over somebody's own photos: labelled folders, or files and nothing else."""

from __future__ import annotations

import re

import datasets
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from stablerep_hf.errors import InputError
from stablerep_hf.space import SpaceSettings
from stablerep_hf.space.answers import Answers
from stablerep_hf.space.gallery import load_collections

NAMES = [f"{kind}/{kind} at the lake {number}.jpg" for kind in ("my_cat", "dog") for number in range(10)]
NAMES[7] = "my_cat/${alert(1)} ` <img src=x onerror=alert(1)>.jpg"


def write_photos(folder, labelled):
    rng = np.random.default_rng(0)
    for name in NAMES:
        place = folder / (name if labelled else name.partition("/")[2])
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(place)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setattr(constants, "HF_HOME", str(folder))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        yield folder


@pytest.fixture(scope="module")
def labelled(home):
    """Settings and answers of a page over labelled photos, by an encoder that reads no words."""
    settings = SpaceSettings(
        dataset=write_photos(home / "labelled", True), encoder="embedded-stablerep", compare=["untrained", "pixels"],
        requests_per_minute=10_000,
    )  # fmt: skip
    return settings, Answers(settings)


def test_labels_stand_for_captions_and_promise_no_more(labelled, home):
    _, answers = labelled
    assert answers.title() == "Find pictures by picture"
    assert answers.sources == ["all"]
    _, query, tiles, status, note, siblings, provenance = answers.search_place(("real", 12), "all", 4)
    assert query == {"place": ["real", 12]}
    assert set(re.findall('class="caption">(.*?)<', tiles)) <= {"dog", "my cat"}
    for absent in ("no caption", 'class="source', 'class="group'):
        assert absent not in tiles
    assert 'title="file: ' in tiles
    kind = answers.collections.caption(answers.collections.place("real", 12))
    same = len(re.findall(f'class="caption">{kind}<', tiles))
    assert f"4 of 20 pictures, most like “{kind}”. Among them {same} of 4 of its group, {kind}." in status
    assert (note, siblings, provenance) == ("", "", "")
    assert answers.map()["groups"] == ["dog", "my cat"]
    assert "synthetic" not in answers.map()["note"] + answers.about_page()
    assert answers.facts()["dataset"] == "labelled"
    about = answers.about_page()
    assert about.count("/search_by_picture") == 1 and "words are not kept" not in about, "nothing is searched by words"
    assert str(home) not in answers.about_page() + str(answers.facts()), "no path of this machine"


def test_file_names_stand_for_captions_where_there_is_nothing_else(home):
    settings = SpaceSettings(dataset=write_photos(home / "flat", False), encoder="pixels", compare=[])
    answers = Answers(settings)
    shown = answers.describe_picture(answers.collections.picture(answers.collections.place("real", 3)), "all", 20)
    assert {one["caption"] + ".jpg" for one in shown} == {name.partition("/")[2] for name in NAMES}
    assert all(one["provenance"] == {"file": one["caption"] + ".jpg"} for one in shown)
    assert {one["group"] for one in shown} == {""}
    assert answers.example_texts == [], "a file's name is no example of a query"
    assert answers.map()["groups"] == []
    tiles = answers.example_tiles(3)
    assert 'aria-label="cat at the lake' in tiles or 'aria-label="dog at the lake' in tiles or "my_cat at" in tiles


def test_the_words_to_click_on_are_the_data_set_s(tmp_path):
    rows = {
        "image": [Image.new("RGB", (8, 8))] * 6,
        "captions": [["a cat"], ["a cat"], ["a dog", "two dogs"], ["a dog"], ["a dog"], ["a bird " + "x" * 40]],
    }
    features = datasets.Features(image=datasets.Image(), captions=datasets.List(datasets.Value("string")))
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    collections = load_collections(SpaceSettings(dataset=str(tmp_path)))
    assert collections.parts["real"].captions[2] == "a dog"
    assert collections.parts["real"].example_texts == ["a dog", "a cat"]
    assert collections.has_siblings
    with pytest.raises(InputError, match="caption_column=words names a column that the data set does not have"):
        load_collections(SpaceSettings(dataset=str(tmp_path), caption_column="words"))


@pytest.mark.browser
def test_on_a_telephone(labelled, browser, serve):
    settings, answers = labelled
    with serve(answers, settings) as address:
        page = browser.new_context(viewport={"width": 390, "height": 700}).new_page()
        ran = []
        page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
        page.goto(f"{address}/?picture=real:17&results=19")
        page.locator("#results .tile").nth(18).wait_for()
        titles = page.locator("#results .tile").evaluate_all("nodes => nodes.map((node) => node.title)")
        assert f"file: {NAMES[7].partition('/')[2]}" in titles
        assert page.locator("h1").inner_text() == page.title() == "Find pictures by picture"
        for hidden in ("#source", "#siblings-box", "#notice", "#words"):
            assert not page.locator(hidden).is_visible()
        page.evaluate("scrollTo(0, 0)")
        page.locator("#examples .tile").nth(1).click()
        page.wait_for_function("document.querySelector('#status').getBoundingClientRect().top < 120")
        page.locator("#picture input[type=file]").set_input_files(
            {"name": "x.png", "mimeType": "image/png", "buffer": b"hello"}
        )
        page.get_by_role("alert").filter(has_text="is no PNG").wait_for()
        expect(page.locator("#notice")).to_be_in_viewport()
        expect(page.locator("#picture img")).to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("tab", name="Compare").click()
        page.locator("#right .tile").nth(11).wait_for()
        for side in ("left", "right"):
            wrap = page.locator(f"#encoder-{side} .wrap-inner").bounding_box()
            assert wrap["width"] > 250, "one below the other"
        page.get_by_role("tab", name="About").click()
        page.get_by_text(f'Client("{address}/")').wait_for()
        assert not ran
