"""Code that comes with a model runs where `trust_remote_code` was given, and nobody is asked on the way."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from training_data import make_dataset

from stablerep_hf.cli import main
from stablerep_hf.training import ModelSettings, build_model
from stablerep_hf.training.teachers import Teacher

PACKAGE = Path(__file__).parents[1] / "stablerep_hf"
# Classes that load no code from a folder: our own, and PEFT's adapters on a model that is loaded already.
SAFE = {
    "StableRepModel",
    "StableRepConfig",
    "StableRepForImageClassification",
    "StableRepTextModel",
    "PeftModel",
    "kind",
}


def unsafe_calls(path):
    """Lines of calls of `from_pretrained` that leave the question of remote code to the library."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained"):
            continue
        receiver = node.func.value
        name = receiver.id if isinstance(receiver, ast.Name) else getattr(receiver, "attr", "")
        # a dictionary of options is trusted to hold it: the commands below try
        if name not in SAFE - {"kind"} and not {"trust_remote_code", None} & {word.arg for word in node.keywords}:
            yield node.lineno


# File -> calls that load no code: a scheduler of diffusers is one of its own classes.
ALLOWED = {"synthesis/pipeline_folder.py": 1}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_call_says_whether_remote_code_may_run(path):
    found = list(unsafe_calls(path))
    name = str(path.relative_to(PACKAGE))
    assert len(found) <= ALLOWED.get(name, 0), f"lines {found} of {path}"


EVIL = """
import os, pathlib
pathlib.Path(os.environ["EVIL_MARK"]).touch()
from transformers import PretrainedConfig, PreTrainedModel
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class Evil(PreTrainedModel):
    config_class = EvilConfig
"""
CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoModelForSequenceClassification",
    "AutoModelForCausalLM", "AutoImageProcessor", "AutoProcessor", "AutoFeatureExtractor",
)  # fmt: skip


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A model folder, and below it a pipeline, that run code as soon as they may."""
    folder = tmp_path / "evil"
    folder.mkdir()
    code = {name: "evil.EvilConfig" if name == "AutoConfig" else "evil.Evil" for name in CLASSES}
    code["AutoTokenizer"] = ["evil.Evil", None]
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({"model_type": "evil", "architectures": ["Evil"], "auto_map": code}))
    (folder / "evil.py").write_text(EVIL)
    index = {"_class_name": ["evil", "Evil"], "_diffusers_version": "0.42.0", "unet": ["evil", "Evil"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for part in ("unet", "tokenizer", "text_encoder"):
        (folder / part).mkdir()
        for name in ("config.json", "tokenizer_config.json"):
            (folder / part / name).write_text((folder / name).read_text())
        (folder / part / "evil.py").write_text(EVIL)
    make_dataset([4] * 12).to_parquet(tmp_path / "data" / "train.parquet")
    (tmp_path / "captions.txt").write_text("a red ball\na blue ball\n")
    (tmp_path / "classes.txt").write_text("ball\ncat\n")
    (tmp_path / "prompt.txt").write_text("A sentence about a {class}:")
    (tmp_path / "adapter").mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 2, "target_modules": ["query"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    monkeypatch.setenv("EVIL_MARK", str(tmp_path / "mark"))
    monkeypatch.chdir(tmp_path)
    return folder


COMMANDS = [
    "generate --captions captions.txt --generator evil",
    "generate --captions captions.txt --alignment-model evil",
    "generate --captions captions.txt --nsfw-model evil",
    "adapt-generator --data embedded --generator evil",
    "captions captions.txt --classifier evil --classifier-labels bad",
    "captions --classes classes.txt --language-model evil --prompt prompt.txt",
    "train --data data --use-cpu --images-per-caption 4 --captions-per-batch 4 --size micro --init-from evil",
    "train --data data --use-cpu --images-per-caption 4 --captions-per-batch 4 --objective clip --tokenizer evil",
    "train --data data --use-cpu --images-per-caption 4 --captions-per-batch 4 --size micro --teacher evil",
    "train --data data --use-cpu --images-per-caption 4 --captions-per-batch 4 --objective clip --text-init-from evil",
    "blend evil evil --general-data embedded",
    "finetune evil --data embedded",
    "evaluate evil --data embedded",
    "evaluate adapter --data embedded",
    "embed evil --data embedded",
    "index embedded evil",
    "index embedded adapter",
    "retrieve --captions captions.txt --data data --encoder evil --output out",
    "reproduce --generator evil --claims 2 --quick",
    "convert evil out",
    "convert evil out --format timm",
    "convert embedded out --format onnx --tokenizer evil",
    "demo-app --encoder evil --port 7999",
]


ALL_WITH_YES = """
import io, sys
from contextlib import redirect_stderr
from stablerep_hf.cli import main
for line in sys.argv[1:]:
    with redirect_stderr(io.StringIO()) as said:
        code = main(line.split())
    if code != 2 or "Traceback" in said.getvalue() or not said.getvalue().strip():
        print(line, code, said.getvalue())
