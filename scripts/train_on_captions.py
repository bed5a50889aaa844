"""Captions to an encoder in twenty lines of Python: what `stablerep generate` and `stablerep train` do.

    python scripts/train_on_captions.py

Runs in a minute on a laptop with the embedded generator. For the real thing name a Stable Diffusion repository, drop
the prompt templates, and size the model and the batch up (see `stablerep_hf/training/presets/cc12m-1x.yaml`).
"""

from datasets import load_dataset
from transformers import AutoModel

from stablerep_hf import (
    CaptionSet,
    DiffusersGenerator,
    StableRepConfig,
    StableRepModel,
    StableRepTrainer,
    StableRepTrainingArguments,
    SynthesisPlan,
    export_encoder,
    synthesize,
)

OUTPUT = "quickstart"

captions = CaptionSet.from_texts(["a red heart", "a green apple", "a smiling face", "a yellow star", "a blue car"])
generator = DiffusersGenerator("embedded")
plan = SynthesisPlan(captions, generator, images_per_caption=4)
synthesize(plan, generator, f"{OUTPUT}/images")

model = StableRepModel(StableRepConfig.from_size("micro", image_size=32, patch_size=8, projection_hidden_dim=128))
arguments = StableRepTrainingArguments(
    f"{OUTPUT}/checkpoints", captions_per_batch=4, images_per_caption=4, max_steps=20, learning_rate=1e-3
)
StableRepTrainer(model, arguments, load_dataset(f"{OUTPUT}/images", split="train")).train()

export_encoder(model, f"{OUTPUT}/encoder")
print(AutoModel.from_pretrained(f"{OUTPUT}/encoder").config)
