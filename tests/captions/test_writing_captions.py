from __future__ import annotations

from pathlib import Path

import pytest

from stablerep_hf.captions import CaptionWriter, Writing, text_classifier
from stablerep_hf.errors import InputError


@pytest.fixture(scope="module")
def byte_tokenizer():
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=64)


@pytest.fixture(scope="module")
def language_model(byte_tokenizer, tmp_path_factory) -> str:
    """A causal language model of random weights over bytes."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("language-model")
    config = GPT2Config(vocab_size=len(byte_tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return str(folder)


def test_answers_follow_from_prompt_and_seed_and_are_asked_once(
    language_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(max_new_tokens=12)
    prompts = ["dog:", "cat:"]
    writer = CaptionWriter(language_model, tmp_path / "one.jsonl", writing=writing)
    loads: list[None] = []
    monkeypatch.setattr(writer, "_load", lambda load=writer._load: loads.append(load()))
    answers = list(writer.write(prompts, 2, seed=1))
    assert (writer.num_written, len(loads)) == (4, 1)
    assert {number for number, _ in answers} <= {0, 1}
    assert len({text for _, text in answers}) > 2

    # In another order and with a cache that a kill tore, the same captions come out.
    torn = (tmp_path / "one.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "one.jsonl").write_text("".join(torn[:2]) + torn[2][:9])
    again = CaptionWriter(language_model, tmp_path / "one.jsonl", writing=writing)
    turned = list(again.write(prompts[::-1], 2, seed=1))
    assert again.num_written == 2
    assert sorted((1 - number, text) for number, text in turned) == sorted(answers)

    kept = CaptionWriter("no/model/at/all", tmp_path / "one.jsonl", writing=writing)
    kept.model = language_model
    assert list(kept.write(prompts, 2, seed=1)) == answers  # nothing is left to ask
    assert kept.num_written == 0
    repeated = [text for _, text in kept.write([*prompts, *prompts], 1, seed=1)]
    assert sorted(repeated) == sorted(text for _, text in answers)
    others = list(CaptionWriter(language_model, tmp_path / "two.jsonl", writing=writing).write(prompts, 2, seed=2))
    assert others != answers


def test_impossible_writing(language_model: str, tmp_path: Path) -> None:
    for wrong in ({"max_new_tokens": 0}, {"temperature": 0}, {"top_p": 0}, {"top_p": 1.5}):
        (said,) = (f"{name}={value}" for name, value in wrong.items())
        with pytest.raises(InputError, match=said):
            Writing(**wrong)  # type: ignore[arg-type]
    Writing(max_new_tokens=1, top_p=1)
    with pytest.raises(InputError, match="0 answers"):
        list(CaptionWriter(language_model, tmp_path / "c").write(["a"], 0))
    with pytest.raises(InputError, match="language model '/none' cannot be loaded"):
        list(CaptionWriter("/none", tmp_path / "c").write(["a"], 1))


@pytest.fixture(scope="module")
def classifier(byte_tokenizer, tmp_path_factory) -> str:
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    config = DistilBertConfig(
        vocab_size=len(byte_tokenizer), dim=16, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=64,
        num_labels=3, id2label={0: "fine", 1: "toxic", 2: "threat"}, label2id={"fine": 0, "toxic": 1, "threat": 2},
    )  # fmt: skip
    model = DistilBertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    model.save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_text_classifier_is_a_score_of_its_unsafe_labels(classifier: str) -> None:
    assert text_classifier(classifier, ["toxic"])(["a", "b c"]) == pytest.approx([0.3, 0.3])
    assert text_classifier(classifier, ["toxic", "threat"])(["a"]) == pytest.approx([0.4])
    with pytest.raises(InputError, match=r"no label 'bad'; its labels are \['fine', 'threat', 'toxic'\]"):
        text_classifier(classifier, ["bad"])
    with pytest.raises(InputError, match="cannot be loaded"):
        text_classifier("/none", ["bad"])


def test_models_of_text_are_on_the_accelerator(
    language_model: str, classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # a device that every machine has and that computes nothing: what is asked of it fails
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("meta"))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        text_classifier(classifier, ["toxic"])(["a"])
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        list(CaptionWriter(language_model, tmp_path / "c").write(["a"], 1))
