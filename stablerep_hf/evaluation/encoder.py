"""Any transformers vision model as a function from images to one vector each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, ViTImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..errors import InputError

ImageProcessor = Callable[..., Any]


@dataclass(frozen=True)
class VisionEncoder:
    """A vision model with the processor its weights were trained with.

    Attributes:
        model: any model that takes `pixel_values` (B, 3, H, W) and returns `pooler_output` or `last_hidden_state`.
        image_processor: called as `image_processor(images=[PIL, ...], return_tensors="pt")`, returns `pixel_values`.
        name: what results call this encoder.
        has_pooler: whether `pooler_output`, if the model gives one, comes of weights of its own.
    """

    model: nn.Module
    image_processor: ImageProcessor
    name: str
    has_pooler: bool = True

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Features (B, D) float32 of `pixel_values` (B, 3, H, W), which are moved to the model's device and dtype.

        `pooler_output` where the model gives it, else the first token (CLS) of `last_hidden_state`.
        """
        parameter = next(self.model.parameters(), pixel_values)
        outputs = self.model(pixel_values=pixel_values.to(parameter.device, parameter.dtype))
        pooled = getattr(outputs, "pooler_output", None) if self.has_pooler else None
        if pooled is None:
            hidden = getattr(outputs, "last_hidden_state", None)
            if hidden is None or hidden.ndim != 3:
                raise InputError(
                    f"The encoder {self.name!r} returns {type(outputs).__name__}, which has neither pooler_output nor "
                    "a last_hidden_state of tokens to take features from; give its vision tower instead."
                )
            pooled = hidden[:, 0]
        return pooled.flatten(1).float()  # type: ignore[no-any-return]  # convolutional models pool to (B, D, 1, 1)


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

    A dual encoder (CLIP and its kin, the pre-training model of this package) is measured by its vision tower. The
    output of a pooler that the checkpoint has no weights for is not used, because transformers fills it with random
    numbers; any other missing weight is an error.

    Args:
        encoder: a folder, a Hub id, a model, or an encoder loaded before.
        image_processor: required with a model; by default read from the folder or repository.
        name: what results call it; default the id, the folder's name or the class.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the modelling code that the folder or repository carries.
        device: where a loaded encoder goes; default the accelerator if there is one. A given model stays where it is.

    Raises:
        InputError: no such folder or repository, weights are missing, no image input, or a model without processor.
    """
    if isinstance(encoder, VisionEncoder):
        return encoder
    if isinstance(encoder, nn.Module):
        if image_processor is None:
            raise InputError(
                f"A {type(encoder).__name__} came without an image processor, so its input size and normalisation are "
                "unknown; pass image_processor, or the folder that holds both."
            )
        model, has_pooler = encoder, True
    else:
        model, has_pooler = _load_model(str(encoder), revision, trust_remote_code)
        model.to(device if device is not None else default_device())
        if image_processor is None:
            try:
                image_processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                    str(encoder), revision=revision, trust_remote_code=trust_remote_code
                )
            except (OSError, ValueError) as error:
                raise InputError(
                    f"The encoder {str(encoder)!r} has no image processor that transformers can read "
                    f"({_first_line(error)}); save one beside the weights or pass image_processor."
                ) from error
    if name is None:
        if isinstance(encoder, nn.Module):
            name = type(encoder).__name__
        else:
            name = Path(encoder).resolve().name if Path(encoder).is_dir() else str(encoder)
    return VisionEncoder(_vision_tower(model, name), image_processor, name, has_pooler)


def pixel_encoder(size: int = 8) -> VisionEncoder:
    """The picture itself, shrunk to `size` x `size` colours, as an encoder of 3 size^2 features in [-1, 1].

    Put it beside every encoder: it shows how much of a score plain colour and layout already give, and whoever does
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


def _load_model(source: str, revision: str | None, trust_remote_code: bool) -> tuple[nn.Module, bool]:
    """The model, and whether all weights of its pooler were in the checkpoint."""
    try:
        model, report = AutoModel.from_pretrained(
            source, output_loading_info=True, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"The encoder {source!r} cannot be loaded ({_first_line(error)}); give a folder written by "
            "save_pretrained or the id of a Hub repository that this machine can reach."
        ) from error
    poolers = {key for key in report["missing_keys"] if "pooler" in key.split(".")}
    if missing := set(report["missing_keys"]) - poolers:
        raise InputError(
            f"The encoder {source!r} lacks weights for {len(missing)} tensors such as {min(missing)!r}, which would "
            "be random; give a checkpoint whose architecture matches its config.json."
        )
    return model, not poolers


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
