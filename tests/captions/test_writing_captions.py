from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from painting_server import PaintingServer, serving
from waiting import wait_until

from stablerep_hf.captions import CaptionWriter, Writing, WritingSettings, text_classifier, write_captions
from stablerep_hf.captions.written import example_prompts
from stablerep_hf.errors import InputError
from stablerep_hf.services import KEY, Patience


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
    monkeypatch.setattr(
        writer, "_answer", lambda requests, answer=writer._answer: loads.append(None) or answer(requests)
    )
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
    kept.name = language_model
    assert list(kept.write(prompts, 2, seed=1)) == answers  # nothing is left to ask
    assert kept.num_written == 0
    repeated = [text for _, text in kept.write([*prompts, *prompts], 1, seed=1)]
    assert sorted(repeated) == sorted(text for _, text in answers)
    others = list(CaptionWriter(language_model, tmp_path / "two.jsonl", writing=writing).write(prompts, 2, seed=2))
    assert others != answers


def test_a_row_of_a_batch_is_what_is_written_alone(language_model: str) -> None:
    prompts = ["a", "a longer prompt", "b", "another one that is longer still"]
    writing = Writing(max_new_tokens=10)
    together = dict(CaptionWriter(language_model, writing=writing).write(prompts, 1))
    alone = {
        place: text
        for place, prompt in enumerate(prompts)
        for _, text in CaptionWriter(language_model, writing=writing).write([prompt], 1)
    }
    assert together == alone and len(together) >= 3


def test_the_sampling_processor_samples() -> None:
    import torch

    from stablerep_hf.captions.language_model import _sampling

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    number = 4000
    chosen = _sampling(range(number), Writing(temperature=1.0, top_p=1.0))(None, logits.repeat(number, 1)).argmax(1)
    shares = torch.bincount(chosen, minlength=4) / number
    assert (shares - logits.exp()).abs().max() < 4 * math.sqrt(0.25 / number)
    nucleus = _sampling(range(number), Writing(temperature=1.0, top_p=0.7))(None, logits.repeat(number, 1)).argmax(1)
    assert set(nucleus.tolist()) == {0, 1}


def test_prompts_are_of_three_kinds_with_examples_of_ours() -> None:
    lists = {"backgrounds": ["a forest", "a lake"], "relations": ["on a bench"]}
    (one, two, three, four, *_) = prompts = [
        prompt for _, prompt in zip(range(30), example_prompts("tiger", **lists), strict=False)
    ]
    assert one.endswith("\ntiger =>") and four.endswith("\ntiger =>") and one != four
    assert two.endswith((", a forest =>", ", a lake =>")) and three.endswith("\ntiger, on a bench =>")
    assert all(len(prompt.splitlines()) == 5 and prompt.count(" => ") == 3 for prompt in prompts)
    again = example_prompts("tiger", **lists)
    assert [next(again) for _ in prompts] == prompts
    assert next(example_prompts("tiger", **lists, seed=1)) != one


def quick(server: PaintingServer, *arguments: Any, **options: Any) -> CaptionWriter:
    return CaptionWriter(server.address, *arguments, patience=Patience(attempts=8, first_wait=0.01), **options)


def test_a_server_writes_with_many_requests_at_a_time_and_each_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    faults = ("429", "500", "cut", "garbled", "drop", None)

    def fault(request: dict[str, Any], number: int) -> Any:
        time.sleep(0.02)
        return faults[(request["seed"] + number) % len(faults)]

    with serving(fault) as server:
        prompts = [f"thing {i} =>" for i in range(10)]
        writer = quick(server, tmp_path / "answers.jsonl", concurrency=5)
        answers = list(writer.write(prompts, 2, seed=3))
        assert [number for number, _ in answers] == [number for number in range(10) for _ in range(2)]
        assert all(text.startswith("a picture of thing ") and "\n" not in text for _, text in answers)
        assert len(server.answered) == 20 and not server.repeated
        assert 2 <= server.most_at_once <= 5
        sent = server.requests[0]
        assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("painter-1", 0.9, 64)
        assert len({request["seed"] for request in server.requests}) == 20  # a seed for each caption
        assert server.keys == {"Bearer sk-secret"}
        kept = (tmp_path / "answers.jsonl").read_text()
        assert "sk-secret" not in kept and "127.0.0.1" not in kept
        asked = len(server.requests)
        assert list(quick(server, tmp_path / "answers.jsonl").write(prompts, 2, seed=3)) == answers
        assert len(server.requests) == asked


