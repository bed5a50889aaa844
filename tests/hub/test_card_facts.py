from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hub_double.cards import check_card
from huggingface_hub import CardData, RepoCard
from jinja2 import UndefinedError

from stablerep_hf import assets
from stablerep_hf.errors import InputError
from stablerep_hf.hub import load_facts, render_dataset_card, render_model_card, save_facts
from stablerep_hf.hub.facts import check_license
from stablerep_hf.hub.rendering import render
from stablerep_hf.runs.cards import estimated_energy, preset_of
from stablerep_hf.training.presets import read_config


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
        ('{"facts": "ModelFacts", "name": "x"}', "not whole .*license"),
        ('{"facts": "ModelFacts", "name": "x", "license": "mit", "licensed_parts": [{"a": 1}]}', "not whole"),
        ('{"facts": "ModelFacts", "name": "x", "license": "mit", "limits": null}', "not whole"),
        ('{"facts": "ModelFacts", "name": "x", "license": "mit", "results": [{}]}', "missing fields"),
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
    with pytest.raises(UndefinedError, match="base"):
        render("model_card.md.jinja", CardData(), facts=model_facts, fine_tuned=False)


ROOT = Path(__file__).parents[2]
CARDS = [*ROOT.glob("model_cards/*/README.md"), *ROOT.glob("stablerep_hf/assets/*/README.md")]


def test_the_hub_takes_the_cards_that_are_rendered(model_facts, dataset_facts_by_hand):
    full = dataclasses.replace(model_facts, form="pretraining", emissions_kg=0.1, license="other", license_name="mine")
    for card in (render_model_card(model_facts), render_model_card(full)):
        assert check_card(str(card), "model") == ([], [])
    assert check_card(str(render_dataset_card(dataset_facts_by_hand)), "dataset") == ([], [])


@pytest.mark.parametrize("path", [*CARDS, ROOT / "spaces/retrieval/README.md"], ids=lambda path: path.parent.name)
def test_the_hub_takes_the_cards_that_are_committed(path):
    kind = {"retrieval": "space", "pictograms": "dataset", "stablerep-pictograms": "model"}.get(
        path.parent.name, "model"
    )
    assert check_card(path.read_text("utf-8"), kind) == ([], [])
    assert RepoCard.load(path).data.to_dict()


def test_the_dual_encoder_travels_with_the_code_of_today():
    copies = sorted(assets.dual_encoder_path().glob("*.py"))
    assert [copy.name for copy in copies] == [
        "backbones.py", "configuration_stablerep.py", "modeling_stablerep.py", "pretrained.py",
        "sibling_batch_norm.py", "text_towers.py",
    ]  # fmt: skip
    for copy in copies:  # links here, copies in a wheel
        assert copy.read_text("utf-8") == (ROOT / "stablerep_hf" / "models" / copy.name).read_text("utf-8")


def test_a_preset_is_named_where_all_of_it_holds():
    values = read_config("pictograms")
    assert preset_of(values | {"seed": 7}) == "pictograms"
    assert preset_of(values | {"max_steps": 7}) is None


def test_energy_is_summed_over_the_starts_of_a_training(tmp_path):
    assert estimated_energy(tmp_path) == {}
    rows = ["timestamp,duration,emissions,energy_consumed", "2026-11-23,1.0,0.25,0.5", "2026-11-23,2.0,0.5,1.0"]
    (tmp_path / "emissions.csv").write_text("\n".join(rows))
    assert estimated_energy(tmp_path) == {"energy_kwh": 1.5, "emissions_kg": 0.75}


@pytest.mark.parametrize("license", ["4", "4.0", 4, 4.0, None, "", "other"])
def test_a_licence_has_a_name(license):
    with pytest.raises(InputError, match=r"license=\S+ (is a number|names none)"):
        check_license(license)
