"""Cards generated from facts, and publishing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset_card import dataset_facts as dataset_facts
    from .dataset_card import render_dataset_card as render_dataset_card
    from .dataset_card import write_dataset_card as write_dataset_card
    from .facts import DatasetFacts as DatasetFacts
    from .facts import Form as Form
    from .facts import LicensedPart as LicensedPart
    from .facts import ModelFacts as ModelFacts
    from .facts import TrainingData as TrainingData
    from .facts import load_facts as load_facts
    from .facts import save_facts as save_facts
    from .model_card import describe_encoder as describe_encoder
    from .model_card import model_index_results as model_index_results
    from .model_card import render_model_card as render_model_card
    from .model_card import write_model_card as write_model_card
    from .publication import Publication as Publication
    from .publication import plan_publication as plan_publication
    from .publishing import publish as publish
    from .space import assemble_space as assemble_space

_EXPORTS = {
    "DatasetFacts": ".facts",
    "Form": ".facts",
    "LicensedPart": ".facts",
    "ModelFacts": ".facts",
    "Publication": ".publication",
    "TrainingData": ".facts",
    "assemble_space": ".space",
    "dataset_facts": ".dataset_card",
    "describe_encoder": ".model_card",
    "load_facts": ".facts",
    "model_index_results": ".model_card",
    "plan_publication": ".publication",
    "publish": ".publishing",
    "render_dataset_card": ".dataset_card",
    "render_model_card": ".model_card",
    "save_facts": ".facts",
    "write_dataset_card": ".dataset_card",
    "write_model_card": ".model_card",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