def test_a_server_writes_captions_of_classes_by_three_kinds_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("tiger\nteapot\n")
    with serving() as server:
        settings = WritingSettings(classes=str(tmp_path / "classes.txt"), language_model=server.address, per_class=6)
        captions = write_captions(settings, answers=tmp_path / "answers.jsonl")
        assert Counter(captions.labels) == {"tiger": 6, "teapot": 6}
        assert captions.history["language_model"] == "painter-1"
        contents = [request["messages"][0]["content"] for request in server.requests]
        assert sum(content.endswith("\ntiger =>") for content in contents) == 2
        assert len(contents) == 12
        assert write_captions(settings, answers=tmp_path / "answers.jsonl").digest == captions.digest
        assert len(server.requests) == 12


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((402, {"error": {"message": "Payment required"}}), "no credit left"),
        ((404, {"error": {"message": "no such model"}}), "refuses the request"),
        ("garbled", "failed 8 times"),
    ],
)
def test_a_server_that_stops_writing_loses_nothing(tmp_path: Path, fault: Any, said: str) -> None:
    broken = [True]

    def fail(request: dict[str, Any], number: int) -> Any:
        return fault if broken and "7" in request["messages"][0]["content"] else None

    with serving(fail) as server:
        prompts = [f"thing {i} =>" for i in range(10)]
        with pytest.raises(InputError, match=said):
            list(quick(server, tmp_path / "answers.jsonl", concurrency=2).write(prompts, 1))
        assert server.answered
        broken.clear()
        assert len(list(quick(server, tmp_path / "answers.jsonl").write(prompts, 1))) == 10
        assert not server.repeated and len(server.answered) == 10


def test_withheld_captions_are_left_out_and_not_asked_for_again(tmp_path: Path) -> None:
    refusal = (400, {"error": {"code": "content_filter", "message": "no"}})
    with serving(lambda request, number: refusal if "1" in request["messages"][0]["content"] else None) as server:
        for _ in range(2):
            answers = list(quick(server, tmp_path / "answers.jsonl").write(["thing 0", "thing 1"], 1))
            assert [number for number, _ in answers] == [0]
        assert set(server.asked.values()) == {1}


@pytest.mark.slow
def test_a_killed_writer_asks_again_for_nothing_that_was_answered(tmp_path: Path) -> None:
    waiting: list[Any] = []
    release = threading.Event()

    def fault(request: dict[str, Any], number: int) -> Any:
        if "9" in request["messages"][0]["content"] and not release.is_set():
            waiting.append(request)
            release.wait(60)
            return "drop"
        return None

    script = (
        "import sys; from stablerep_hf.captions import CaptionWriter; "
        "list(CaptionWriter(sys.argv[1], sys.argv[2]).write([f'thing {i}' for i in range(20)], 1))"
    )
    with serving(fault) as server:
        command = [sys.executable, "-c", script, server.address, str(tmp_path / "answers.jsonl")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, env=environment)
        answers = tmp_path / "answers.jsonl"
        wait_until(lambda: len(waiting) == 2 and answers.exists() and answers.read_text().count("\n") == 18, process)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        release.set()
        assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 18
        subprocess.run(command, env=environment, check=True, timeout=120)
        assert not server.repeated and len(server.answered) == 20


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
    assert len(text_classifier(classifier, ["toxic"])(["a"] * 130)) == 130, "they are read in batches"
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
