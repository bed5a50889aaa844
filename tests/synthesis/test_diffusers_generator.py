from __future__ import annotations

import json
import shutil
import types
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from stablerep_hf import assets
from stablerep_hf.captions import CaptionSet
from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import DiffusersGenerator, SynthesisPlan, generator_of, synthesize

PROMPTS = ["a red ball", "a dog", "a dog", "a very long house by the sea"]
SEEDS = [3, 2**63 - 1, 5, 0]


def pixels(images: list[Image.Image | None]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.fixture(scope="module")
def generator(tiny_pipeline: Path) -> DiffusersGenerator:
    return DiffusersGenerator(tiny_pipeline, num_inference_steps=3)


def test_an_image_is_the_same_alone_in_a_batch_and_in_another_order(generator: DiffusersGenerator) -> None:
    together = pixels(generator(PROMPTS, SEEDS))
    alone = np.concatenate([pixels(generator([p], [s])) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    turned = pixels(generator(PROMPTS[::-1], SEEDS[::-1]))[::-1]
    assert together.shape == (4, 16, 16, 3)
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together - turned).max() <= 1
    assert (pixels(generator(PROMPTS, SEEDS)) == together).all()
    assert np.abs(together[1] - together[2]).max() > 20  # one prompt, two seeds


def test_it_draws_what_a_plain_pipeline_call_draws(generator: DiffusersGenerator, tiny_pipeline: Path) -> None:
    import diffusers

    plain = diffusers.StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        "a dog",
        generator=torch.Generator().manual_seed(7),
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="pil",
    ).images
    assert (pixels(generator(["a dog"], [7])) == pixels(expected)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 8.0},
        {"num_inference_steps": 4},
        {"scheduler": "EulerDiscreteScheduler"},
        {"negative_prompt": "a cat"},
        {"dtype": "bfloat16"},
        {"height": 24, "width": 8},
    ],
)
def test_every_setting_reaches_the_pipeline_and_the_plan(
    generator: DiffusersGenerator, tiny_pipeline: Path, change: dict[str, Any]
) -> None:
    other = DiffusersGenerator(tiny_pipeline, **{"num_inference_steps": 3, **change})
    assert {**generator.describe(), **change} == other.describe()
    images = other(PROMPTS, SEEDS)
    assert images[0] is not None
    if "height" in change:
        assert images[0].size == (8, 24)
    else:
        assert np.abs(pixels(images) - pixels(generator(PROMPTS, SEEDS))).max() > 0


def test_the_description_names_no_path_and_follows_the_content(
    generator: DiffusersGenerator, tiny_pipeline: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_pipeline, tmp_path / "elsewhere" / tiny_pipeline.name))
    description = generator.describe()
    assert description["name"] == "tiny-stable-diffusion"
    assert (description["pipeline"], description["scheduler"]) == ("StableDiffusionPipeline", "DDIMScheduler")
    assert DiffusersGenerator(copy, num_inference_steps=3).describe() == description

    (copy / "README.md").write_text("a card")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("y")
    assert DiffusersGenerator(copy).revision == description["revision"]
    config = copy / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert DiffusersGenerator(copy).revision != description["revision"]


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: creativeml-openrail-m\n---\n# A card", "creativeml-openrail-m"),
        ("---\nlicense: other\nlicense_name: flux-1-dev\n---\n", "flux-1-dev"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        ("# no metadata", None),
        ("---\nlicense: [\n---\n", None),
        (None, None),
    ],
)
def test_rows_name_the_licence_of_the_generators_card(
    tiny_pipeline: Path, tmp_path: Path, card: str | None, expected: str | None
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "tiny"))
    if card is not None:
        (folder / "README.md").write_text(card)
    assert DiffusersGenerator(folder).describe()["license"] == expected
    assert DiffusersGenerator(folder, generator_license="mine").describe()["license"] == "mine"


def test_a_finished_folder_loads_no_weights(tiny_pipeline: Path, tmp_path: Path) -> None:
    import diffusers

    generator = DiffusersGenerator(tiny_pipeline, num_inference_steps=2)
    plan = SynthesisPlan(CaptionSet.from_texts(["a dog", "a cat"]), generator.describe(), images_per_caption=3)
    synthesize(plan, generator, tmp_path, progress=False)
    rows = datasets.load_dataset(str(tmp_path), split="train")
    assert rows.num_rows == 6
    assert set(rows["generator"]) == {"tiny-stable-diffusion"}
    assert set(rows["generator_revision"]) == {generator.revision}
    assert f"diffusers {diffusers.__version__}" in rows[0]["library_versions"]
    again = DiffusersGenerator(tiny_pipeline, num_inference_steps=2)
    synthesize(plan, again, tmp_path, progress=False)
    assert "pipeline" not in vars(again)


