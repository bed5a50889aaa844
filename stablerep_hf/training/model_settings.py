"""Making the model that a training run starts from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

from .. import assets
from ..assets import EMBEDDED
from ..errors import InputError
from ..setting import setting
from .presets import read_config

if TYPE_CHECKING:
    from ..models import StableRepModel


@dataclass
class ModelSettings:
    """Sizes of a model, and what its weights start from."""

    size: Literal["micro", "tiny", "small", "base", "large"] = setting("base", "Size of the Vision Transformer.")
    image_size: int | None = setting(
        None, "Edge of a training crop, in pixels; 224, or what the encoder of --init_from was made for."
    )
    patch_size: int = setting(16, "Edge of a patch, in pixels.")
    projection_hidden_dim: int = setting(4096, "Width of the projection head.")
    projection_dim: int = setting(256, "Width of the space that the image loss compares in.")
    head_norm: Literal["batch_per_sibling", "batch", "layer"] = setting(
        "batch_per_sibling", "Normalisation in the projection head; the paper's by default."
    )
    init_from: str | None = setting(
        None,
        "Encoder to start from, which brings its own size, patches and normalisation: a folder or Hub id of "
        "transformers or timm (ViT, DINOv2, DINOv3, SigLIP, CLIP, ConvNeXt and others), 'embedded' or "
        "'embedded-stablerep'.",
    )
    tokenizer: str | None = setting(
        None, "Tokenizer of the text tower, for stablerep+ and clip: a Hub id, a folder, or 'embedded'."
    )
    text_hidden_size: int = setting(512, "Width of the text tower, a multiple of 64; 512 in the release.")
    text_num_layers: int = setting(12, "Layers of the text tower; 12 in the release.")
    text_max_tokens: int = setting(77, "Longest caption in tokens, the rest is cut; 77 in the release.")
    image_text_dim: int = setting(512, "Width of the space that images and captions meet in; 512 in the release.")

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> Self:
        """The model of a preset that ships, or of a YAML file.

        Args:
            preset: Name of a preset, see `presets`, or path of a YAML file. What it says of training is passed over.
            settings: Fields of this class that replace the preset's.

        Raises:
            InputError: There is no such preset.
        """
        known = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in read_config(preset).items() if name in known}
        return cls(**{**values, **settings})


def build_model(settings: ModelSettings, seed: int, tokenizer: Any | None = None) -> tuple[StableRepModel, Any | None]:
    """Make the model that a training run with this seed starts from.

    Args:
        settings: Its sizes.
        seed: Of its random weights.
        tokenizer: Of its text tower; the one that `settings` names by default. Its `model_max_length` is set to
            `text_max_tokens`.

    Returns:
        The model, and the tokenizer if it has a text tower.

    Raises:
        InputError: Sizes that do not fit each other or the encoder to start from, or no such encoder or tokenizer.
    """
    import transformers

    from ..models import StableRepConfig, StableRepModel

    text: dict[str, Any] = {}
    if tokenizer is None and settings.tokenizer is not None:
        tokenizer = _load_tokenizer(settings.tokenizer)
    if tokenizer is not None:
        text = {"text_config": _text_config(settings, tokenizer), "image_text_dim": settings.image_text_dim}
    transformers.set_seed(seed)
    head: dict[str, Any] = {
        "projection_hidden_dim": settings.projection_hidden_dim,
        "projection_dim": settings.projection_dim,
        "head_norm": settings.head_norm,
        **text,
    }
    try:
        if settings.init_from is not None:
            source = assets.find_encoder(settings.init_from)
            return StableRepModel.from_backbone(source, image_size=settings.image_size, **head), tokenizer
        config = StableRepConfig.from_size(
            settings.size, image_size=settings.image_size or 224, patch_size=settings.patch_size, **head
        )
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    return StableRepModel(config), tokenizer


def load_model(name: str, seed: int, tokenizer: Any | None = None) -> StableRepModel:
    """Load or make a model by a single name.

    Args:
        name: A size of `StableRepConfig.from_size` for random weights, or a folder or Hub id: of a `StableRepModel`,
            which is loaded whole, or of an encoder, which gets a new projection head.
        seed: Of random weights.
        tokenizer: Of the text tower of a new model; none if not given.

    Raises:
        InputError: There is no such model.
    """
    import transformers

    from ..models import StableRepModel
    from ..models.configuration_stablerep import SIZES

    if name in SIZES:
        size: Any = name
        return build_model(ModelSettings(size=size), seed, tokenizer)[0]
    source = assets.find_encoder(name)
    try:
        config: Any = None
        with suppress(OSError, ValueError):  # a checkpoint of timm, or none
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config is not None and config.model_type == "stablerep":
            model: StableRepModel = StableRepModel.from_pretrained(source, trust_remote_code=False)
            return model
        text = {} if tokenizer is None else {"text_config": _text_config(ModelSettings(), tokenizer)}
        transformers.set_seed(seed)
        return StableRepModel.from_backbone(source, **text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model={name} is not a size ({', '.join(SIZES)}) and cannot be loaded: {str(error).rstrip('.')}."
        ) from error


def _load_tokenizer(name: str) -> Any:
    import transformers

    source = assets.generator_path() / "tokenizer" if name == EMBEDDED else name
    try:
        return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"tokenizer={name} is neither a folder nor a repository within reach: check it.") from error


def _text_config(settings: ModelSettings, tokenizer: Any) -> Any:
    """The text tower for a tokenizer, which is set to cut where the tower ends."""
    import transformers

    if settings.text_hidden_size < 64 or settings.text_hidden_size % 64:
        raise InputError(
            f"text_hidden_size={settings.text_hidden_size} cannot be cut into attention heads of 64: give a multiple "
            "of 64."
        )
    special = tokenizer.num_special_tokens_to_add()
    if settings.text_max_tokens <= special:
        raise InputError(
            f"text_max_tokens={settings.text_max_tokens} leaves no room for text beside the {special} tokens that the "
            "tokenizer adds: give more."
        )
    tokenizer.model_max_length = settings.text_max_tokens
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_size=settings.text_hidden_size,
        intermediate_size=4 * settings.text_hidden_size,
        num_attention_heads=settings.text_hidden_size // 64,
        num_hidden_layers=settings.text_num_layers,
        max_position_embeddings=settings.text_max_tokens,
    )
