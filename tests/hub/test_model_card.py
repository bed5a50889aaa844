from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from card_reading import assert_no_empty_section, body_of, front_matter, numbers_in, numbers_of, python_blocks
from huggingface_hub import ModelCard
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from stablerep_hf import assets
from stablerep_hf.errors import InputError
from stablerep_hf.hub import (
    LicensedPart,
    ModelFacts,
    TrainingData,
    describe_encoder,
    load_facts,
    model_index_results,
    render_model_card,
    write_model_card,
)
from stablerep_hf.hub.model_card import add_results, results_in_card

CARDS = Path(__file__).parents[2] / "model_cards"


def test_front_matter_says_what_the_facts_say(model_facts):
    data = front_matter(str(render_model_card(model_facts)))
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert {"stablerep", "synthetic-data"} <= set(data["tags"])
    assert "datasets" not in data  # the data set is on no Hub
    (entry,) = data["model-index"]
    assert entry["name"] == model_facts.name
    (group,) = entry["results"]
    assert group["dataset"] == {
        "name": "real pictograms",
        "type": "real-pictograms",
        "split": "held_out_concepts",
        "revision": "beef",
    }
    knn, probe = group["metrics"]
    assert (knn["type"], knn["value"], knn["name"]) == ("accuracy", 0.5432, "kNN accuracy (k = 19)")
    assert knn["args"] == {
        "protocol": "knn",
        "low": 0.5219,
        "high": 0.5659,
        "interval": "bootstrap over test groups",
        "n": 1783,
        "seeds": [31],
        "chance": 0.2468,
        "settings": {"k": 19},
    }
    assert probe["value"] == 0.5678  # and the encoder that is shown for comparison is not in the index


def test_hub_clients_read_the_results_back(model_facts, tmp_path):
    path = write_model_card(tmp_path, model_facts)
    assert path == tmp_path / "README.md"
    loaded = ModelCard.load(path)
    assert loaded.data.model_name == model_facts.name
    assert loaded.data.eval_results == model_index_results(model_facts.results[:2])
    assert str(loaded) == path.read_text()
    varied = dataclasses.replace(model_facts.results[0], metric="recall@1", variant="image to text", chance=None)
    facts = dataclasses.replace(model_facts, results=(*model_facts.results[:2], varied))
    card = ModelCard(str(render_model_card(facts)))
    assert (
        model_index_results(results_in_card(card, "it"))
        == card.data.eval_results
        == model_index_results(facts.results)
    )
    foreign = ModelCard(str(loaded).replace("protocol:", "other:"))
    assert results_in_card(foreign, model_facts.name) == []


def test_results_come_into_a_card_that_is_there_as_into_one_that_is_made_with_them(model_facts):
    wanted = str(render_model_card(model_facts))
    without = str(render_model_card(dataclasses.replace(model_facts, results=())))
    other = dataclasses.replace(model_facts.results[0], value=0.5)
    again = add_results(add_results(without, [other], "weights"), model_facts.results, "weights")
    assert body_of(again) == body_of(wanted)
    assert front_matter(again) == front_matter(wanted)
    assert add_results("# StableRep on pictograms\n", model_facts.results, "").count("## Results") == 1


def test_results_of_other_weights_are_not_taken_for_the_models_own(model_facts):
    card = str(render_model_card(dataclasses.replace(model_facts, results=())))

    def measured(weights, name):
        result = model_facts.results[0]
        return dataclasses.replace(result, encoder=name, settings={**result.settings, "weights_sha256": weights})

    by_digest = add_results(card, [measured("ours", "my-folder"), measured("theirs", "baseline")], "ours")
    assert "| baseline | 54.3" in by_digest and "my-folder" not in by_digest
    assert [entry["name"] for entry in front_matter(by_digest)["model-index"]] == [model_facts.name]
    with pytest.raises(InputError, match="of other weights than these"):
        add_results(card, [measured("theirs", model_facts.name)], "ours")
    with pytest.raises(InputError, match="results are of 'baseline', none of them with its weights"):
        add_results(card, [measured("theirs", "baseline")], "ours")


def test_every_number_comes_from_the_facts(model_facts):
    known = numbers_of(model_facts) | {"95", "4.50"}  # the confidence of the intervals; versions of transformers
    assert numbers_in(body_of(str(render_model_card(model_facts)))) <= known
    for wanted in (
        "54.3 [52.2, 56.6]",
        "1,234,567",
        "321",
        "1,284",
        "0.000325",
        "417",
        "2 min 24 s",
        "2.375",
        "1,783",
    ):
        assert wanted in body_of(str(render_model_card(model_facts))), wanted


def test_the_same_facts_give_the_same_card_and_other_facts_another(model_facts):
    card = str(render_model_card(model_facts))
    assert card == str(render_model_card(dataclasses.replace(model_facts)))
    assert card != str(render_model_card(dataclasses.replace(model_facts, hardware="GPU")))
    assert "somebody/models" not in card  # of a path on somebody's machine only the last part
    local = [dataclasses.replace(result, dataset="/home/somebody/pictures") for result in model_facts.results]
    elsewhere = str(render_model_card(dataclasses.replace(model_facts, results=tuple(local))))
    assert "somebody/pictures" not in elsewhere
    assert front_matter(elsewhere)["model-index"][0]["results"][0]["dataset"]["type"] == "pictures"
    assert "small-generator" in card