@pytest.mark.parametrize("threshold", [-1.0, 1.0])
def test_the_pipelines_safety_checker_is_honoured(tiny_pipeline: Path, tmp_path: Path, threshold: float) -> None:
    import diffusers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 16, "patch_size": 8, "projection_dim": 8}, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():  # a frame is flagged where its similarity to a concept exceeds the concept's weight
        for name, buffer in checker.named_parameters():
            if name.endswith("embeds_weights"):
                buffer.fill_(threshold)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny_pipeline,
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        requires_safety_checker=True,
    )
    pipeline.save_pretrained(tmp_path / "checked")

    generator = DiffusersGenerator(tmp_path / "checked", num_inference_steps=2)
    images = generator(PROMPTS, SEEDS)
    if threshold == 1.0:
        assert all(image is not None for image in images)
    else:
        assert images == [None] * 4
        plan = SynthesisPlan(CaptionSet.from_texts(["a dog"]), generator.describe())
        with pytest.raises(InputError, match=r"'a dog'.*look at the generator's safety checker"):
            synthesize(plan, generator, tmp_path / "store", progress=False)


def test_the_embedded_pipeline_is_drawn_as_its_own_file_says() -> None:
    own = assets.drawing_defaults()
    generator = DiffusersGenerator()
    assert (generator.source.path, generator.name) == (assets.generator_path(), "embedded")
    assert (generator.num_inference_steps, generator.guidance_scale) == (12, own["guidance_scale"])
    plan = SynthesisPlan(CaptionSet.from_texts(["a red heart"]), generator)
    assert list(plan.prompt_templates) == own["prompt_templates"]
    assert SynthesisPlan(plan.captions, generator, prompt_templates=["a {caption}"]).prompt_templates == (
        "a {caption}",
    )
    assert DiffusersGenerator(num_inference_steps=3, guidance_scale=1.5).describe()["num_inference_steps"] == 3


