"""Making the model that a training run starts from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

from .. import assets
from ..assets import EMBEDDED
from ..errors import InputError
from ..setting import refuse_unknown, setting
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
    freeze_layers: int | None = setting(
        None, "With init_from: leave the embeddings and this many of the first blocks as they are."
    )
    lora_rank: int | None = setting(
        None, "With init_from: train low-rank adapters of this rank instead of the encoder (extra: lora)."
    )
    adapter_targets: Literal["attention", "all"] = setting(
        "attention", "What gets adapters: queries and values, or every linear layer of the encoder."
    )
    dora: bool = setting(False, "With lora_rank: weight-decomposed adapters (DoRA).")
    text_init_from: str | None = setting(
        None,
        "Text tower to start from, for stablerep+ and clip: a folder or Hub id of CLIP, SigLIP or a "
        "sentence-transformers model.",
    )
    tokenizer: str | None = setting(
        None,
        "Tokenizer of the text tower, for stablerep+ and clip: a Hub id, a folder, or 'embedded'; that of "
        "text_init_from if not given.",
    )
    text_hidden_size: int = setting(512, "Width of the text tower, a multiple of 64; 512 in the release.")
    text_num_layers: int = setting(12, "Layers of the text tower; 12 in the release.")
    text_max_tokens: int = setting(77, "Longest caption in tokens, the rest is cut; 77 in the release.")
    image_text_dim: int = setting(512, "Width of the space that images and captions meet in; 512 in the release.")
    trust_remote_code: bool = setting(
        False, "Run the code that comes with init_from, text_init_from, tokenizer or teacher."
    )

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> Self:
        """The model of a preset that ships, or of a YAML file.

        Args:
            preset: Name of a preset, see `presets`, or path of a YAML file. What it says of training is passed over.
            settings: Fields of this class that replace the preset's.

        Raises:
            InputError: There is no such preset or setting.
        """
        known = [entry.name for entry in fields(cls)]
        refuse_unknown(settings, known, "a model")
        values = {name: value for name, value in read_config(preset).items() if name in known}
        return cls(**{**values, **settings})


def build_model(
    settings: ModelSettings, seed: int, tokenizer: Any | None = None, *, teacher_dim: int | None = None
) -> tuple[StableRepModel, Any | None]:
    """Make the model that a training run with this seed starts from; adapters are put on by `add_adapters`.

    Args:
        settings: Its sizes.
        seed: Of its random weights.
        tokenizer: Of its text tower; the one that `settings` names by default. Its `model_max_length` is set to
            the length of the text tower.
        teacher_dim: Width of the features of its teacher, if it has one.

    Returns:
        The model, and the tokenizer if it has a text tower.

    Raises:
        InputError: Sizes that do not fit each other or the encoder to start from, or no such encoder or tokenizer.
    """
    import transformers

    from ..models import StableRepConfig, StableRepModel
    from .layers import freeze_layers

    for name in ("freeze_layers", "lora_rank", "dora"):
        if getattr(settings, name) and settings.init_from is None:
            raise InputError(f"{name}={getattr(settings, name)} keeps what an encoder knows: name one by `init_from`.")
    if settings.freeze_layers and settings.lora_rank:
        raise InputError(
            "`lora_rank` leaves the whole encoder as it is, so `freeze_layers` adds nothing: give either."
        )
    if settings.dora and not settings.lora_rank:
        raise InputError("`dora` is a kind of adapter: give their rank by `lora_rank`.")
    text: dict[str, Any] = {}
    texts: Any = None
    if settings.text_init_from is not None:
        texts, text, tokenizer = _pretrained_texts(settings, tokenizer)
    elif tokenizer is None and settings.tokenizer is not None:
        tokenizer = _load_tokenizer(settings.tokenizer, settings.trust_remote_code)
    if texts is None and tokenizer is not None:
        text = {"text_config": _text_config(settings, tokenizer), "image_text_dim": settings.image_text_dim}
    transformers.set_seed(seed)
    head: dict[str, Any] = {
        "projection_hidden_dim": settings.projection_hidden_dim,
        "projection_dim": settings.projection_dim,
        "head_norm": settings.head_norm,
        "teacher_dim": teacher_dim,
        **text,
    }
    try:
        if settings.init_from is not None:
            source = assets.find_encoder(settings.init_from)
            model = StableRepModel.from_backbone(
                source, image_size=settings.image_size, trust_remote_code=settings.trust_remote_code, **head
            )
        else:
            config = StableRepConfig.from_size(
                settings.size, image_size=settings.image_size or 224, patch_size=settings.patch_size, **head
            )
            model = StableRepModel(config)
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    if texts is not None and model.text_model is not None:
        model.text_model.load_state_dict(texts.state_dict())
    if settings.freeze_layers is not None:
        freeze_layers(model, settings.freeze_layers)
    return model, tokenizer


def _pretrained_texts(settings: ModelSettings, tokenizer: Any | None) -> tuple[Any, dict[str, Any], Any]:
    """A pretrained text tower, fields of the configuration that has it, and its tokenizer, set to cut at its end."""
    from ..models.pretrained import load_text_tower
    from ..models.text_towers import max_text_tokens

    try:
        tower, pooling = load_text_tower(str(settings.text_init_from), trust_remote_code=settings.trust_remote_code)
    except ValueError as error:
        raise InputError(f"text_init_from={settings.text_init_from} cannot be used: {error}") from error
    tokenizer = tokenizer or _load_tokenizer(
        settings.tokenizer or str(settings.text_init_from), settings.trust_remote_code
    )
    if len(tokenizer) > tower.config.vocab_size:
        raise InputError(
            f"The tokenizer has {len(tokenizer)} tokens and text_init_from={settings.text_init_from} knows "
            f"{tower.config.vocab_size}: leave `tokenizer` out, or give that of the tower."
        )
    tokenizer.model_max_length = max_text_tokens(tower.config)
    fields = {"text_config": tower.config, "text_pooling": pooling, "image_text_dim": settings.image_text_dim}
    return tower, fields, tokenizer


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
            model: StableRepModel = StableRepModel.from_pretrained(
                source, trust_remote_code=False, use_safetensors=True
            )
            return model
        text = {} if tokenizer is None else {"text_config": _text_config(ModelSettings(), tokenizer)}
        transformers.set_seed(seed)
        return StableRepModel.from_backbone(source, **text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model={name} is not a size ({', '.join(SIZES)}) and cannot be loaded: {str(error).rstrip('.')}."
        ) from error


def _load_tokenizer(name: str, trust_remote_code: bool) -> Any:
    import transformers

    source = assets.generator_path() / "tokenizer" if name == EMBEDDED else name
    try:
        return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
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
