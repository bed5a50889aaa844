"""Pre-training: grouped batches, the recipe's augmentation, the objectives, and transformers' Trainer around them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import lora_config as lora_config
    from .adapters import save_adapter as save_adapter
    from .arguments import StableRepTrainingArguments as StableRepTrainingArguments
    from .augmentation import AugmentationRecipe as AugmentationRecipe
    from .color import ColorAugmentation as ColorAugmentation
    from .fine_tuning import ClassifierProbe as ClassifierProbe
    from .fine_tuning import FineTuningArguments as FineTuningArguments
    from .fine_tuning import FineTuningTrainer as FineTuningTrainer
    from .grouped_images import GroupedBatchSampler as GroupedBatchSampler
    from .grouped_images import GroupedImages as GroupedImages
    from .groups import GroupCollator as GroupCollator
    from .objectives import ObjectiveLoss as ObjectiveLoss
    from .probe import KnnProbe as KnnProbe
    from .streamed_images import StreamedBatchSampler as StreamedBatchSampler
    from .streamed_images import StreamedImages as StreamedImages
    from .trainer import StableRepTrainer as StableRepTrainer

_EXPORTS = {
    "AugmentationRecipe": ".augmentation",
    "ColorAugmentation": ".color",
    "ClassifierProbe": ".fine_tuning",
    "FineTuningArguments": ".fine_tuning",
    "FineTuningTrainer": ".fine_tuning",
    "GroupCollator": ".groups",
    "GroupedBatchSampler": ".grouped_images",
    "GroupedImages": ".grouped_images",
    "KnnProbe": ".probe",
    "ObjectiveLoss": ".objectives",
    "StableRepTrainer": ".trainer",
    "StreamedBatchSampler": ".streamed_images",
    "StreamedImages": ".streamed_images",
    "StableRepTrainingArguments": ".arguments",
    "lora_config": ".adapters",
    "save_adapter": ".adapters",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
