"""StableRep in the Hugging Face ecosystem: captions in, a visual encoder out.

Importing this package imports no torch: every public name is loaded from its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .captions import CaptionSet as CaptionSet
    from .captions import caption_id as caption_id
    from .captions import read_captions as read_captions
    from .errors import InputError as InputError
    from .evaluation import EvaluationResult as EvaluationResult
    from .evaluation import evaluate_encoder as evaluate_encoder
    from .losses import ImageTextContrastiveLoss as ImageTextContrastiveLoss
    from .losses import MultiPositiveContrastiveLoss as MultiPositiveContrastiveLoss
    from .models import StableRepConfig as StableRepConfig
    from .models import StableRepModel as StableRepModel
    from .models import export_encoder as export_encoder
    from .synthesis import CaptionGroupedImages as CaptionGroupedImages
    from .synthesis import DiffusersGenerator as DiffusersGenerator
    from .synthesis import SynthesisPlan as SynthesisPlan
    from .synthesis import synthesize as synthesize
    from .training import StableRepTrainer as StableRepTrainer
    from .training import StableRepTrainingArguments as StableRepTrainingArguments

__version__ = "0.1.0"

_ROOM_OF = {
    "CaptionSet": "captions",
    "caption_id": "captions",
    "read_captions": "captions",
    "InputError": "errors",
    "EvaluationResult": "evaluation",
    "evaluate_encoder": "evaluation",
    "ImageTextContrastiveLoss": "losses",
    "MultiPositiveContrastiveLoss": "losses",
    "StableRepConfig": "models",
    "StableRepModel": "models",
    "export_encoder": "models",
    "CaptionGroupedImages": "synthesis",
    "DiffusersGenerator": "synthesis",
    "SynthesisPlan": "synthesis",
    "synthesize": "synthesis",
    "StableRepTrainer": "training",
    "StableRepTrainingArguments": "training",
}

__all__ = ["__version__", *_ROOM_OF]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_ROOM_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})
