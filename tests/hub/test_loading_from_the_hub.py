"""What `stablerep publish` made loads with stock libraries, each in a process that has no stablerep_hf.

The same tests run against the real Hub with `HF_TOKEN=hf_... pytest -m live`: they make private repositories below
that account and remove them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hub_double import running_hub
from painters import Painter
from PIL import Image
from transformers import AutoTokenizer, CLIPTextConfig, ViTModel

from stablerep_hf import assets
from stablerep_hf.captions import CaptionSet
from stablerep_hf.hub import (
    ModelFacts,
    dataset_facts,
    describe_encoder,
    write_dataset_card,
    write_model_card,
)
from stablerep_hf.models import StableRepConfig, StableRepModel, export_encoder
from stablerep_hf.models.export import encoder_image_processor
from stablerep_hf.runs.conversion import ConversionSettings, convert
from stablerep_hf.synthesis import SynthesisPlan, synthesize

KINDS = ("data", "encoder", "full", "timm", "dual", "generator")
TEXTS = ["a red heart", "a green apple"]  # of the cards


@dataclass
class Shelf:
    """A Hub with one repository of each kind."""

    environment: Callable[[Path], dict[str, str]]
    folders: dict[str, Path]
    names: dict[str, str] = field(default_factory=dict)
    shas: dict[str, str] = field(default_factory=dict)

    def run(self, code: str, home: Path, *arguments: str, without_us: bool = True) -> str:
        """Run Python in a process of its own; returns what it printed."""
        home.mkdir(exist_ok=True)
        first = "import sys; sys.modules['stablerep_hf'] = None\n" if without_us else ""
        done = subprocess.run(
            [sys.executable, "-c", first + code, *arguments],
            env=self.environment(home), cwd=home, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    captions = CaptionSet.from_texts(f"thing number {index}" for index in range(5))
    plan = SynthesisPlan(captions, Painter().describe(), images_per_caption=3, captions_per_shard=2)
    synthesize(plan, Painter(), root / "data", progress=False)
    write_dataset_card(root / "data", dataset_facts(root / "data", name="Painted", license="mit"))
    torch.manual_seed(0)
    vision = StableRepConfig.from_size("micro", image_size=16, patch_size=8).vision_config
    tokenizer = AutoTokenizer.from_pretrained(assets.generator_path() / "tokenizer")
    tokenizer.model_max_length = 16
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    sizes = {"projection_hidden_dim": 8, "projection_dim": 4, "image_text_dim": 8}
    model = StableRepModel(StableRepConfig(vision_config=vision, text_config=text, **sizes))
    export_encoder(model, root / "encoder")
    for part in (model, encoder_image_processor(model.config), tokenizer):
        part.save_pretrained(root / "full")
    for name, form in (("encoder", "encoder"), ("full", "pretraining")):
        facts = ModelFacts(
            name=name, license="mit", form=form, architecture=describe_encoder(root / name), objective="stablerep+"
        )
        write_model_card(root / name, facts)
    convert(str(root / "encoder"), root / "timm", ConversionSettings("timm"))
    convert(str(root / "full"), root / "dual", ConversionSettings("sentence-transformers"))
    return {kind: root / kind for kind in KINDS if kind != "generator"} | {"generator": assets.generator_path()}


WHOAMI = "from huggingface_hub import HfApi; print(HfApi().whoami()['name'])"
PUBLISH = """
import json, sys
from huggingface_hub import HfApi
from stablerep_hf.cli import main
made = {}
for entry in sys.argv[1:]:
    kind, name, folder = entry.split("=", 2)
    assert main(["publish", folder, name, "--private", "--tag", "v1"]) == 0
    made[kind] = HfApi().repo_info(name, repo_type="dataset" if kind == "data" else "model").sha
print("MADE" + json.dumps(made))
"""
REMOVE = """
import sys
from huggingface_hub import HfApi
for entry in sys.argv[1:]:
    kind, name = entry.split("=", 1)
    HfApi().delete_repo(name, repo_type="dataset" if kind in ("data", "again") else "model", missing_ok=True)
"""


@pytest.fixture(scope="module", params=["double", pytest.param("live", marks=pytest.mark.live)])
def shelf(request, folders, tmp_path_factory) -> Iterator[Shelf]:
    root = tmp_path_factory.mktemp("shelf")
    with ExitStack() as stack:
        if request.param == "double":
            environment = stack.enter_context(running_hub(root / "hub")).environment
        else:
            environment = live_environment
        shelf = Shelf(environment, folders)
        account, suffix = shelf.run(WHOAMI, root / "home").strip(), secrets.token_hex(4)
        shelf.names = {kind: f"{account}/stablerep-test-{kind}-{suffix}" for kind in (*KINDS, "again")}
        removal = [f"{kind}={name}" for kind, name in shelf.names.items()]
        stack.callback(shelf.run, REMOVE, root / "home", *removal)  # of whatever there is, if publishing fails
        named = [f"{kind}={shelf.names[kind]}={folders[kind]}" for kind in KINDS]
        out = shelf.run(PUBLISH, root / "home", *named, without_us=False)
        shelf.shas = json.loads(out.rpartition("MADE")[2])
        yield shelf


def live_environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return kept | {"HF_HOME": str(home), "HF_TOKEN": os.environ["HF_TOKEN"]}


AGAIN = """
import hashlib, json, pathlib, sys
from huggingface_hub import HfApi, RepoFile
from stablerep_hf.cli import main
from stablerep_hf.hub import plan_publication
api, (name, folder) = HfApi(), sys.argv[1:]

