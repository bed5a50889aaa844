# %% [markdown]
# # My first encoder
#
# From five captions to an encoder, and to a number that says how good it is. Everything runs offline on a laptop in
# about a minute: the small generator that ships with the package draws, in place of Stable Diffusion. Each `# %%`
# begins a cell in Jupyter (with jupytext), VS Code, PyCharm and Spyder; `python my_first_encoder.py` runs all of them.
#
# Install the package first: `pip install stablerep_hf`, or `pip install --editable .` in a clone.

# %%
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModel

from stablerep_hf import (
    CaptionSet,
    DiffusersGenerator,
    StableRepConfig,
    StableRepModel,
    StableRepTrainer,
    StableRepTrainingArguments,
    SynthesisPlan,
    assets,
    evaluate_encoder,
    export_encoder,
    synthesize,
)
from stablerep_hf.evaluation import image_grid
from stablerep_hf.evaluation.tables import measure_name

# %% [markdown]
# ## 1. Captions
#
# A caption's id is a hash of its text, so the same caption has the same id anywhere. Duplicates are merged.

# %%
captions = CaptionSet.from_texts(
    ["a red heart", "a green apple", "a smiling face", "a yellow star", "a blue car", "a red heart"]
)
print(captions)

# %% [markdown]
# ## 2. Images
#
# A plan fixes what is drawn: four images of each caption. Interrupt this cell and run it again: it draws only what is
# missing. For photos name a pipeline of the Hub, such as `stable-diffusion-v1-5/stable-diffusion-v1-5`.

# %%
generator = DiffusersGenerator("embedded")
plan = SynthesisPlan(captions, generator, images_per_caption=4)
print(synthesize(plan, generator, "first-encoder/images"))

# %% [markdown]
# The images are an ordinary data set: one row an image, the images of one caption (the *siblings*) next to each other.

# %%
images = load_dataset("first-encoder/images", split="train")
siblings: dict[str, list] = {}
for row in images:
    siblings.setdefault(row["caption"], []).append(row["image"])
image_grid(siblings).save("first-encoder/siblings.png")
print(images.features)

# %% [markdown]
# ## 3. Training
#
# The images of one caption attract each other, all others repel. Twenty steps are enough to see the loss fall; the
# preset `pictograms` of `stablerep train` is a full run for these drawings.

# %%
model = StableRepModel(StableRepConfig.from_size("micro", image_size=32, patch_size=8, projection_hidden_dim=128))
arguments = StableRepTrainingArguments(
    "first-encoder/checkpoints",
    captions_per_batch=4,
    images_per_caption=4,
    max_steps=20,
    learning_rate=1e-3,
    logging_steps=5,
    report_to="none",
)
trainer = StableRepTrainer(model, arguments, images)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print("loss:", " -> ".join(f"{loss:.2f}" for loss in losses))

# %% [markdown]
# ## 4. The encoder
#
# It is saved as a plain `ViTModel`: whoever loads it needs transformers and nothing of this package.

# %%
export_encoder(model, "first-encoder/encoder")
encoder = AutoModel.from_pretrained("first-encoder/encoder")
processor = AutoImageProcessor.from_pretrained("first-encoder/encoder")
features = encoder(**processor(images[:4]["image"], return_tensors="pt")).pooler_output
print(type(encoder).__name__, tuple(features.shape))

# %% [markdown]
# ## 5. How good is it?
#
# It is scored on real pictograms: each test image takes the class of its nearest training images, for several numbers
# of neighbours. Chance is about 20 %, and the bare pixels of such drawings reach more than five captions teach. Every
# result carries its interval, and what it was measured on.

# %%
pictograms = {
    split: load_dataset(str(assets.pictograms_path()), split=split).shuffle(seed=0).select(range(200))
    for split in ("train", "held_out_artist")
}
results = evaluate_encoder(
    "first-encoder/encoder",
    pictograms["train"],
    pictograms["held_out_artist"],
    columns={"label": "group"},
    protocols=["knn"],
)
for result in results:
    print(f"{measure_name(result)}: {result.value:.1%} [{result.low:.1%}, {result.high:.1%}]")
