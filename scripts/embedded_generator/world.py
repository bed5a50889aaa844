"""What a generator learns from and how: one YAML file a world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stablerep_hf.errors import InputError

from . import principal

Positive = Annotated[int, Field(gt=0)]
PositiveReal = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """One captioned set: what `datasets.load_dataset` reads."""

    data: str
    """Folder, relative to the folder of the data, or the name of a data set on the Hub."""
    split: str = "train"
    subset: str | None = None
    share: PositiveReal = 1.0
    """How much of a batch comes from here, relative to the other sources."""
    wordings: tuple[str, ...] = ("{caption}",)
    """Templates of the prompts, each with the placeholder `{caption}`; one is drawn for each picture."""

    @field_validator("wordings")
    @classmethod
    def _every_wording_holds_the_caption(cls, wordings: tuple[str, ...]) -> tuple[str, ...]:
        for wording in wordings:
            if wording.replace("{caption}", "", 1) == wording or set("{}") & set(wording.replace("{caption}", "")):
                raise ValueError(f"{wording!r} needs the placeholder {{caption}} and no other")
        return wordings


class Autoencoder(_Part):
    """Pictures to latents and back. The latents have image_size / 2 ** (len(widths) - 1) rows."""

    steps: Positive
    batch_size: Positive = 16
    widths: tuple[Positive, ...] = (32, 64, 64)
    latent_channels: Positive = 8
    learning_rate: PositiveReal = 1.2e-3
    kl_weight: PositiveReal = 5e-5
    encoder: Literal["learned", "principal"] = "learned"
    """`principal`: principal components of patches in closed form (see principal.py); the decoder alone is learned."""

    @model_validator(mode="after")
    def _components_fit(self) -> Autoencoder:
        if self.encoder == "principal" and not principal.fits(self.widths, self.latent_channels):
            raise ValueError(
                f"widths {self.widths} cannot hold {self.latent_channels} principal components: give a multiple of "
                f"{principal.GROUPS} channels and two last widths of at least 4 times as many"
            )
        return self


class Text(_Part):
    """Tokenizer and text encoder, in the format of CLIP."""

    vocabulary: Annotated[int, Field(ge=520)] = 2600
    """Tokens; 514 of them are bytes and marks."""
    max_tokens: Annotated[int, Field(gt=2)] = 16
    """With start and end; longer prompts are cut, as in CLIP."""
    width: Positive = 128
    layers: Positive = 2
    heads: Positive = 4


class Denoiser(_Part):
    """The UNet, how it is trained, and for how long."""

    steps: Positive
    batch_size: Positive = 64
    widths: tuple[Positive, ...] = (64, 128)
    attention: tuple[bool, ...] = (True, True)
    """Which levels attend to the words."""
    heads: Positive = 4
    norm_groups: Positive = 16
    pooled_text: bool = False
    """Add the pooled text to the time embedding, which then scales and shifts every block, as a class label would."""
    objective: Literal["v_prediction", "flow"] = "v_prediction"
    noise_mean: float = 0.3
    noise_spread: PositiveReal = 1.2
    """Noise levels are logit-normal with this mean and standard deviation ..."""
    noise_uniform: Share = 0.3
    """... but this share of them is uniform."""
    learning_rate: PositiveReal = 1e-3
    hold: Share = 0.7
    """Share of the steps at the peak learning rate, before it falls to zero along half a cosine."""
    caption_dropout: Share = 0.1
    """Share of empty prompts, so that guidance has something to push away from."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    plain_share: Share = 0.8
    """Share of pictures shown as they are, the others moved or mirrored."""

    @model_validator(mode="after")
    def _one_flag_a_level(self) -> Denoiser:
        if len(self.attention) != len(self.widths):
            raise ValueError(f"{len(self.widths)} widths need as many flags in `attention`, not {len(self.attention)}")
        return self


class Drawing(_Part):
    """How the finished generator is best asked."""

    guidance_scale: PositiveReal = 2.0
    num_inference_steps: Positive = 12


class World(_Part):
    """Everything that decides what comes out of the training, but the machine."""

    image_size: Literal[32, 64]
    pictures: Literal["captioned", "pictograms"] = "captioned"
    """`pictograms` knows the columns, moves and prompts of the pictograms that ship; `captioned` is any other set."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    held_out: tuple[Source, ...] = ()
    """Sets to be measured on: training pictures that look like one of them are dropped."""
    autoencoder: Autoencoder
    text: Text = Text()
    denoiser: Denoiser
    drawing: Drawing = Drawing()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bfloat16 on a GPU and float32 elsewhere; weights are kept in float32 always."""
    seed: int = 0
    save_seconds: PositiveReal = 60
    """Between two checkpoints."""
    look_every: Positive = 5000
    """Steps of the denoiser between two looks: a grid of `shown`, and judgements where a judge is named."""
    shown: tuple[str, ...] = ()
    judge: Literal["none", "imagenet"] = "none"
    judged: Positive = 400
    """Pictures drawn for a judgement during training."""

    def shaping(self, stage: Literal["autoencoder", "denoiser"]) -> dict[str, Any]:
        """Settings that a stage may not change between two calls: how long it takes and how it is watched may."""
        whole = {
            "image_size": self.image_size,
            "pictures": self.pictures,
            "seed": self.seed,
            "sources": [source.model_dump(mode="json", exclude={"data"}) for source in self.sources],
        }
        parts: dict[str, _Part] = {"autoencoder": self.autoencoder}
        if stage == "denoiser":
            parts |= {"text": self.text, "denoiser": self.denoiser}
        for name, part in parts.items():
            values = part.model_dump(mode="json", exclude={"steps", "hold"})
            whole |= {f"{name}.{key}": value for key, value in values.items()}
        return whole


def read_world(path: Path) -> World:
    """Read a world.

    Raises:
        InputError: There is no such file, or it holds something else than a world.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as YAML ({reason}): name a world file.") from error
    try:
        return World.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        found = f"{first['msg']} (found {first['input']!r:.60})"
        raise InputError(f"{path} is no world: `{where}`: {found}; mend it.") from error