def tree(revision):
    entries = api.list_repo_tree(name, repo_type="dataset", revision=revision, recursive=True)
    return {file.path: file for file in entries if isinstance(file, RepoFile)}

first, before = api.dataset_info(name).sha, tree("v1")
assert api.dataset_info(name).private
for path, size in plan_publication(folder).files:
    if before[path].lfs:
        assert before[path].lfs.sha256 == hashlib.sha256(pathlib.Path(folder, path).read_bytes()).hexdigest(), path
    assert path == "README.md" or before[path].size == size, path
assert any(file.lfs for file in before.values())
assert main(["publish", folder, name]) == 0
assert api.dataset_info(name).sha == first, "the same again is no commit"
notes = pathlib.Path(folder, "notes.md")
notes.write_text("looked at")
assert main(["publish", folder, name, "--create_pr"]) == 0
assert main(["publish", folder, name, "--create_pr"]) == 0
(proposal,) = api.get_repo_discussions(name, repo_type="dataset", discussion_type="pull_request")
assert api.dataset_info(name).sha == first, "a proposal changes nothing"
assert "notes.md" in tree(proposal.git_reference) and "notes.md" not in tree("main")
assert main(["publish", folder, name, "--tag", "v2"]) == 0
assert tree("v1").keys() | {"notes.md"} == tree("v2").keys()
assert main(["publish", folder, name, "--tag", "v1"]) == 2, "a version stays what it is"
titles = [commit.title for commit in api.list_repo_commits(name, repo_type="dataset")]
print(json.dumps(titles))
"""


@pytest.mark.slow
def test_a_second_version_is_published_and_proposed(shelf, tmp_path):
    folder = shutil.copytree(shelf.folders["data"], tmp_path / "drawn")
    shelf.run(PUBLISH, tmp_path / "home", f"data={shelf.names['again']}={folder}", without_us=False)
    titles = shelf.run(AGAIN, tmp_path / "home", shelf.names["again"], str(folder), without_us=False)
    assert json.loads(titles.splitlines()[-1]) == ["Publish drawn", "Publish drawn", "initial commit"]


USE = """
import re, sys
from huggingface_hub import hf_hub_download
def lines_under_use(name, repo_type):
    card = open(hf_hub_download(name, "README.md", repo_type=repo_type), encoding="utf-8").read()
    indented = re.findall(r"^    (.*)\\n", card, re.MULTILINE)  # in a card that fences nothing
    return "".join(re.findall(r"```python\\n(.*?)```", card, re.DOTALL)) or "\\n".join(indented)
"""


@pytest.mark.slow
def test_the_data_set_loads_and_streams(shelf, tmp_path):
    code = (
        USE
        + """
import json
from datasets import load_dataset
name = sys.argv[1]
exec(lines_under_use(name, "dataset"))
assert images.num_rows == 15 and len(set(images["caption_id"])) == 5
streamed = load_dataset(name, split="train", streaming=True)
for row, again in zip(images, streamed, strict=True):
    assert row["caption_id"] == again["caption_id"] and row["image"].tobytes() == again["image"].tobytes()
assert load_dataset(name, split="train", revision="v1")[3]["seed"] == images[3]["seed"]
print(json.dumps(images["caption_id"][:]))
"""
    )
    import datasets

    local = datasets.load_dataset(str(shelf.folders["data"]), split="train", cache_dir=str(tmp_path / "cache"))
    assert json.loads(shelf.run(code, tmp_path / "home", shelf.names["data"])) == local["caption_id"][:]


@pytest.mark.slow
def test_the_encoder_loads(shelf, tmp_path):
    code = (
        USE
        + """
import torch
exec(lines_under_use(sys.argv[1], "model"))
assert type(encoder).__module__ == "transformers.models.vit.modeling_vit"
torch.save(features, "features.pt")
"""
    )
    picture(tmp_path / "home")
    shelf.run(code, tmp_path / "home", shelf.names["encoder"])
    features = torch.load(tmp_path / "home" / "features.pt", weights_only=True)
    encoder = ViTModel.from_pretrained(shelf.folders["encoder"]).eval()
    assert torch.equal(features, encoder(pixels(shelf, tmp_path)).pooler_output)


@pytest.mark.slow
def test_the_full_model_loads_with_its_code_pinned(shelf, tmp_path):
    code = (
        USE
        + """
