"""Commands in an environment that lacks what only they need."""

import sys

import pytest
from tiny_training import TRAIN_FLAGS


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("peft", "lora", ["finetune", "ENCODER", "--data", "DATA", "--mode", "lora", "--use_cpu"]),
        ("peft", "lora", ["adapt-generator", "--data", "DATA"]),
        ("onnxscript", "onnx", ["convert", "ENCODER", "out", "--format", "onnx"]),
        ("usearch", "space", ["demo-app"]),
        ("trackio", "tracking", ["train", "--data", "GROUPED", *TRAIN_FLAGS, "--report_to", "trackio"]),
    ],
)
def test_a_missing_package_is_one_sentence_that_names_the_extra(
    stablerep, trained, labelled_folder, grouped_folder, tmp_path, monkeypatch, package, extra, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_trackio_available", lambda: False)
    names = {"ENCODER": trained, "DATA": labelled_folder, "GROUPED": grouped_folder}
    code, _, error = stablerep(*[names.get(word, word) for word in words])
    assert code == 2 and error.count("\n") == 1
    assert package in error and f"stablerep_hf[{extra}]" in error
    assert not list(tmp_path.glob("[!h]*")), "nothing was written but what is kept of the Hub"
