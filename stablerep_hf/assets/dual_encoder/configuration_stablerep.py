"""Configuration of StableRep models. Travels with saved models as remote code: imports nothing else of the package."""

# no `from __future__ import annotations` here: @strict checks nothing where annotations are text
from typing import Any, Literal

import transformers
from huggingface_hub.dataclasses import strict
from packaging.version import Version
from transformers import CLIPTextConfig, PreTrainedConfig, ViTConfig

LOWEST_TRANSFORMERS = "5.9"  # that the model runs on where the package is not: its weights have had these names since
if Version(transformers.__version__) < Version(LOWEST_TRANSFORMERS):
    raise ImportError(
        f"transformers is {transformers.__version__}, which names the weights of a Vision Transformer differently, so "
        f"this one would come out untrained: install transformers >= {LOWEST_TRANSFORMERS}."
    )

LAYER_NORM_EPS = 1e-6  # of timm's ViT, on which the release trains; ViTConfig's own default is 1e-12

SIZES: dict[str, tuple[int, int, int]] = {
    # hidden_size, num_hidden_layers, num_attention_heads; the MLP is four times as wide
    "micro": (96, 4, 3),  # ours, for pictograms of 32 pixels on a laptop
    "tiny": (192, 12, 3),  # DeiT-Ti; ours, for small data and small machines
    "small": (384, 12, 6),  # these three: StableRep/models_stablerep.py
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


@strict
class StableRepConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What a `StableRepModel` is made of.

    Args:
        vision_config: The Vision Transformer, a `ViTConfig` or its fields. None: ViT-B/16 at 224 pixels.
        text_config: The text tower of StableRep+, a `CLIPTextConfig` or its fields. None: no text tower.
        projection_dim: Width of `image_embeds`, the space of the loss between images. Release: `--ssl-emb-dim` 256.
        projection_hidden_dim: Width of the projection head's two hidden layers. Release: `--ssl-mlp-dim` 4096.
        head_norm: Normalisation of the projection head's hidden layers. "batch_per_sibling": batch statistics of the
            k-th images of all captions, for each k (the release, which calls the head once per sibling); "batch":
            statistics of all images of the batch; "layer": LayerNorm, no batch statistics.
        image_text_dim: Width of `image_text_embeds` and `text_embeds`, the space of the image-text loss. Release: 512.
        logit_scale_init_value: Initial logarithm of 1 / temperature of the image-text loss. CLIP and the release:
            ln(1 / 0.07).

    Raises:
        ValueError: Values that do not fit one another, or a value of a wrong type
            (`StrictDataclassFieldValidationError`).
    """

    model_type = "stablerep"
    sub_configs = {"vision_config": ViTConfig, "text_config": CLIPTextConfig}  # noqa: RUF012

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    projection_dim: int = 256
    projection_hidden_dim: int = 4096
    head_norm: Literal["batch_per_sibling", "batch", "layer"] = "batch_per_sibling"
    image_text_dim: int = 512
    logit_scale_init_value: float = 2.6592

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn dictionaries into configurations and check that all fits."""
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = ViTConfig(**{"layer_norm_eps": LAYER_NORM_EPS, **(self.vision_config or {})})
        if isinstance(self.text_config, dict):
            self.text_config = CLIPTextConfig(**self.text_config)
        _check_vision(self.vision_config)
        if self.text_config is not None:
            _check_text(self.text_config)
        for name in ("projection_dim", "projection_hidden_dim", "image_text_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it is a number of features: give 1 or more.")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    @classmethod
    def from_size(
        cls,
        size: Literal["micro", "tiny", "small", "base", "large"],
        *,
        image_size: int = 224,
        patch_size: int = 16,
        text: bool = False,
        **fields: Any,
    ) -> "StableRepConfig":
        """A configuration by the common name of its Vision Transformer.

        Args:
            size: "micro" (96 wide, 4 layers), "tiny" (192, 12), "small" (384, 12), "base" (768, 12) or "large"
                (1024, 24).
            image_size: Height and width in pixels, a multiple of `patch_size`.
            patch_size: Height and width of a patch in pixels.
            text: With CLIP's text tower (512 wide, 12 layers, 49,408 tokens, 77 positions), for StableRep+.
            fields: Any other field of `StableRepConfig`.

        Raises:
            ValueError: An unknown size.
        """
        if size not in SIZES:
            raise ValueError(f"size is {size!r}, which is not known: choose one of {', '.join(SIZES)}.")
        hidden_size, num_layers, num_heads = SIZES[size]
        vision_config = ViTConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            image_size=image_size,
            patch_size=patch_size,
            layer_norm_eps=LAYER_NORM_EPS,
        )
        if text:
            fields.setdefault("text_config", CLIPTextConfig())
        return cls(vision_config=vision_config, **fields)


def height_and_width(size: Any) -> tuple[int, int]:
    """Both edges of an `image_size` or a `patch_size`, which is a number or a pair."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _check_vision(config: PreTrainedConfig) -> None:
    if config.model_type != "vit":
        raise ValueError(
            f"vision_config is of model type {config.model_type!r}, but the encoder is a Vision Transformer: give "
            "a ViTConfig."
        )
    _check_tower("vision_config", config, ("num_channels",))
    sizes, patches = height_and_width(config.image_size), height_and_width(config.patch_size)
    if any(patch < 1 or size < patch or size % patch for size, patch in zip(sizes, patches, strict=True)):
        raise ValueError(
            f"image_size {config.image_size} cannot be cut into patches of {config.patch_size} pixels: choose a "
            "multiple of patch_size."
        )


def _check_tower(name: str, config: Any, more: tuple[str, ...]) -> None:
    for size in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", *more):
        if getattr(config, size) < 1:
            raise ValueError(
                f"{size} is {getattr(config, size)} in {name}, which leaves nothing of it: give 1 or more."
            )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} cannot be shared out among {config.num_attention_heads} attention "
            "heads: choose a multiple of num_attention_heads."
        )


def _check_text(config: PreTrainedConfig) -> None:
    if config.model_type != "clip_text_model":
        raise ValueError(
            f"text_config is of model type {config.model_type!r}, but the text tower is CLIP's: give a CLIPTextConfig."
        )
    _check_tower("text_config", config, ("vocab_size", "max_position_embeddings"))
    if config.eos_token_id == 2 and config.vocab_size == 49408:
        # OpenAI's CLIP checkpoints name a wrong end-of-text token: CLIPTextModel knows them by this 2
        config.eos_token_id = 49407
    if not isinstance(config.eos_token_id, int) or not 0 <= config.eos_token_id < config.vocab_size:
        raise ValueError(
            f"eos_token_id is {config.eos_token_id} with a vocabulary of {config.vocab_size} tokens, but the feature "
            "of a text is read at its end-of-text token: give the id that the tokenizer ends a text with."
        )
