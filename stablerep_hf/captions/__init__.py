"""Caption text in, a `CaptionSet` out: identity, cleaning, duplicates, balancing, audit, writing. Needs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .audit import CaptionAudit as CaptionAudit
    from .audit import audit_captions as audit_captions
    from .balancing import allocate_images as allocate_images
    from .balancing import balance_captions as balance_captions
    from .balancing import caption_groups as caption_groups
    from .caption_set import CaptionSet as CaptionSet
    from .caption_set import read_history as read_history
    from .cleaning import CleaningRules as CleaningRules
    from .cleaning import clean_captions as clean_captions
    from .cleaning import text_classifier as text_classifier
    from .identity import caption_id as caption_id
    from .identity import normalize_caption as normalize_caption
    from .language_model import CaptionWriter as CaptionWriter
    from .language_model import Writing as Writing
    from .near_duplicates import merge_near_duplicates as merge_near_duplicates
    from .reading import read_captions as read_captions
    from .templates import fill_templates as fill_templates
    from .terms import TermMatcher as TermMatcher
    from .terms import read_terms as read_terms

_EXPORTS = {
    "CaptionAudit": ".audit",
    "CaptionSet": ".caption_set",
    "CaptionWriter": ".language_model",
    "CleaningRules": ".cleaning",
    "TermMatcher": ".terms",
    "Writing": ".language_model",
    "allocate_images": ".balancing",
    "audit_captions": ".audit",
    "balance_captions": ".balancing",
    "caption_groups": ".balancing",
    "caption_id": ".identity",
    "clean_captions": ".cleaning",
    "fill_templates": ".templates",
    "merge_near_duplicates": ".near_duplicates",
    "normalize_caption": ".identity",
    "read_captions": ".reading",
    "read_history": ".caption_set",
    "read_terms": ".terms",
    "text_classifier": ".cleaning",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
