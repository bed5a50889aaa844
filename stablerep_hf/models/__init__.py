"""Configuration, model and export. Importing it makes `AutoConfig` and `AutoModel` know "stablerep"."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .backbones import BACKBONES, encode_images
from .configuration_stablerep import StableRepConfig
from .conversion import convert_official_checkpoint
from .export import export_classifier, export_dual_encoder, export_encoder
from .modeling_classification import StableRepForImageClassification
from .modeling_stablerep import StableRepModel, StableRepOutput
from .onnx_export import export_onnx
from .pretrained import load_backbone
from .sibling_batch_norm import SiblingBatchNorm1d

__all__ = [
    "BACKBONES",
    "SiblingBatchNorm1d",
    "StableRepConfig",
    "StableRepForImageClassification",
    "StableRepModel",
    "StableRepOutput",
    "convert_official_checkpoint",
    "encode_images",
    "export_classifier",
    "export_dual_encoder",
    "export_encoder",
    "export_onnx",
    "load_backbone",
]

AutoConfig.register("stablerep", StableRepConfig)
AutoModel.register(StableRepConfig, StableRepModel)
AutoModelForImageClassification.register(StableRepConfig, StableRepForImageClassification)
# saved models take their code along (auto_map in config.json)
StableRepConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
StableRepModel.register_for_auto_class("AutoModel")  # type: ignore[no-untyped-call]
StableRepForImageClassification.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]
