from __future__ import annotations

import json

import pytest
from huggingface_hub import CardData
from jinja2 import UndefinedError

from stablerep_hf.errors import InputError
from stablerep_hf.hub import load_facts, render_dataset_card, render_model_card, save_facts
from stablerep_hf.hub.rendering import render


def test_cards_can_be_made_again_from_saved_facts(model_facts, dataset_facts_by_hand, tmp_path):
    for facts, make_card in ((model_facts, render_model_card), (dataset_facts_by_hand, render_dataset_card)):
        save_facts(tmp_path / "facts.json", facts)
        loaded = load_facts(tmp_path / "facts.json")
        assert type(loaded) is type(facts)
        assert str(make_card(loaded)) == str(make_card(facts))
    assert list(tmp_path.iterdir()) == [tmp_path / "facts.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no facts"),
        ("[]", "holds no facts"),
        ('{"name": "x"}', "holds no facts"),
        ('{"facts": "ModelFacts", "name": "x", "license": "mit", "colour": 1}', "unknown fields colour"),
    ],
)
def test_files_that_hold_no_facts_are_refused(tmp_path, text, message):
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_facts(tmp_path / "facts.json")
    with pytest.raises(InputError, match="no file of facts"):
        load_facts(tmp_path / "none.json")


def test_saved_facts_are_plain_json(model_facts, tmp_path):
    save_facts(tmp_path / "facts.json", model_facts)
    stored = json.loads((tmp_path / "facts.json").read_text())
    assert stored["facts"] == "ModelFacts"
    assert stored["results"][0]["value"] == 0.5432
    assert stored["data"]["generator"]["guidance_scale"] == 2.375


def test_a_name_that_nobody_gave_stops_the_card(model_facts):
    with pytest.raises(UndefinedError, match="results"):
        render("model_card.md.jinja", CardData(), facts=model_facts)
