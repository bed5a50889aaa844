"""Any vision model, of transformers or timm, as a function from images to one vector each; dual encoders to two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, Siglip2ImageProcessor, ViTImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..assets import ENCODERS, find_encoder
from ..errors import InputError, refusing
from ..models import StableRepModel  # noqa: F401  # importing it makes our model known to transformers
from ..models.backbones import BACKBONES, image_shape, read_feature, tower_inputs
from .adapters import load_adapters
from .timm_encoder import is_timm, load_timm

ImageProcessor = Callable[..., Any]
_REPEATABLE = 1e-2  # half precision and other kernels differ by less, a masked quarter of the patches by 0.38


@dataclass(frozen=True)
class VisionEncoder:
    """A vision model with the processor its weights were trained with.

    Attributes:
        model: a vision model of a type in `stablerep_hf.models.BACKBONES`, or one of others' code that takes
            `pixel_values` (B, 3, H, W) and returns `pooler_output`, or the features themselves.
        image_processor: called as `image_processor(images=[PIL, ...], return_tensors="pt")`, returns `pixel_values`.
        name: what results call this encoder.
        dual: the dual encoder (CLIP and its kin) whose vision tower `model` is, if it is one.
        tokenizer: of its texts; None if none was found.
        classes: the class of each feature, if the features are a classifier's logits.
    """

    model: nn.Module
    image_processor: ImageProcessor
    name: str
    dual: nn.Module | None = None
    tokenizer: Any | None = None
    classes: tuple[str, ...] = ()

    @property
    def whole(self) -> nn.Module:
        """Everything that has weights: the dual encoder, or the model."""
        return self.model if self.dual is None else self.dual

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """One forward pass of `pixel_values` (B, 3, H, W), which are moved to the model's device and dtype.

        Returns:
            Features (B, D) float32, read as `stablerep_hf.models.BACKBONES` says of the type. And, from a dual
            encoder, the images (B, E) float32 in the space it shares with texts, not normalised.
        """
        parameter = next(self.model.parameters(), pixel_values)
        pixel_values = pixel_values.to(parameter.device, parameter.dtype)
        inputs = tower_inputs(getattr(self.model, "config", None), pixel_values)
        if self.dual is None:
            return self._features(self.model(**inputs)), None
        # ours cuts patches by itself
        ours = getattr(self.dual.config, "model_type", None) == "stablerep"
        own = {"pixel_values": pixel_values} if ours else inputs
        features: list[Tensor] = []
        # the dual encoder runs its tower and replaces the pooled output by its projection: look in between
        handle = self.model.register_forward_hook(lambda *call: features.append(self._features(call[-1])))
        try:
            projected = self.dual.get_image_features(**own)  # type: ignore[operator]
        finally:
            handle.remove()
        return features[0], _pooled(projected)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Texts (C, E) float32 on the CPU, in the space of the images' second output, not normalised.

        Raises:
            InputError: the encoder has no text tower, or its tokenizer is not there.
        """
        if self.dual is None or self.tokenizer is None:
            raise InputError(
                f"The encoder {self.name!r} "
                + ("has no text tower" if self.dual is None else "came without a tokenizer that fits its text tower")
                + ", so images cannot be compared with them; give a dual encoder such as CLIP, with its tokenizer, or "
                "leave this protocol out."
            )
        config: Any = self.dual.config
        # SigLIP learned with every text padded to 64 tokens and no mask; the others know what padding is
        siglip = str(config.text_config.model_type).startswith("siglip")
        taken = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        length = getattr(config.text_config, "max_position_embeddings", None)
        device = next(self.dual.parameters()).device
        chunks = []
        with inference(self.dual):
            for start in range(0, len(texts), batch_size):
                tokens = self.tokenizer(
                    list(texts[start : start + batch_size]),
                    padding="max_length" if siglip else True,
                    truncation=True,
                    max_length=length,
                    return_tensors="pt",
                )
                known = {name: tokens[name].to(device) for name in taken if name in tokens}
                chunks.append(_pooled(self.dual.get_text_features(**known)).cpu())  # type: ignore[operator]
        return torch.cat(chunks)

    @property
    def feature(self) -> str:
        """How the feature of an image is read, in words."""
        known = BACKBONES.get(str(getattr(getattr(self.model, "config", None), "model_type", None)))
        return known.description if known else f"what {type(self.model).__name__} returns"

    def _features(self, outputs: Any) -> Tensor:
        config: Any = getattr(self.model, "config", None)
        if isinstance(outputs, Tensor):
            return outputs.flatten(1).float()
        if getattr(config, "model_type", None) in BACKBONES:
            return read_feature(config, outputs).float()
        pooled = getattr(outputs, "pooler_output", None)
        if type(self.model).__module__.startswith("transformers.models."):
            pooled = None  # some are random, others of weights that nobody trained
        if pooled is None:
            raise InputError(
                f"The encoder {self.name!r} is a {type(self.model).__name__}, and how it gives the feature of an "
                f"image is not known; give a model of one of the types {', '.join(sorted(BACKBONES))}, or of code "
                "that returns pooler_output."
            )
        return pooled.flatten(1).float()  # type: ignore[no-any-return]