import torch
from transformers import AutoModel
name, sha = sys.argv[1:]
exec(lines_under_use(name, "model"))
assert type(model).__module__.startswith("transformers_modules.")
pinned = AutoModel.from_pretrained(name, trust_remote_code=True, revision=sha).eval()
with torch.no_grad():
    outputs = pinned(**inputs, **texts)
    assert torch.equal(outputs.text_embeds, text_embeds) and torch.equal(outputs.image_text_embeds, image_embeds)
    torch.save({"image_embeds": outputs.image_embeds, "features": features}, "features.pt")
"""
    )
    picture(tmp_path / "home")
    shelf.run(code, tmp_path / "home", shelf.names["full"], shelf.shas["full"])
    got = torch.load(tmp_path / "home" / "features.pt", weights_only=True)
    with torch.no_grad():
        expected = StableRepModel.from_pretrained(shelf.folders["full"]).eval()(pixels(shelf, tmp_path))
    assert torch.equal(got["features"], expected.pooler_output)
    assert torch.equal(got["image_embeds"], expected.image_embeds)


@pytest.mark.slow
def test_the_timm_checkpoint_loads(shelf, tmp_path):
    code = (
        USE
        + """
import torch
exec(lines_under_use(sys.argv[1], "model"))
assert type(encoder).__module__ == "timm.models.vision_transformer"
pixels = torch.load("pixels.pt", weights_only=True)
torch.save((features.shape, encoder(pixels)), "features.pt")
"""
    )
    picture(tmp_path / "home")
    torch.save(pixels(shelf, tmp_path), tmp_path / "home" / "pixels.pt")
    shelf.run(code, tmp_path / "home", shelf.names["timm"])
    shape, features = torch.load(tmp_path / "home" / "features.pt", weights_only=True)
    assert shape == (1, 96)
    encoder = ViTModel.from_pretrained(shelf.folders["encoder"]).eval()
    torch.testing.assert_close(features, encoder(pixels(shelf, tmp_path)).pooler_output)


@pytest.mark.slow
def test_sentence_transformers_and_pipelines_load_the_dual_encoder(shelf, tmp_path):
    code = (
        USE
        + """
import torch
from transformers import pipeline
exec(lines_under_use(sys.argv[1], "model"))
classify = pipeline("zero-shot-image-classification", model=sys.argv[1])
told = classify("picture.png", candidate_labels=["a red heart", "a green apple"], hypothesis_template="{}")
scores = {entry["label"]: entry["score"] for entry in told}
kept = {"images": torch.tensor(images), "texts": torch.tensor(texts), "similarities": similarities}
torch.save(kept | {"scores": torch.tensor([scores[text] for text in ("a red heart", "a green apple")])}, "found.pt")
"""
    )
    picture(tmp_path / "home")
    shelf.run(code, tmp_path / "home", shelf.names["dual"])
    found = torch.load(tmp_path / "home" / "found.pt", weights_only=True)
    model = StableRepModel.from_pretrained(shelf.folders["full"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(shelf.folders["full"])
    with torch.no_grad():
        outputs = model(pixels(shelf, tmp_path), **tokenizer(TEXTS, padding=True, return_tensors="pt"))
    images, texts = (
        torch.nn.functional.normalize(embeds) for embeds in (outputs.image_text_embeds, outputs.text_embeds)
    )
    torch.testing.assert_close(found["images"], images)
    torch.testing.assert_close(found["texts"], texts)
    torch.testing.assert_close(found["similarities"], images @ texts.T)
    torch.testing.assert_close(found["scores"], (outputs.logit_scale.exp() * images @ texts.T).softmax(-1)[0])


@pytest.mark.slow
def test_the_generator_draws(shelf, tmp_path):
    code = """
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
drawn = pipeline("a red heart", num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="pt")
torch.save(drawn.images.contiguous(), "drawn.pt")
"""
    as_the_card_says = (
        USE
        + """
exec(lines_under_use(sys.argv[1], "model"))
assert image.size == (32, 32)
"""
    )
    shelf.run(as_the_card_says + code, tmp_path / "home", shelf.names["generator"])
    shelf.run(code, tmp_path / "local", str(shelf.folders["generator"]))
    drawn, expected = (torch.load(tmp_path / name / "drawn.pt", weights_only=True) for name in ("home", "local"))
    assert drawn.shape == (1, 3, 32, 32)
    assert torch.equal(drawn, expected)


def picture(folder: Path) -> None:
    folder.mkdir()
    Image.linear_gradient("L").resize((40, 30)).save(folder / "picture.png")


def pixels(shelf: Shelf, tmp_path: Path) -> torch.Tensor:
    processor = encoder_image_processor(StableRepConfig.from_size("micro", image_size=16, patch_size=8))
    image = Image.open(tmp_path / "home" / "picture.png").convert("RGB")
    tensor: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
    return tensor
