"""What is drawn, with which defaults: one source for generator, plan, `datasets` builder and command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..assets import EMBEDDED
from ..setting import setting

ImageFormat = Literal["jpeg", "png", "webp"]


@dataclass
class GeneratorSettings:
    """Which pipeline draws, and how. The fields' help says what each one means and what None means."""

    generator: str = setting(
        EMBEDDED,
        "Text-to-image pipeline: Hub id or folder in diffusers format, or 'embedded'; or who draws elsewhere: "
        "https://HOST/v1 (OpenAI's images endpoint) or inference:PROVIDER/MODEL (of the Hub).",
    )
    revision: str | None = setting(None, "Branch, tag or commit of the generator's repository.")
    guidance_scale: float | None = setting(
        None, "Classifier-free guidance, 0 or more; 2.0 (the release's) unless the model takes none."
    )
    guidance_interval: list[float] | None = setting(
        None,
        "Guide at noise levels above LOW up to HIGH only, such as 0.28 5.42 (SDXL begins at 14.6); at "
        "all levels if not given.",
    )
    num_inference_steps: int | None = setting(
        None, "Denoising steps; 50 (the release's) unless the embedded generator."
    )
    scheduler: str | None = setting(None, "Name of a diffusers scheduler; the pipeline's own if not given.")
    negative_prompt: str | None = setting(None, "What the images should not show.")
    height: int | None = setting(None, "Pixels; the pipeline's own if not given.")
    width: int | None = setting(None, "Pixels; the pipeline's own if not given.")
    lora: str | None = setting(None, "LoRA to merge in: safetensors file, folder, Hub id or ID@REVISION.")
    lora_scale: float = setting(1.0, "Weight of the LoRA.")
    generator_license: str | None = setting(
        None, "Licence of the generator, for the rows; what its card says if not given. A folder keeps its own."
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None,
        "Data type of the weights; if not given float32, on a GPU the one that they were saved in, and bfloat16 "
        "where that is float32.",
    )
    device: str | None = setting(
        None, "cuda, mps, cpu; the fastest there is if not given. Of several GPUs each worker takes its own."
    )
    attention: str | None = setting(
        None, "'slicing' saves memory; or a backend of diffusers, such as native or flash."
    )
    autoencoder: list[str] | None = setting(
        None, "'slicing' decodes image by image, 'tiling' tile by tile; slicing on a GPU if not given."
    )
    offload: bool = setting(False, "Keep on the GPU only the part that is at work.")
    compile: bool = setting(False, "Compile the denoiser: slow to start, then faster.")


@dataclass
class ServiceSettings:
    """How a generator that is not here is asked: a server or a provider."""

    served_model: str | None = setting(
        None, "What a server that draws calls the model; the only one that it serves if not given."
    )
    concurrency: int = setting(8, "Requests to a service at a time.")
    send_seeds: bool = setting(
        True, "Off for a service that takes no seed or ignores it: rows say that they cannot be redrawn."
    )
    max_images: int | None = setting(
        None, "Images that a service may be asked for in all, over all runs into the folder."
    )
    max_dollars: float | None = setting(None, "The same as a price; needs --dollars-per-image.")
    dollars_per_image: float | None = setting(None, "Price of an image at the service.")


@dataclass
class GenerationSettings(ServiceSettings, GeneratorSettings):
    """A data set of drawn images: captions, generator, plan and folder."""

    captions: str = setting(EMBEDDED, "Text, CSV, JSONL or parquet file, a data set, or 'embedded'.")
    caption_column: str | None = setting(None, "Column of the captions, where the source has several text columns.")
    num_captions: int | None = setting(None, "Use so many captions, spread evenly over the source.")
    images_per_caption: int = setting(
        4, "Images of each caption whose set does not say how many; the release drew 10."
    )
    prompt_templates: list[str] | None = setting(
        None, "Prompts with {caption} in them, one after another for siblings; '{caption}' unless embedded."
    )
    min_sibling_distance: int | None = setting(
        None,
        "Draw an image again with the next seed while its perceptual hash differs from a sibling's in fewer of 64 "
        "bits; at most 16 times a caption.",
    )
    max_sibling_similarity: float | None = setting(
        None, "Draw an image again while its cosine with a sibling is above this, in the features of sibling_encoder."
    )
    sibling_encoder: str | None = setting(
        None, "Encoder of max_sibling_similarity: a Hub id, 'embedded' or 'embedded-stablerep'."
    )
    seed: int = setting(0, "Every image's own seed follows from it.")
    image_format: ImageFormat = setting("jpeg", "How images are stored.")
    stored_size: int | None = setting(
        None, "Pixels of a stored image's shorter side; the release drew 512, stored 256."
    )
    captions_per_shard: int | None = setting(
        None, "Captions in one file, the unit of work and resume; 64, or more from 6.4 million captions."
    )
    output: str = setting("synthetic-images", "Folder of the data set.")
    batch_size: int | None = setting(None, "Images drawn at once; changes no image. What should fit if not given.")
    max_failed_captions: int = setting(
        0, "Captions that may get no picture (skipped and counted) before the run stops."
    )


@dataclass
class SigningSettings:
    """With what image files are signed (C2PA): by `stablerep generate` and by `stablerep verify --repair`."""

    certificate: str | None = setting(
        None, "Sign image files (C2PA): PEM file of the signer's certificate and its issuers'."
    )
    private_key: str | None = setting(None, "PEM file of the certificate's key.")
    timestamp_url: str | None = setting(
        None, "Time-stamping authority (RFC 3161) for the signatures, asked once an image."
    )


@dataclass
class ScoringSettings:
    """Which models measure images: of `stablerep score`, and of `stablerep generate`."""

    alignment_model: str | None = setting(
        None, "CLIP-like model for the column alignment: Hub id or folder, or 'embedded'."
    )
    tokenizer: str | None = setting(None, "Tokenizer of the alignment model, where it has none itself.")
    image_processor: str | None = setting(None, "Image processor of the alignment model, where it has none itself.")
    nsfw_model: str | None = setting(None, "Image classifier for the column nsfw.")
    nsfw_labels: list[str] = setting(["nsfw"], "Labels of that classifier that mean unsafe.")
    diversity_encoder: str | None = setting(
        None, "Vision encoder for the column diversity (Vendi score of siblings), or 'embedded'."
    )
