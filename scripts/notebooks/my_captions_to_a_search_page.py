# %% [markdown]
# # My own captions to a search page
#
# A text file of captions becomes a clean caption set, a data set of drawings, an encoder that reads words, and a page
# where the drawings are found by picture or by words. It runs offline in a few minutes, on the small generator that
# ships. Each `# %%` begins a cell in Jupyter (with jupytext), VS Code, PyCharm and Spyder.
#
# Install the package with the page first: `pip install 'stablerep_hf[space]'`.

# %%
from pathlib import Path

from stablerep_hf.captions import CaptionSettings, prepare_captions
from stablerep_hf.runs.generation import GenerationRun
from stablerep_hf.runs.training import TrainingRun
from stablerep_hf.space import SpaceSettings, build_demo, launch
from stablerep_hf.synthesis import GenerationSettings

FOLDER = Path("search")
FOLDER.mkdir(exist_ok=True)

# %% [markdown]
# ## 1. Captions
#
# Put your own here, one a line. Cleaning repairs broken text, merges near duplicates and drops what is too long, names
# a person's data or is blocked; it counts every drop by its reason.

# %%
(FOLDER / "captions.txt").write_text(
    "\n".join(
        [
            "a red heart", "a green apple", "a smiling face", "a yellow star", "a blue car", "a crying face",
            "a black square", "a house with a garden", "a red heart!", "write to me@example.com",
        ]
    ),
    "utf-8",
)  # fmt: skip
prepared = prepare_captions(FOLDER / "captions.txt", CaptionSettings(max_words=40))
print(prepared.num_read, "read,", len(prepared.captions), "kept; dropped:", prepared.dropped)
prepared.save(FOLDER / "captions.parquet")  # and its audit beside it

# %% [markdown]
# ## 2. Drawings
#
# This is `stablerep generate` as an object: the same settings give the same files, and an interrupted run draws what
# is missing. Set `generator` to a pipeline of the Hub for real pictures.

# %%
drawing = GenerationRun(
    GenerationSettings(
        captions=str(FOLDER / "captions.parquet"), images_per_caption=4, output=str(FOLDER / "drawings")
    )
)
print("complete:", drawing.run(progress=False).is_complete)

# %% [markdown]
# ## 3. An encoder that reads words
#
# StableRep+ learns from the captions too, by a text tower, so pictures can be found by words. Forty steps over the
# same few drawings are enough to learn these captions by heart. A real encoder sees many more captions and takes the
# whole preset: then leave out the settings from `captions_per_batch` on.

# %%
training = TrainingRun.from_preset(
    "pictograms-text",
    FOLDER / "encoder",
    data=str(FOLDER / "drawings"),
    captions_per_batch=8,
    max_steps=40,
    learning_rate=0.001,
    logging_steps=20,
    report_to="none",
)
record = training.run()
print("steps:", record["steps"], "- images seen:", record["views_seen"])

# %% [markdown]
# ## 4. The page
#
# Folder of the encoder with both towers, folder of the drawings: the page finds the rest. It serves on this machine
# and sends nothing out. `stablerep publish space` puts the same page on the Hub.

# %%
settings = SpaceSettings(
    title="My captions",
    encoder=str(training.published),
    dataset=str(FOLDER / "drawings"),
    compare=["pixels"],
    example_texts=["a red heart", "a blue car"],
)
page = build_demo(settings)
_, address, _ = launch(page, settings, server_port=0, prevent_thread_lock=True)
print("open", address)

# %% [markdown]
# Programs use the same page:

# %%
from gradio_client import Client  # noqa: E402  # what a program on another machine would do

found = Client(address, verbose=False).predict("a red heart", "all", 4, api_name="/search_by_text")
for picture in found:
    print(f"{picture['score']:.3f}  {picture['caption']}")

# %%
page.close()
