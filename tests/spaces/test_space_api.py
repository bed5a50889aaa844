"""What programs ask of the page, and what hostile ones get."""

from __future__ import annotations

import base64
import io

import break_page
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_the_endpoints_are_the_documented_ones(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/search_by_text", "/search_by_picture", "/siblings", "/about"}
    assert [p["parameter_name"] for p in named["/search_by_text"]["parameters"]] == ["text", "source", "results"]


def test_words_find_pictures(client):
    found = client.predict("black square", api_name="/search_by_text")
    assert len(found) == 12
    scores = [entry["score"] for entry in found]
    assert scores == sorted(scores, reverse=True)
    only = client.predict("black square", "synthetic", 5, api_name="/search_by_text")
    assert {entry["collection"] for entry in only} == {"synthetic"}
    assert only[0]["score"] == max(e["score"] for e in found if e["collection"] == "synthetic")


def test_a_picture_of_the_gallery_finds_itself_and_its_family(client, tmp_path):
    entry = client.predict("smiling face", "synthetic", 1, api_name="/search_by_text")[0]
    content = base64.b64decode(entry["image"].partition(",")[2])
    Image.open(io.BytesIO(content)).save(tmp_path / "query.png")
    found = client.predict(handle_file(tmp_path / "query.png"), "all", 3, api_name="/search_by_picture")
    assert (found[0]["collection"], found[0]["row"]) == (entry["collection"], entry["row"])
    assert found[0]["score"] == pytest.approx(1, abs=1e-3)
    family = client.predict(entry["collection"], entry["row"], api_name="/siblings")
    drawn = [one for one in family if one["collection"] == "synthetic"]
    assert len(drawn) == 6
    assert {one["caption"] for one in family} == {entry["caption"]}
    assert len({one["provenance"]["seed"] for one in drawn}) == 6
    assert all(one["provenance"]["guidance_scale"] == "2" for one in drawn)


def test_it_says_what_it_searches(client):
    facts = client.predict(api_name="/about")
    assert facts["collections"] == {"real": 120, "synthetic": 120}
    assert facts["indexes"]["real"]["kind"] == "exact"
    assert facts["indexes"]["real"]["recall"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("", "all", 3), "no words"), (("x" * 201, "all", 3), "at most 200"), (("red", "nowhere", 3), "no such source")],
)
def test_what_is_refused_raises_its_sentence(client, arguments, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(*arguments, api_name="/search_by_text")


def test_results_are_bounded(client, settings):
    assert len(client.predict("red", "all", 10**6, api_name="/search_by_text")) == settings.most_results


def test_no_attack_gets_in_and_the_page_still_serves(address):
    got = {name: attack() for name, attack in break_page.attacks(address)}
    assert len(got) > 60
    inside = {name: answer for name, answer in got.items() if not break_page.refused(answer)}
    assert not inside
    crowd = break_page.crowd(address, users=8)
    assert crowd == {"complete": 24}
    assert break_page.still_serves(address)
