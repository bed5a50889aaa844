"""Captions to images on disk: plan, seeds, generators, the resumable shard store, the `datasets` builder over it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .caption_grouped_images import CaptionGroupedImages as CaptionGroupedImages
    from .caption_grouped_images import CaptionGroupedImagesConfig as CaptionGroupedImagesConfig
    from .diffusers_generator import DiffusersGenerator as DiffusersGenerator
    from .estimate import SynthesisEstimate as SynthesisEstimate
    from .estimate import estimate_synthesis as estimate_synthesis
    from .export import export_parquet as export_parquet
    from .export import export_webdataset as export_webdataset
    from .filters import FilterReport as FilterReport
    from .filters import filter_rows as filter_rows
    from .filters import parse_filter as parse_filter
    from .grouping import CaptionGroups as CaptionGroups
    from .grouping import group_rows as group_rows
    from .labelling import read_label as read_label
    from .plan import SynthesisPlan as SynthesisPlan
    from .protocol import ImageGenerator as ImageGenerator
    from .protocol import TokenizingGenerator as TokenizingGenerator
    from .provenance import Provenance as Provenance
    from .provenance import read_provenance as read_provenance
    from .redrawing import RedrawnImage as RedrawnImage
    from .redrawing import find_row as find_row
    from .redrawing import generator_of as generator_of
    from .redrawing import redraw_image as redraw_image
    from .run import SynthesisSummary as SynthesisSummary
    from .run import check_parts as check_parts
    from .run import synthesize as synthesize
    from .schema import image_features as image_features
    from .scorers import AlignmentScorer as AlignmentScorer
    from .scorers import DiversityScorer as DiversityScorer
    from .scorers import Scorer as Scorer
    from .scorers import UnsafeScorer as UnsafeScorer
    from .scoring import ScoringSummary as ScoringSummary
    from .scoring import score_histograms as score_histograms
    from .scoring import score_store as score_store
    from .seeds import image_seed as image_seed
    from .signing import ContentSigner as ContentSigner
    from .signing import read_signature as read_signature
    from .verification import VerificationReport as VerificationReport
    from .verification import open_store as open_store
    from .verification import remove_problems as remove_problems
    from .verification import verify_store as verify_store

_EXPORTS = {
    "export_parquet": ".export",
    "export_webdataset": ".export",
    "AlignmentScorer": ".scorers",
    "ContentSigner": ".signing",
    "DiversityScorer": ".scorers",
    "FilterReport": ".filters",
    "Scorer": ".scorers",
    "ScoringSummary": ".scoring",
    "UnsafeScorer": ".scorers",
    "filter_rows": ".filters",
    "parse_filter": ".filters",
    "score_histograms": ".scoring",
    "score_store": ".scoring",
    "CaptionGroupedImages": ".caption_grouped_images",
    "CaptionGroupedImagesConfig": ".caption_grouped_images",
    "CaptionGroups": ".grouping",
    "DiffusersGenerator": ".diffusers_generator",
    "ImageGenerator": ".protocol",
    "Provenance": ".provenance",
    "RedrawnImage": ".redrawing",
    "SynthesisEstimate": ".estimate",
    "SynthesisPlan": ".plan",
    "SynthesisSummary": ".run",
    "TokenizingGenerator": ".protocol",
    "VerificationReport": ".verification",
    "check_parts": ".run",
    "estimate_synthesis": ".estimate",
    "find_row": ".redrawing",
    "generator_of": ".redrawing",
    "group_rows": ".grouping",
    "image_features": ".schema",
    "image_seed": ".seeds",
    "open_store": ".verification",
    "read_label": ".labelling",
    "read_provenance": ".provenance",
    "read_signature": ".signing",
    "redraw_image": ".redrawing",
    "remove_problems": ".verification",
    "synthesize": ".run",
    "verify_store": ".verification",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
