"""Search real pictograms by picture with a StableRep encoder.

Stock transformers, datasets and gradio: nothing of stablerep_hf is imported, so the folder is a Space as it stands.
Environment variables: ENCODER (folder or Hub id), DATASET (folder or Hub id), SPLIT, RESULTS (how many are shown).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

_PACKAGE = Path(__file__).parent / ".." / ".." / "stablerep_hf" / "assets"  # in a clone of the repository
ENCODER = os.environ.get("ENCODER", str(_PACKAGE / "encoder"))
DATASET = os.environ.get("DATASET", str(_PACKAGE / "pictograms"))
SPLIT = os.environ.get("SPLIT", "held_out_concepts")
RESULTS = int(os.environ.get("RESULTS", "16"))
MOST_PIXELS = 20_000_000

Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # read from the header, before anything is decoded


class Index:
    """The features of a data set, and what is nearest to a picture.

    Args:
        encoder: Folder or Hub id of a transformers vision model with an image processor.
        dataset: With a column `image`; `caption`, `artist` and `group` are shown where they exist.
    """

    def __init__(self, encoder: str, dataset: Dataset) -> None:
        self.model = AutoModel.from_pretrained(encoder).eval()
        self.processor = AutoImageProcessor.from_pretrained(encoder)
        self.dataset = dataset
        images = (dataset[start : start + 256]["image"] for start in range(0, len(dataset), 256))
        self.features = torch.cat([self.embed(batch) for batch in images])

    @torch.inference_mode()
    def embed(self, images: list[Image.Image]) -> torch.Tensor:
        """Unit features (N, D) float32: the class token."""
        pixels = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        features: torch.Tensor = self.model(**pixels).last_hidden_state[:, 0]
        return torch.nn.functional.normalize(features.float(), dim=1)

    def nearest(self, image: Image.Image, count: int, skip: int | None = None) -> list[tuple[int, float]]:
        """Rows of the data set and their cosine similarity, most similar first, without row `skip`."""
        similarity = (self.features @ self.embed([image])[0]).clone()
        if skip is not None:
            similarity[skip] = -2.0
        values, rows = similarity.topk(min(count, len(similarity) - (skip is not None)))
        return list(zip(rows.tolist(), values.tolist(), strict=True))


@cache
def index() -> Index:
    """The index of the configured data set, made at the first search."""
    return Index(ENCODER, load_dataset(DATASET, split=SPLIT))


def label(row: dict[str, Any]) -> str:
    """What is written below a picture."""
    return " · ".join(str(row[name]) for name in ("caption", "artist") if row.get(name))


def search(image: Image.Image | None, row: int | None = None) -> tuple[list[tuple[Image.Image, str]], list[int], str]:
    """Pictures like this one; `row` if it is one of the data set's own."""
    if image is None:
        return [], [], "Drop a picture, or choose one of the examples."
    found = index().nearest(image, RESULTS, row)
    rows = [index().dataset[place] for place, _ in found]
    labels = [f"{label(entry)} · {similarity:.2f}" for entry, (_, similarity) in zip(rows, found, strict=True)]
    pictures = [(entry["image"].convert("RGB"), text) for entry, text in zip(rows, labels, strict=True)]
    query = "your picture" if row is None else label(index().dataset[row])
    note = f"{len(pictures)} of {len(index().dataset):,} pictures, most like {query} first."
    return pictures, [place for place, _ in found], note


def search_again(shown: list[int], chosen: gr.SelectData) -> tuple[Any, ...]:
    """Search by a result that was clicked."""
    row = shown[chosen.index]
    image = index().dataset[row]["image"].convert("RGB")
    return (image, *search(image, row))


def examples(count: int = 8) -> list[list[Image.Image]]:
    """Pictures spread over the data set."""
    dataset = load_dataset(DATASET, split=SPLIT)
    return [[dataset[int(row)]["image"].convert("RGB")] for row in torch.linspace(0, len(dataset) - 1, count)]


def build_demo() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="StableRep retrieval", analytics_enabled=False) as demo:
        gr.Markdown(
            "# Search pictograms by picture\n"
            "The encoder learned from **synthetic drawings of captions only** (StableRep). What it searches here are "
            "real pictograms by human artists, of concepts it never saw. Click a result to search by it."
        )
        shown = gr.State([])
        with gr.Row():
            with gr.Column(scale=1):
                query = gr.Image(type="pil", label="Query picture", sources=["upload", "clipboard"], height=260)
                button = gr.Button("Search", variant="primary")
                note = gr.Markdown()
            with gr.Column(scale=3):
                gallery = gr.Gallery(
                    label="Most similar pictures",
                    columns=4,
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    allow_preview=False,
                    elem_id="results",
                )
        outputs = [gallery, shown, note]
        gr.Examples(examples(), inputs=query, outputs=outputs, fn=search, run_on_click=True, label="Examples")
        button.click(search, inputs=query, outputs=outputs, api_name="search")
        query.upload(search, inputs=query, outputs=outputs, api_visibility="private")
        gallery.select(search_again, inputs=shown, outputs=[query, *outputs], api_visibility="private")
    return demo


if __name__ == "__main__":
    build_demo().queue(max_size=32).launch(max_file_size="5mb")