def test_what_is_unknown_takes_its_section_with_it(model_facts):
    assert_no_empty_section(str(render_model_card(model_facts)))
    bare = ModelFacts(name="untrained", license="apache-2.0")
    card = str(render_model_card(bare))
    assert_no_empty_section(card)
    for heading in ("Training", "Results", "Architecture", "Made with"):
        assert f"## {heading}" not in card
        assert f"## {heading}" in str(render_model_card(model_facts))
    assert "model-index" not in card
    assert "untrained weights" in card
    assert numbers_in(body_of(card)) == {"2.0", "4.50"}  # of the licence's name; of transformers
    assert_no_empty_section(str(render_model_card(dataclasses.replace(model_facts, training={}, architecture={}))))
    real = dataclasses.replace(
        model_facts, data=dataclasses.replace(model_facts.data, generator={}), objective="simclr", licensed_parts=()
    )
    card = str(render_model_card(real))
    assert_no_empty_section(card)
    assert "generator" not in card
    assert "synthetic-data" not in card
    assert "Two views of one image" in card


def test_terms_and_sources_are_named(model_facts):
    text = body_of(str(render_model_card(model_facts)))
    assert (
        "[Twemoji](https://github.com/jdecked/twemoji) (pictures the generator learned from): CC BY 4.0. Graphics"
        in text
    )
    assert "- the captions (prompts): MIT" in text
    assert "- Drawings, not photos." in text
    card = str(render_model_card(model_facts))
    assert (
        "author    = {Tian, Yonglong and Fan, Lijie and Isola, Phillip and Chang, Huiwen and Krishnan, Dilip}" in card
    )
    named = dataclasses.replace(
        model_facts, license="other", license_name="the-licence", license_link="https://l.example"
    )
    assert front_matter(str(render_model_card(named)))["license_name"] == "the-licence"
    assert "under the-licence ([text](https://l.example))" in str(render_model_card(named))


def test_many_measures_of_few_encoders_stand_below_one_another(model_facts):
    """A table of eleven columns is read by nobody."""
    results = [
        dataclasses.replace(result, encoder=encoder, metric=f"recall@{k}")
        for encoder in (model_facts.name, "untrained")
        for k in (1, 5, 10)
        for result in model_facts.results[:1]
    ]
    card = str(render_model_card(dataclasses.replace(model_facts, results=tuple(results))))
    assert f"| measure | {model_facts.name} | untrained | *chance* |" in card
    assert "| encoder | kNN accuracy" in str(render_model_card(model_facts))


@pytest.mark.parametrize("name", [path.parent.name for path in CARDS.glob("*/facts.json")])
def test_released_cards_say_what_their_facts_say(name):
    facts = load_facts(CARDS / name / "facts.json")
    card = (CARDS / name / "README.md").read_text("utf-8")
    assert card == str(render_model_card(facts))
    assert {result.encoder for result in facts.results} >= {facts.name, "untrained", "8 x 8 pixels"}
    shipped = {"StableRep": assets.encoder_path(), "StableRep+": assets.dual_encoder_path()}.get(facts.name)
    if shipped:
        assert card == (shipped / "README.md").read_text("utf-8")
        assert facts.architecture == describe_encoder(shipped)


def test_settings_without_a_part_in_the_training_are_left_out(model_facts):
    settings = {"text_num_layers": 12, "probe_k": 20, "label_column": "label", "num_train_epochs": 3, "max_steps": 7}
    card = str(render_model_card(dataclasses.replace(model_facts, training=settings)))
    assert "| max steps | 7 |" in card
    for row in ("text num layers", "probe k", "label column", "num train epochs"):
        assert f"| {row} |" not in card
    used = {"text_num_layers": 12, "probe_k": 20, "probe_data": "a/b", "num_train_epochs": 3, "max_steps": -1}
    card = str(render_model_card(dataclasses.replace(model_facts, training=used, objective="clip")))
    for row in ("text num layers | 12", "probe k | 20", "num train epochs | 3"):
        assert f"| {row} |" in card


def test_an_encoders_card_says_where_the_full_model_is(model_facts):
    for objective, has in (
        ("stablerep", "its projection head, is"),
        ("clip", "its projection head and text tower, is"),
    ):
        text = body_of(str(render_model_card(dataclasses.replace(model_facts, objective=objective))))
        assert has in text
        assert "trust_remote_code=True, revision=COMMIT" in text
    converted = dataclasses.replace(model_facts, objective="", origin="a/vit", data=None)
    assert "trust_remote_code" not in str(render_model_card(converted))
    full = str(render_model_card(dataclasses.replace(model_facts, form="pretraining")))
    assert "as `revision`" in full


def test_a_data_set_on_the_hub_is_linked(model_facts):
    data = dataclasses.replace(model_facts.data, hub_id="somebody/drawn")
    card = render_model_card(dataclasses.replace(model_facts, data=data))
    assert front_matter(str(card))["datasets"] == ["somebody/drawn"]


