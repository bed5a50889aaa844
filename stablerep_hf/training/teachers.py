"""A frozen encoder whose features and similarities a model is to keep, or to learn."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize
from transformers import PreTrainedModel

from .. import assets
from ..errors import InputError
from ..models import encode_images, load_backbone
from ..models.backbones import image_shape


class Teacher(nn.Module):
    """A vision tower in inference mode, that looks at augmented views the way its own processor prepares images.

    Views are resized to its resolution and normalised with its mean and deviation; they are not cropped once more.

    Args:
        tower: As `load_backbone` reads it.
        mean: Of each channel, of values in [0, 1].
        std: Of each channel.

    Attributes:
        dim: Width of its features.

    Raises:
        InputError: It takes no square colour images, or gives other features at each call.
    """

    def __init__(self, tower: PreTrainedModel, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.tower, self.mean, self.std = tower, mean, std
        self.requires_grad_(False).train()
        channels, height, width = image_shape(tower.config)
        name = type(tower).__name__
        if channels != 3 or height != width:
            raise InputError(
                f"The teacher {name} looks at images of {height} x {width} pixels in {channels} channels, and views "
                "are square and in three colours: choose another `teacher`."
            )
        self.size = height
        noise = torch.rand(1, 3, height, height, generator=torch.Generator().manual_seed(0))
        one, other = (self(noise, [0.0] * 3, [1.0] * 3) for _ in range(2))
        if one.shape != other.shape or not torch.equal(one, other):
            raise InputError(
                f"The teacher {name} gives other features of one image at each call: choose another `teacher`."
            )
        self.dim: int = one.shape[1]

    @classmethod
    def load(cls, source: str, *, trust_remote_code: bool = False) -> Self:
        """Read a teacher.

        Args:
            source: As for `load_backbone`, or a name of `assets.ENCODERS`.
            trust_remote_code: Run the code that the folder or repository brings.

        Raises:
            InputError: There is no such encoder, or it cannot teach.
        """
        try:
            return cls(
                *load_backbone(assets.find_encoder(source), dtype=torch.float32, trust_remote_code=trust_remote_code)
            )
        except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
            raise InputError(f"teacher={source} cannot be used: {error}") from error

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor, mean: list[float], std: list[float], chunk_size: int | None = None) -> Tensor:
        """Features of views.

        Args:
            images: (N, 3, S, S), N >= 0, normalised with `mean` and `std`, those of the model that learns.
            mean: Of each channel.
            std: Of each channel.
            chunk_size: Images at once; None: all.

        Returns:
            (N, dim) float32 without gradient.
        """
        features = []
        with torch.inference_mode():
            for chunk in torch.split(images, chunk_size or max(len(images), 1)):
                views = chunk * chunk.new_tensor(std).view(3, 1, 1) + chunk.new_tensor(mean).view(3, 1, 1)
                if views.shape[-1] != self.size and len(views):
                    views = interpolate(views, (self.size, self.size), mode="bicubic", antialias=True)
                views = views.clamp(0, 1) if len(views) else views.new_zeros(0, 3, self.size, self.size)
                views = normalize(views, self.mean, self.std)
                found = encode_images(self.tower, views).pooler_output
                assert found is not None
                features.append(found.float())
        return torch.cat(features).clone()  # an inference tensor could not be saved for a backward pass