def test_a_hub_pipeline_is_pinned_to_its_commit(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    snapshot = Path(shutil.copytree(tiny_pipeline, tmp_path / "models--owner--name/snapshots/0123abc"))
    asked: list[object] = []

    def download(repository: str, revision: str | None, **settings: bool) -> str:
        asked.append((repository, revision))
        assert settings == {"use_safetensors": True, "trust_remote_code": False}
        return str(snapshot)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    generator = DiffusersGenerator("owner/name", "main", num_inference_steps=2)
    assert asked == [("owner/name", "main")]
    assert (generator.describe()["name"], generator.describe()["revision"]) == ("owner/name", "0123abc")
    assert len(generator(["a dog"], [1])) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/none/at/all", "neither a folder nor of the form owner/name"),
        ("word", "neither a folder nor of the form owner/name"),
        ("./owner/name", "neither a folder nor of the form owner/name"),
        ("nobody/nothing", "'nobody/nothing' is not a folder here and could not be loaded from the Hub"),
        ("no body/nothing!", "could not be loaded from the Hub"),
    ],
)
def test_unknown_pipelines_get_one_sentence(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        DiffusersGenerator(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"scheduler": "FooScheduler"},
            "'FooScheduler' does not fit 'tiny-stable-diffusion'; use one of DDIMScheduler",
        ),
        ({"dtype": "int8"}, "dtype=int8 is not a type that a pipeline can be loaded in"),
        ({"device": "quantum"}, "device=quantum is unknown"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 draws nothing"),
        ({"attention": "psychic"}, "attention 'psychic' is unknown; use one of slicing, "),
        ({"autoencoder": ["dicing"]}, "'dicing' is unknown; use slicing or tiling"),
        ({"offload": True, "device": "cpu"}, "offload=True was given on device=cpu"),
        ({"negative_prompt": "a cat", "guidance_scale": 1.0}, "'a cat' has no effect at guidance_scale 1"),
        ({"lora": "/none/at/all"}, "LoRA '/none/at/all' is not a safetensors file"),
    ],
)
def test_impossible_settings_are_found_before_anything_is_loaded(
    tiny_pipeline: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        DiffusersGenerator(tiny_pipeline, **settings)


def test_a_size_the_pipeline_refuses(tiny_pipeline: Path) -> None:
    for height in (17, 0, -8):
        with pytest.raises(InputError, match=rf"size {height} x 16 does not suit .*divisible by 8"):
            DiffusersGenerator(tiny_pipeline, height=height, width=16)
    with pytest.raises(InputError, match="only 24 pixels one way"):
        DiffusersGenerator(tiny_pipeline, width=24)


def test_folders_that_are_no_pipeline_or_are_damaged(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no model_index.json"):
        DiffusersGenerator(tmp_path)
    damaged = Path(shutil.copytree(tiny_pipeline, tmp_path / "damaged"))
    shutil.rmtree(damaged / "unet")
    with pytest.raises(InputError, match="The pipeline 'damaged' cannot be loaded"):
        DiffusersGenerator(damaged)(["a"], [1])
    (damaged / "model_index.json").write_text("{")
    with pytest.raises(InputError, match=r"model_index.json of the generator is not valid JSON"):
        DiffusersGenerator(damaged)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "model_index.json",
            {"_class_name": "FooPipeline"},
            r"'damaged' is a FooPipeline, which diffusers .* upgrade",
        ),
        ("model_index.json", {}, r"model_index.json of the generator names no class"),
        ("model_index.json", {"_class_name": ["code", "Pipe"]}, r"names code of its own .*, which is not run"),
        ("model_index.json", [], r"model_index.json of the generator is not a JSON object"),
        ("scheduler/scheduler_config.json", {}, r"scheduler_config.json of the generator names no class"),
        ("unet/config.json", {"block_out_channels": 3}, r"The pipeline 'damaged' cannot be loaded"),
        ("vae/config.json", {"block_out_channels": 3}, r"The pipeline 'damaged' cannot be loaded"),
    ],
)
def test_configurations_that_are_damaged(
    tiny_pipeline: Path, tmp_path: Path, file: str, content: object, said: str
) -> None:
    damaged = Path(shutil.copytree(tiny_pipeline, tmp_path / "damaged"))
    (damaged / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        DiffusersGenerator(damaged)(["a"], [1])


def test_an_image_to_image_repository_draws_from_text(
    generator: DiffusersGenerator, tiny_pipeline: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "image-to-image"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionImg2ImgPipeline"}))
    images = DiffusersGenerator(folder, num_inference_steps=3)(PROMPTS, SEEDS)
    assert (pixels(images) == pixels(generator(PROMPTS, SEEDS))).all()


def test_a_pipeline_without_prompts_is_refused(tmp_path: Path) -> None:
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "unconditional")
    with pytest.raises(InputError, match="is a DDPMPipeline, which does not draw from text alone"):
        DiffusersGenerator(tmp_path / "unconditional")(["a"], [1])


def test_a_pipeline_without_guidance_says_so(tiny_pipeline: Path) -> None:
    class Unguided:
        def __call__(self, prompt: list[str], generator: object, num_inference_steps: int, output_type: str) -> None:
            raise AssertionError

    generator = DiffusersGenerator(tiny_pipeline)
    generator.__dict__["pipeline"] = Unguided()
    with pytest.raises(InputError, match="is a Unguided, which takes no guidance_scale; give another pipeline"):
        generator(["a"], [1])


def test_a_wrapped_pipeline_that_hides_its_arguments_gets_them_all(tiny_pipeline: Path) -> None:
    seen: dict[str, Any] = {}

    def wrapped(**settings: Any) -> types.SimpleNamespace:
        seen.update(settings)
        return types.SimpleNamespace(images=[Image.new("RGB", (8, 8), "red")])

    generator = DiffusersGenerator(tiny_pipeline, guidance_scale=3.0, negative_prompt="b")
    generator.__dict__["pipeline"] = wrapped
    assert len(generator(["a"], [5])) == 1
    assert (seen["prompt"], seen["guidance_scale"], seen["negative_prompt"]) == (["a"], 3.0, ["b"])
    assert [source.initial_seed() for source in seen["generator"]] == [5]


def test_a_prompt_is_encoded_once_for_all_its_siblings(tiny_pipeline: Path) -> None:
    generator = DiffusersGenerator(tiny_pipeline, num_inference_steps=2, negative_prompt="b")
    encoder = generator.pipeline.text_encoder
    texts: list[int] = []
    encoder.register_forward_hook(lambda module, arguments, output: texts.append(len(output[0])))
    whole = generator(["a dog"] * 3 + ["a cat"], [1, 2, 3, 4])
    assert sum(texts) == 3  # two prompts and the negative one
    again = generator(["a cat", "a dog", "a bird"], [4, 1, 9])
    assert sum(texts) == 4
    assert np.abs(pixels(again[:2]) - pixels([whole[3], whole[0]])).max() <= 1


def test_few_step_schedulers_and_no_guidance_draw(tiny_pipeline: Path) -> None:
    generator = DiffusersGenerator(tiny_pipeline, num_inference_steps=1, scheduler="LCMScheduler", guidance_scale=1.0)
    assert pixels(generator(["a dog", "a cat"], [1, 2])).shape == (2, 16, 16, 3)
    assert type(generator.pipeline.scheduler).__name__ == "LCMScheduler"


def test_guidance_is_refused_where_the_model_ignores_it(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "distilled"))
    (folder / "transformer").mkdir()
    (folder / "transformer/config.json").write_text('{"guidance_embeds": false, "patch_size": 1}')
    with pytest.raises(InputError, match=r"guidance_scale 3 was given for 'distilled'.*would ignore it"):
        DiffusersGenerator(folder, guidance_scale=3.0)
    assert DiffusersGenerator(folder).describe()["guidance_scale"] is None
    assert DiffusersGenerator(tiny_pipeline).describe()["guidance_scale"] == 2.0