def test_an_estimate_of_energy_is_told_where_there_is_one(model_facts):
    assert "energy" not in str(render_model_card(model_facts))
    facts = dataclasses.replace(model_facts, energy_kwh=0.0781, emissions_kg=0.03194)
    card = str(render_model_card(facts))
    assert "| energy, estimated by codecarbon | 0.0781 kWh |" in card
    assert "| emissions, by the same estimate | 0.03194 kg CO2eq |" in card
    assert front_matter(card)["co2_eq_emissions"] == {
        "emissions": 31.94,
        "source": "codecarbon",
        "training_type": "pre-training",
        "hardware_used": "CPU",
    }
    assert_no_empty_section(card)


def test_cards_that_would_be_wrong_are_refused(model_facts):
    with pytest.raises(InputError, match="its results are of 'StableRep on pictograms', 'untrained'"):
        render_model_card(dataclasses.replace(model_facts, name="another"))
    with pytest.raises(InputError, match="license=other names none"):
        render_model_card(dataclasses.replace(model_facts, license="other"))


@pytest.fixture
def encoder_folder(tmp_path) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    model = ViTModel(ViTConfig(**shape, image_size=16, patch_size=8))
    model.save_pretrained(tmp_path / "encoder")
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(
        tmp_path / "encoder"
    )
    return tmp_path / "encoder"


def test_an_encoder_is_described_from_its_files(encoder_folder):
    described = describe_encoder(encoder_folder)
    model = ViTModel.from_pretrained(encoder_folder)
    assert described == {
        "model_type": "vit",
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.5, 0.5],
    }
    with pytest.raises(InputError, match=r"no readable config\.json"):
        describe_encoder(encoder_folder.parent)
    (encoder_folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no safetensors weights"):
        describe_encoder(encoder_folder)


def test_the_lines_under_use_run_as_they_stand(model_facts, encoder_folder, tmp_path, monkeypatch):
    Image.new("L", (40, 30)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    (code,) = python_blocks(str(render_model_card(dataclasses.replace(model_facts, location="encoder"))))
    names: dict[str, object] = {}
    exec(code, names)
    features = names["features"]
    assert isinstance(features, torch.Tensor)
    assert features.shape == (1, 24)


def test_the_lines_for_the_full_model_run_as_they_stand(model_facts, encoder_folder, tmp_path, monkeypatch):
    from stablerep_hf.models import StableRepConfig, StableRepModel
    from stablerep_hf.models.configuration_stablerep import LOWEST_TRANSFORMERS

    vision = ViTConfig.from_pretrained(encoder_folder).to_dict()
    StableRepModel(StableRepConfig(vision_config=vision, projection_hidden_dim=8, projection_dim=4)).save_pretrained(
        tmp_path / "full"
    )
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "full")
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    facts = dataclasses.replace(model_facts, form="pretraining", location="full")
    assert f"transformers {LOWEST_TRANSFORMERS} or newer" in str(render_model_card(facts))
    (code,) = python_blocks(str(render_model_card(facts)))
    names: dict[str, object] = {}
    exec(code, names)
    assert names["features"].shape == (1, 24)  # type: ignore[attr-defined]
    assert describe_encoder(tmp_path / "full")["hidden_size"] == 24


HOSTILE = (
    "cat\n\n# Owned\n```python\nimport os\n```\n<script>alert(1)</script> [x](http://h/) ![y](http://h/z.png) `c` | \\"
)


def test_names_that_came_with_data_put_nothing_into_a_card():
    part = LicensedPart(name=HOSTILE, role="labels", license=HOSTILE, url="http://h/a) [b](c", attribution=HOSTILE)
    facts = ModelFacts(
        name=HOSTILE, license="mit", form="classifier", base_model=HOSTILE, classes=("dog", HOSTILE),
        data=TrainingData(name=HOSTILE, num_images=4, num_captions=0), training={HOSTILE: HOSTILE},
        licensed_parts=(part,), versions={"torch": HOSTILE},
    )  # fmt: skip
    usual = ModelFacts(
        name="a", license="mit", form="classifier", base_model="b", classes=("dog", "cat"),
        data=TrainingData(name="c", num_images=4, num_captions=0), training={"d": "e"},
        licensed_parts=(LicensedPart(name="f", role="labels", license="g", url="http://h/", attribution="i"),),
        versions={"torch": "1"},
    )  # fmt: skip

    def skeleton(facts):
        text = render_model_card(facts).text
        kinds = ("# ", "## ", "### ", "```", "|", "- ")
        lines = [line for line in text.splitlines() if line.strip()]
        return [next((kind for kind in kinds if line.startswith(kind)), "text") for line in lines], text

    shape, text = skeleton(facts)
    assert shape == skeleton(usual)[0]
    outside = re.sub(r"\\.", "", re.sub(r"```.*?```|(?<!\\)`[^`\n]*`", "", text, flags=re.DOTALL))
    assert "<script" not in outside and "](http://h/)" not in outside and "![" not in outside
