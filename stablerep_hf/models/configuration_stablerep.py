"""Configuration of StableRep models. Travels with saved models as remote code: imports nothing else of the package."""

# no `from __future__ import annotations` here: @strict checks nothing where annotations are text
from typing import Any, Literal

import transformers
from huggingface_hub.dataclasses import strict
from packaging.version import Version
from transformers import CONFIG_MAPPING, AutoConfig, CLIPTextConfig, PreTrainedConfig, ViTConfig

from .backbones import check_vision_config
from .text_towers import TextPooling, check_text_config, default_pooling

LOWEST_TRANSFORMERS = "5.9"  # that the model runs on where the package is not: its weights have had these names since
if Version(transformers.__version__) < Version(LOWEST_TRANSFORMERS):
    raise ImportError(
        f"transformers is {transformers.__version__}, which names the weights of a Vision Transformer differently, so "
        f"this one would come out untrained: install transformers >= {LOWEST_TRANSFORMERS}."
    )

LAYER_NORM_EPS = 1e-6  # of timm's ViT, on which the release trains; ViTConfig's own default is 1e-12
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

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
        vision_config: The vision tower, of a type in `backbones.BACKBONES`, or its fields with their `model_type`
            (a ViT's without). None: ViT-B/16 at 224 pixels.
        text_config: The text tower of StableRep+, of a type in `text_towers.TEXT_TOWERS`, or its fields with their
            `model_type` (CLIP's without). None: no text tower.
        projection_dim: Width of `image_embeds`, the space of the loss between images. Release: `--ssl-emb-dim` 256.
        projection_hidden_dim: Width of the projection head's two hidden layers. Release: `--ssl-mlp-dim` 4096.
        head_norm: Normalisation of the projection head's hidden layers. "batch_per_sibling": batch statistics of the
            k-th images of all captions, for each k (the release, which calls the head once per sibling); "batch":
            statistics of all images of the batch; "layer": LayerNorm, no batch statistics.
        image_text_dim: Width of `image_text_embeds` and `text_embeds`, the space of the image-text loss. Release: 512.
        logit_scale_init_value: Initial logarithm of 1 / temperature of the image-text loss. CLIP and the release:
            ln(1 / 0.07).
        text_pooling: How the feature of a text is read. None: as its type does; a BERT can also give its "first"
            token.
        teacher_dim: Width of a teacher's features, which a linear map makes of the model's own for distillation. None:
            no teacher.
        image_mean: Mean of each channel that images are normalised with, of values in [0, 1]. Release: ImageNet's.
        image_std: Standard deviation of each channel.

    Raises:
        ValueError: Values that do not fit one another, or a value of a wrong type
            (`StrictDataclassFieldValidationError`).
    """

    model_type = "stablerep"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    projection_dim: int = 256
    projection_hidden_dim: int = 4096
    head_norm: Literal["batch_per_sibling", "batch", "layer"] = "batch_per_sibling"
    image_text_dim: int = 512
    logit_scale_init_value: float = 2.6592
    text_pooling: TextPooling | None = None
    teacher_dim: int | None = None
    image_mean: list[float] | tuple[float, ...] = IMAGENET_MEAN
    image_std: list[float] | tuple[float, ...] = IMAGENET_STD

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn dictionaries into configurations and check that all fits."""
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = _config_of({"model_type": "vit", **(self.vision_config or {})})
        check_vision_config(self.vision_config)
        if isinstance(self.text_config, dict):
            self.text_config = _config_of({"model_type": "clip_text_model", **self.text_config})
        if self.text_config is not None:
            self.text_pooling = self.text_pooling or default_pooling(self.text_config)
            check_text_config(self.text_config, self.text_pooling)
        for name in ("projection_dim", "projection_hidden_dim", "image_text_dim", "teacher_dim"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
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


def _config_of(fields: dict[str, Any]) -> PreTrainedConfig:
    model_type = fields["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"transformers {transformers.__version__} knows no model of type {model_type!r}: check the name, or "
            "install a newer transformers."
        )
    if model_type == "vit":
        fields = {"layer_norm_eps": LAYER_NORM_EPS, **fields}
    config: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(fields)
    return config