def test_memory_and_speed_options_change_no_image(tiny_pipeline: Path, generator: DiffusersGenerator) -> None:
    other = DiffusersGenerator(tiny_pipeline, num_inference_steps=3, attention="slicing", autoencoder=["slicing"])
    assert other.describe() == generator.describe()
    assert np.abs(pixels(other(PROMPTS, SEEDS)) - pixels(generator(PROMPTS, SEEDS))).max() <= 1
    assert other.pipeline.vae.use_slicing
    assert DiffusersGenerator(tiny_pipeline, autoencoder=["tiling"]).describe()["tiled"] is True
    assert generator.default_batch_size == 64  # 16 px are small


def test_prompts_that_the_text_encoder_cuts_are_known(tiny_pipeline: Path, tmp_path: Path) -> None:
    generator = DiffusersGenerator(tiny_pipeline, num_inference_steps=1)  # one token a letter, 32 of them
    assert generator.too_long(["a" * 30, "a" * 31, "short"]) == [False, True, False]
    plan = SynthesisPlan(CaptionSet.from_texts(["a" * 40, "short"]), generator.describe(), images_per_caption=1)
    with pytest.warns(UserWarning, match=r"^1 prompts are longer than the 32 tokens"):
        summary = synthesize(plan, generator, tmp_path / "cut", progress=False)
    assert (summary.num_images, summary.num_truncated) == (2, 1)


def test_a_lora_is_merged_and_pinned(tiny_pipeline: Path, tmp_path: Path, generator: DiffusersGenerator) -> None:
    import diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(pipeline.unet)
    )
    drawn = {}
    for scale in (0.0, 1.0):
        other = DiffusersGenerator(tiny_pipeline, num_inference_steps=3, lora=tmp_path / "lora", lora_scale=scale)
        drawn[scale] = pixels(other(PROMPTS, SEEDS))
        described = other.describe()["lora"]
        assert isinstance(described, dict)
        assert (described["name"], described["scale"]) == ("lora", scale)
    plain = pixels(generator(PROMPTS, SEEDS))
    assert np.abs(drawn[0.0] - plain).max() <= 1
    assert np.abs(drawn[1.0] - plain).max() > 1
    (tmp_path / "lora/second.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="holds 2 safetensors files"):
        DiffusersGenerator(tiny_pipeline, lora=tmp_path / "lora")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/x.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(InputError, match="LoRA 'wrong' cannot be merged"):
        DiffusersGenerator(tiny_pipeline, lora=tmp_path / "wrong")(["a"], [1])


def test_a_lora_of_the_hub_is_had_at_its_revision(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer weights may stand in its repository than a folder was drawn with."""
    asked = []

    def snapshot_download(repository: str, revision: str | None = None, **others: Any) -> str:
        asked.append((repository, revision))
        folder = tmp_path / "snapshots" / (revision or "newest")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lora.safetensors").write_bytes(b"")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    newest = DiffusersGenerator(tiny_pipeline, lora="me/lora")
    pinned = DiffusersGenerator(tiny_pipeline, lora="me/lora@c0ffee")
    assert [found.describe()["lora"] for found in (newest, pinned)] == [
        {"name": "me/lora", "revision": revision, "scale": 1.0} for revision in ("newest", "c0ffee")
    ]
    plan = SynthesisPlan(CaptionSet.from_texts(["a dog"]), pinned.describe())
    assert generator_of(plan, tiny_pipeline).describe() == pinned.describe()
    assert asked == [("me/lora", None), ("me/lora", "c0ffee"), ("me/lora", "c0ffee")]