def load_encoder(
    encoder: str | Path | nn.Module | VisionEncoder,
    image_processor: ImageProcessor | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> VisionEncoder:
    """Bring whatever names an encoder into the one form that is measured.

    Of a dual encoder (CLIP and its kin, the pre-training model of this package) the vision tower gives the features;
    protocols with texts use its shared space. A weight that the features depend on and the checkpoint lacks is an
    error. timm's models give what their classifier would read (`num_classes=0`), prepared as their own evaluation
    prepares images.

    Args:
        encoder: a name of `assets.ENCODERS`; a folder or Hub id of transformers; `timm/NAME`, `hf-hub:OWNER/NAME` or
            a folder that timm saved; a model; or an encoder loaded before.
        image_processor: required with a model; by default read from the folder or repository.
        name: what results call it; default the id, the folder's name or the class.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the modelling code that the folder or repository carries.
        device: where a loaded encoder goes; default the accelerator if there is one. A given model stays where it is.

    Raises:
        InputError: no such folder or repository, weights are missing, no image input, a model without processor, one
            of a type without a known feature, or one whose features of an image differ from call to call.
    """
    if isinstance(encoder, VisionEncoder):
        return encoder
    tokenizer = None
    if isinstance(encoder, nn.Module):
        if image_processor is None:
            raise InputError(
                f"A {type(encoder).__name__} came without an image processor, so its input size and normalisation are "
                "unknown; pass image_processor, or the folder that holds both."
            )
        model = encoder
    else:
        prepared_by = source = find_encoder(str(encoder))
        if timm_model := is_timm(source):
            model, loaded_processor = load_timm(source, revision)
        elif (Path(source) / "adapter_config.json").is_file():
            adapted, prepared_by = load_adapters(Path(source), AutoModel)
            model = adapted.merge_and_unload()
        else:
            model = _load_model(source, revision, trust_remote_code)
        move(model, device)
        if image_processor is None:
            image_processor = (
                loaded_processor if timm_model else load_image_processor(prepared_by, revision, trust_remote_code)
            )
        if _is_dual(model):
            tokenizer = _load_tokenizer(model, source, revision, trust_remote_code)
    if name is None:
        if isinstance(encoder, nn.Module):
            name = type(encoder).__name__
        else:
            ships = str(encoder) in ENCODERS
            name = Path(encoder).resolve().name if Path(encoder).is_dir() and not ships else str(encoder)
    tower = _vision_tower(model, name)
    whole = model if _is_dual(model) and tower is not model else None
    config: Any = getattr(tower, "config", None)
    if isinstance(image_processor, Siglip2ImageProcessor):
        image_processor = _fixed_size_processor(config, image_processor)
    vision = VisionEncoder(tower, image_processor, name, whole, tokenizer)
    _check_repeatable(vision)
    return vision


def _fixed_size_processor(config: Any, processor: Any) -> ViTImageProcessor:
    """SigLIP 2's patches are cut where the model is called: its processor would hand over patches of any shape."""
    _, height, width = image_shape(config)
    return ViTImageProcessor(
        size={"height": height, "width": width}, image_mean=processor.image_mean, image_std=processor.image_std
    )


def _check_repeatable(vision: VisionEncoder) -> None:
    """Refuse an encoder that reads another part of an image at each call, as masked autoencoders do."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = vision.image_processor(images=[Image.fromarray(noise)], return_tensors="pt")["pixel_values"]
    with inference(vision.whole):
        one, other = vision.encode(pixels)[0], vision.encode(pixels)[0]
    difference = float((one - other).norm() / one.norm().clamp(min=1e-12))
    if difference > _REPEATABLE:
        raise InputError(
            f"The encoder {vision.name!r} gives features of one image that differ by {difference:.2g} of their length "
            "from call to call, so its scores would be chance; give an encoder that reads the whole image each time."
        )


def pixel_encoder(size: int = 8) -> VisionEncoder:
    """The picture itself, shrunk to `size` x `size` colours, as an encoder of 3 size^2 features in [-1, 1].

    Measure it beside every encoder: it shows how much of a score colour and layout alone give. An encoder that does
    not beat it has learned nothing that this data set can show.
    """
    processor = ViTImageProcessor(
        size={"height": size, "width": size}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    return VisionEncoder(_Pixels(), processor, f"{size} x {size} pixels")


class _Pixels(nn.Module):
    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=pixel_values.flatten(1))


def default_device() -> torch.device:
    """The accelerator if this machine has one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


def move(model: nn.Module, device: str | torch.device | None) -> None:
    """Bring a model to a device, the accelerator if None and there is one.

    Raises:
        InputError: there is no such device.
    """
    with refusing(  # of a name unknown, of a driver not found, of torch without it
        f"The device {str(device)!r} cannot be used",
        "name one that this machine has, such as cpu, or none for its fastest",
        (RuntimeError, AssertionError),
    ):
        model.to(device if device is not None else default_device())


@contextmanager
def inference(model: nn.Module, device: str | torch.device | None = None) -> Iterator[None]:
    """No gradients and eval mode inside; afterwards each module's own mode, and the model's device, are as before."""
    modes = [(module, module.training) for module in model.modules()]
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        model.eval()
        if device is not None:
            model.to(device)
        with torch.inference_mode():
            yield
    finally:
        if device is not None:
            model.to(home)
        for module, training in modes:
            module.training = training  # train() would also reach frozen sub-modules that were in eval mode


def _load_model(source: str, revision: str | None, trust_remote_code: bool) -> nn.Module:
    """The model, with all weights that its features depend on."""
    with refusing(
        f"The encoder {source!r} cannot be loaded",
        "give a folder written by save_pretrained or the id of a Hub repository that this machine can reach",
    ):
        model, report = AutoModel.from_pretrained(
            source,
            output_loading_info=True,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,  # a pickle is never read
        )
    tower: Any = _vision_tower(model, source)
    known = BACKBONES.get(str(getattr(getattr(tower, "config", None), "model_type", None)))
    prefix = "" if tower is model else "vision_model."
    unread = tuple(prefix + name for name in (("pooler.",) if known and known.options else ()))
    unread += tuple(prefix + name for name in (known.unused if known else ()))
    if missing := {name for name in report["missing_keys"] if not name.startswith(unread)}:
        raise InputError(
            f"The encoder {source!r} lacks weights for {len(missing)} tensors such as {min(missing)!r}, which would "
            "be random; give a checkpoint whose architecture matches its config.json."
        )
    return model  # type: ignore[no-any-return]


def load_image_processor(source: str, revision: str | None, trust_remote_code: bool) -> ImageProcessor:
    """Read the image processor that lies beside weights; the arguments are those of `load_encoder`.

    Raises:
        InputError: there is none.
    """
    with refusing(
        f"The encoder {source!r} has no image processor that transformers can read",
        "save one beside the weights or pass image_processor",
    ):
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-any-return, no-untyped-call]
            source, revision=revision, trust_remote_code=trust_remote_code
        )