print(len(sys.stdin.readlines()), "answers left")
"""


@pytest.mark.slow
def test_no_command_asks_or_runs_code_though_yes_is_piped_into_it(evil):
    command = [sys.executable, "-c", ALL_WITH_YES, *COMMANDS]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run(command, input="y\n" * 999, env=paths, stdout=subprocess.PIPE, text=True, timeout=280)
    assert done.stdout == "999 answers left\n"
    assert not (evil.parent / "mark").exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_training_runs_the_code_of_its_models_where_it_is_trusted(tmp_path, monkeypatch, trusted):
    size = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 16}
    transformers.ConvNextV2Model(transformers.ConvNextV2Config(**size)).save_pretrained(tmp_path / "own")
    config = tmp_path / "own" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.C"}})
    )
    (tmp_path / "own" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "BitImageProcessor", "size": {"height": 16, "width": 16}})
    )
    (tmp_path / "own" / "own.py").write_text(
        "import os, pathlib\n"
        "from transformers import ConvNextV2Config, ConvNextV2Model\n"
        "class C(ConvNextV2Config): pass\n"
        "class Own(ConvNextV2Model):\n"
        "    config_class = C\n"
        "    def __init__(self, *given, **named):\n"
        "        super().__init__(*given, **named)\n"
        "        pathlib.Path(os.environ['EVIL_MARK']).touch()\n"
    )
    monkeypatch.setenv("EVIL_MARK", str(tmp_path / "mark"))
    source = str(tmp_path / "own")
    build_model(ModelSettings(init_from=source, trust_remote_code=trusted), 0)
    assert (tmp_path / "mark").exists() == trusted
    (tmp_path / "mark").unlink(missing_ok=True)
    Teacher.load(source, trust_remote_code=trusted)
    assert (tmp_path / "mark").exists() == trusted


PICKLED = [
    "train --data data --use-cpu --images-per-caption 4 --captions-per-batch 4 --init-from pickled",
    "train --data data --use-cpu --images-per-caption 4 --captions-per-batch 4 --size micro --teacher pickled",
    "finetune pickled --data data --label-column caption --test-split none",
    "evaluate pickled --data data --split train",
    "index data pickled",
    "convert pickled out",
    "blend pickled pickled --data data --general-data data",
    "captions captions.txt --classifier pickled --classifier-labels bad",
    "captions --classes classes.txt --language-model pickled --prompt prompt.txt",
]


@pytest.mark.parametrize("line", PICKLED)
def test_weights_that_are_pickled_are_refused_and_never_read(evil, line, monkeypatch, capsys):
    pickled = evil.parent / "pickled"
    transformers.ViTModel(transformers.ViTConfig(hidden_size=8, num_attention_heads=1)).save_pretrained(pickled)
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch mark'\ntR.")
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("a pickle is read"))
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and not (evil.parent / "mark").exists()
