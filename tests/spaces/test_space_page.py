"""The page in a real browser, offline: what people do on it, and what they see."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from break_page import bomb, picture
from playwright.sync_api import expect

from stablerep_hf.space.pictures import read_picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TABS = ("Compare", "Map", "Guidance", "About")


def tiles(page, grid):
    return page.locator(f"#{grid} .tile")


def upload(page, content, name="query.png", box="picture"):
    page.locator(f"#{box} input[type=file]").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def test_a_link_reopens_a_search(open_page, address):
    page = open_page()
    for words, results in (("purple", 12), ("black & white <b>", 5)):
        page.locator("#count input[type=number]").fill(str(results))
        page.locator("#count input[type=number]").press("Enter")
        page.get_by_label("Words").fill(words)
        page.get_by_label("Words").press("Enter")
        page.locator("#status", has_text=f"nearest to “{words}”").wait_for()
        link = page.get_by_role("link", name="Link to this search")
        page.wait_for_function("link => location.href === link", arg=link.evaluate("node => node.href"))
        found = tiles(page, "results").all_inner_texts()
        assert len(found) == results
        link.click()
        page.locator("#status", has_text=f"nearest to “{words}”").wait_for()
        assert page.get_by_label("Words").input_value() == words
        assert tiles(page, "results").all_inner_texts() == found
        assert page.locator("#count input[type=number]").input_value() == str(results)
    page.get_by_label("synthetic", exact=True).check()
    page.locator("#results .source.real").first.wait_for(state="detached")
    tiles(page, "results").nth(1).click()
    page.locator("#status", has_text="most like").wait_for()
    page.wait_for_url("**picture=synthetic*")
    found, chosen = tiles(page, "results").all_inner_texts(), page.url
    assert "show=synthetic" in chosen
    page.goto(chosen)
    page.locator("#status", has_text="most like").wait_for()
    assert tiles(page, "results").all_inner_texts() == found
    assert page.get_by_label("synthetic", exact=True).is_checked()
    page.goto(f"{address}/?picture=real:99999&show=nowhere")
    page.get_by_role("alert").filter(has_text="no such").wait_for()
    assert tiles(page, "results").count() == 12, "the first example"


def test_words_that_mean_nothing_are_said_to_match_nothing(open_page, answers):
    page = open_page()
    said = "Nothing here matches that well"
    assert said not in page.locator("#status").inner_text()
    page.get_by_label("Words").fill("zxqv blorb")
    page.get_by_label("Words").press("Enter")
    page.locator("#status", has_text=said).wait_for()
    page.get_by_role("button", name="purple", exact=True).click()
    page.locator("#status", has_text="purple").wait_for()
    assert said not in page.locator("#status").inner_text()
    shown = sorted({caption for part in answers.collections.parts.values() for caption in part.captions})
    for text in shown[:: len(shown) // 20]:
        assert said not in answers.search_text(text, "all", 12)[2], text
    share = answers.searchers.first.share_of_nonsense
    assert [text for text in answers.example_texts if share(text) > 0.2] == []
    assert sum(share(text) > 0.25 for text in ("zxqv blorb", "asdf", "qwertyuiop", "glarbix", "wug")) >= 4


@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_seen(open_page, dark):
    page = open_page(dark=dark)
    script = (Path(__file__).parent / "contrast.js").read_text()
    upload(page, b"hello")
    page.get_by_role("alert").wait_for()
    tiles(page, "results").nth(2).click()
    tiles(page, "siblings").first.wait_for()
    for tab, shown in {
        "Search": "#provenance td",
        "Compare": "#right .tile",
        "Map": "#map .legend li",
        "Guidance": "#guidance td",
        "About": "#about pre",
    }.items():
        page.get_by_role("tab", name=tab).click()
        page.locator(shown).first.wait_for()
        page.wait_for_timeout(400)  # what comes in by degrees is there
        seen = page.evaluate(script)
        assert seen["count"] > 20
        assert not seen["hard"], tab
    assert not page.evaluate("() => document.querySelectorAll('.toast-body').length"), "refusals stand in their place"


def test_it_opens_with_pictures_and_words_find_others(open_page, keep):
    page = open_page()
    assert tiles(page, "results").count() == 12
    assert page.locator("#status").get_by_role("status").inner_text().startswith("12 of 240 pictures, nearest to")
    keep(page, "search")
    before = tiles(page, "results").all_inner_texts()
    page.get_by_label("Words").fill("black square")
    page.get_by_label("Words").press("Enter")
    page.get_by_text("nearest to “black square”").wait_for()
    after = tiles(page, "results").all_inner_texts()
    assert after != before
    scores = [float(re.search(r"\d\.\d{3}", text).group()) for text in after]
    assert scores == sorted(scores, reverse=True)
    page.get_by_role("button", name="purple", exact=True).click()
    page.get_by_text("nearest to “purple”").wait_for()
    assert page.get_by_label("Words").input_value() == "purple"


def test_results_and_siblings_can_be_clicked_on(open_page, keep):
    page = open_page()
    page.get_by_label("synthetic", exact=True).check()
    page.locator("#results .source.real").first.wait_for(state="detached")
    tile = tiles(page, "results").nth(1)
    caption = tile.locator(".caption").inner_text()
    tile.click()
    page.get_by_text(f"most like “{caption}”").wait_for()
    assert page.get_by_label("Words").input_value() == ""
    assert tiles(page, "siblings").count() >= 6, "six drawings of each caption"
    assert page.locator("#siblings .tile.query").count() == 1
    table = page.locator("#provenance table")
    assert {"seed", "guidance scale", "generator"} <= set(table.locator("thead th").all_inner_texts())
    seeds = [row.locator("td").nth(1).inner_text() for row in table.locator("tbody tr").all()]
    assert len({seed for seed in seeds if seed.isdigit()}) >= 6, "each drawing has a seed of its own"
    keep(page, "siblings")
    tiles(page, "siblings").nth(2).press("Enter")
    page.locator("#siblings .tile.query").nth(0).wait_for()
    page.locator("#count input[type=number]").fill("5")
    page.locator("#count input[type=number]").press("Enter")


def test_a_picture_of_the_gallery_uploaded_finds_itself(open_page, answers, keep):
    page = open_page()
    place = answers.collections.examples(1)[0]
    stream = io.BytesIO()
    answers.collections.picture(place).save(stream, "PNG")
    upload(page, stream.getvalue())
    page.get_by_text("most like your picture").wait_for()
    first = tiles(page, "results").first.inner_text()
    assert answers.collections.caption(place) in first
    assert "1.000" in first
    keep(page, "upload")


def test_two_encoders_differ_on_one_query(open_page, keep):
    page = open_page()
    page.get_by_role("tab", name="Compare").click()
    tiles(page, "right").nth(11).wait_for()
    opened = page.locator("#left .caption").all_inner_texts()
    tiles(page, "compare-examples").nth(3).click()
    page.wait_for_function("before => document.querySelector('#left .caption').innerText !== before", arg=opened[0])
    left, right = (page.locator(f"#{side} .caption").all_inner_texts() for side in ("left", "right"))
    assert len(left) == len(right) == 12
    assert left != right
    assert "untrained" in page.locator("#note-right").inner_text()
    page.get_by_label("Encoder, right").click()
    page.get_by_role("option", name="8 x 8 pixels").click()
    page.locator("#note-right", has_text="8 x 8 pixels").wait_for()
    assert page.locator("#right .caption").all_inner_texts() != right
    assert page.locator("#left .caption").all_inner_texts() == left, "the other side stays"
    keep(page, "compare")
    tiles(page, "left").first.click()
    page.wait_for_function("before => document.querySelector('#left .caption').innerText !== before", arg=left[0])


def test_the_map_shows_thumbnails_and_searches(open_page, keep):
    page = open_page()
    page.get_by_role("tab", name="Map").click()
    page.get_by_text("80 of 240 pictures").wait_for()
    canvas = page.locator("#map canvas")
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    words = page.locator("#map .card .words").inner_text()
    assert page.locator("#map .spoken").inner_text() == words
    assert "data:image/webp" in page.locator("#map .thumb").evaluate("node => node.style.backgroundImage")
    keep(page, "map")
    page.keyboard.press("Enter")
    page.get_by_text(f"most like “{words.split(' · ')[0]}”").wait_for()
    assert page.get_by_role("tab", name="Search").get_attribute("aria-selected") == "true"


def test_guidance_is_measured(open_page, answers, keep):
    page = open_page()
    page.get_by_role("tab", name="Guidance").click()
    rows = page.locator("#guidance tbody tr")
    rows.first.wait_for()
    assert rows.locator("th").all_inner_texts() == ["1", "1.5", "2", "3", "5", "8"]
    assert rows.first.locator("img").count() == 4
    measured = answers.guidance.rows("grinning face")
    assert [f"{row.diversity:.2f}" for row in measured] == [
        row.locator("td").nth(2).inner_text() for row in rows.all()
    ]
    keep(page, "guidance")


def test_hostile_and_empty_input_gets_a_sentence_and_the_page_goes_on(open_page, keep):
    page = open_page()
    hostile = {  # neighbours get different sentences, so that each is waited for
        "bomb.png": (bomb(), "million pixels"),
        "text.png": (b"hello", "is no PNG"),
        "large.png": (picture((5200, 5000)), "million pixels"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG"),
        "cut.png": (picture()[:60], "cut off or damaged"),
    }
    for name, (content, sentence) in hostile.items():
        upload(page, content, name)
        page.get_by_role("alert").filter(has_text=sentence).wait_for()
        expect(page.locator("#picture img")).to_have_count(0)
    page.get_by_label("Words").fill("   ")
    page.get_by_label("Words").press("Enter")
    page.locator("#notice").get_by_role("alert").filter(has_text="There are no words yet").wait_for()
    keep(page, "empty")
    assert tiles(page, "results").count() == 12, "what was found before is still there"
    page.get_by_label("Words").fill("<img src=x onerror='document.title=1'>")
    page.get_by_label("Words").press("Enter")
    page.get_by_text("nearest to “<img src=x").wait_for()
    assert page.title() != "1", "words are shown and not run"
    expect(page.locator("#notice"), "what was refused is over").to_be_hidden()
    page.get_by_role("tab", name="Compare").click()
    tiles(page, "right").nth(11).wait_for()  # the example has come
    upload(page, b"hello", box="compare-picture")
    page.locator("#compare-notice").get_by_role("alert").filter(has_text="is no PNG").wait_for()


def test_a_file_that_is_put_in_place_of_one_still_looked_at_waits_its_turn(open_page, monkeypatch):
    looked_at = []

    def slowly(path, *arguments, **options):
        looked_at.append(path)
        if len(looked_at) == 1:
            time.sleep(3)
        return read_picture(path, *arguments, **options)

    monkeypatch.setattr("stablerep_hf.space.answers.read_picture", slowly)
    page = open_page()
    upload(page, b"hello")
    page.locator("#picture").get_by_label("Remove").click()
    upload(page, picture())
    page.locator("#status", has_text="most like your picture").wait_for()
    expect(page.locator("#picture img")).to_have_count(1)
    assert len(looked_at) == 2


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_it_fits_narrow_screens_and_dark_ones(open_page, keep, width, dark):
    page = open_page(width, dark)
    tiles(page, "results").nth(2).click()
    tiles(page, "siblings").first.wait_for()
    for number, tab in enumerate(("Search", *TABS)):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        keep(page, f"{width}-{'dark' if dark else 'light'}-{number}-{tab.lower()}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{tab} is wider than the screen"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 150) == dark


def test_everything_has_a_name_for_those_who_do_not_see(open_page):
    page = open_page()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, canvas, textarea, [role=button]')]
        .filter((node) => node.offsetParent !== null && node.type !== 'file')
        .filter((node) => !(node.innerText || node.ariaLabel || node.title || node.placeholder
            || (node.labels && node.labels.length) || node.closest('label')))
        .map((node) => node.outerHTML.slice(0, 200))"""
    )
    assert not nameless
    label = tiles(page, "results").first.get_attribute("aria-label")
    assert re.fullmatch(r".+, similarity \d\.\d{3}, (.+, )?(real|synthetic)\. Search by this picture", label)