def _load_tokenizer(model: nn.Module, source: str, revision: str | None, trust_remote_code: bool) -> Any | None:
    """The tokenizer, or None: who only wants the images' features needs none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # where its files are missing transformers makes one of a few tokens up, and every text becomes the same
    config: Any = model.config
    fits = config.text_config.vocab_size / 2 <= len(tokenizer) <= config.text_config.vocab_size
    return tokenizer if fits else None


def _is_dual(model: nn.Module) -> bool:
    # the pre-training model of this package has the methods even where it has no text tower
    return (
        hasattr(model, "get_image_features")
        and hasattr(model, "get_text_features")
        and getattr(model, "text_model", None) is not None
        and isinstance(getattr(model, "vision_model", None), nn.Module)
    )


def _pooled(outputs: Any) -> Tensor:
    """Projected features, which transformers returned as a tensor until 4 and returns as `pooler_output` since 5."""
    pooled: Tensor = outputs if isinstance(outputs, Tensor) else outputs.pooler_output
    return pooled.float()


def _vision_tower(model: nn.Module, name: str) -> nn.Module:
    tower = getattr(model, "vision_model", None)
    if isinstance(tower, nn.Module):
        return tower
    if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise InputError(
            f"The encoder {name!r} is a {type(model).__name__}, which takes "
            f"{getattr(model, 'main_input_name', None)!r} and no image; give a vision model."
        )
    return model
