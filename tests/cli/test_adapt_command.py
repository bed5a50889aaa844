"""`stablerep adapt-generator`: captioned images to a LoRA that others load."""

import re

import pytest
from card_reading import assert_no_empty_section, body_of, front_matter, python_blocks
from hub_double.cards import check_card
from test_cli_commands import refused

from stablerep_hf.hub import plan_publication


@pytest.fixture
def adapted(stablerep, pipeline, grouped_folder, tmp_path):
    flags = ["--generator", pipeline, "--data", grouped_folder, "--output", tmp_path / "lora", "--rank", "2"]
    flags += ["--batch_size", "2", "--prompt_template", '{caption}, "my" style', "--license", "cc-by-4.0"]
    code, _, error = stablerep("adapt-generator", *flags, "--steps", "2")
    assert code == 0, error
    return tmp_path / "lora", flags


def test_a_lora_is_published_with_a_card_that_loads_it(adapted, stablerep, pipeline, hub_here, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder, _ = adapted
    code, _, error = stablerep("publish", folder, "alice/style")
    assert code == 0, error
    files = hub_here.files("alice/style")
    assert set(files) == {"README.md", "pytorch_lora_weights.safetensors"}, "no state, and no record of it"
    card = files["README.md"].decode()
    assert check_card(card, "model") == ([], [])
    assert_no_empty_section(card)
    data = front_matter(card)
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("cc-by-4.0", "diffusers", "text-to-image")
    assert {"lora", "stablerep"} <= set(data["tags"]) and "base_model" not in data, "a folder is no repository"
    assert "48 captioned images" in body_of(card) and "| learning rate | 0.0001 |" in body_of(card)
    assert str(tmp_path) not in card
    (code,) = python_blocks(card)
    code = code.replace("path/to/the/pipeline", str(pipeline)).replace('style"', 'style", num_inference_steps=1')
    names = {}
    exec(code, names)
    assert names["pipeline"].get_active_adapters() and names["image"].size[0] > 0


def test_a_loras_card_names_what_it_rests_on(adapted):
    card = plan_publication(adapted[0]).card("me/style")
    assert 'load_lora_weights("me/style", ' in card and "is released under cc-by-4.0" in card
    assert re.search(r"- tiny \(the pipeline that it adapts\): unknown", card)


def test_a_card_that_somebody_corrected_stays_until_there_are_new_steps(adapted, stablerep):
    folder, flags = adapted
    (folder / "README.md").write_text("mine")
    assert stablerep("adapt-generator", *flags, "--steps", "2")[0] == 0
    assert (folder / "README.md").read_text() == "mine"
    assert refused(stablerep("adapt-generator", *flags, "--license", "other"), "--license other names none")
