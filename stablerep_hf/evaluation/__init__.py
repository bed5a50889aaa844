"""Features in, numbers out: kNN, probes, few-shot, zero-shot, retrieval, their intervals, results and reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import load_classifier as load_classifier
    from .encoder import VisionEncoder as VisionEncoder
    from .encoder import load_encoder as load_encoder
    from .encoder import pixel_encoder as pixel_encoder
    from .features import Features as Features
    from .features import extract_features as extract_features
    from .few_shot import FewShotResult as FewShotResult
    from .few_shot import few_shot_accuracy as few_shot_accuracy
    from .figures import image_grid as image_grid
    from .figures import score_plot as score_plot
    from .image_transforms import Displacement as Displacement
    from .intervals import bootstrap_interval as bootstrap_interval
    from .intervals import seed_interval as seed_interval
    from .knn import knn_accuracy as knn_accuracy
    from .knn import knn_predict as knn_predict
    from .knn import nearest_neighbours as nearest_neighbours
    from .linear_probe import SYNCLR_C_VALUES as SYNCLR_C_VALUES
    from .linear_probe import ProbeResult as ProbeResult
    from .linear_probe import logistic_regression_probe as logistic_regression_probe
    from .measures import MEASURES as MEASURES
    from .measures import Measure as Measure
    from .metrics import METRICS as METRICS
    from .metrics import eleven_point_map as eleven_point_map
    from .metrics import mean_per_class_accuracy as mean_per_class_accuracy
    from .protocols import DEFAULT_PROTOCOLS as DEFAULT_PROTOCOLS
    from .protocols import PROTOCOLS as PROTOCOLS
    from .protocols import evaluate_encoder as evaluate_encoder
    from .protocols import evaluate_features as evaluate_features
    from .report import write_report as write_report
    from .results import EvaluationResult as EvaluationResult
    from .results import combine_seeds as combine_seeds
    from .results import load_results as load_results
    from .results import save_results as save_results
    from .retrieval import RetrievalRecall as RetrievalRecall
    from .retrieval import retrieval_recall as retrieval_recall
    from .scoring import Columns as Columns
    from .scoring import EvaluationSettings as EvaluationSettings
    from .sgd_probe import SGDProbeResult as SGDProbeResult
    from .sgd_probe import SGDProbeSettings as SGDProbeSettings
    from .sgd_probe import sgd_probe as sgd_probe
    from .sibling_retrieval import SiblingRetrieval as SiblingRetrieval
    from .sibling_retrieval import sibling_retrieval as sibling_retrieval
    from .tables import results_table as results_table
    from .text_retrieval import TextRetrievalRecall as TextRetrievalRecall
    from .text_retrieval import text_retrieval_recall as text_retrieval_recall
    from .zero_shot import zero_shot_scores as zero_shot_scores
    from .zero_shot import zero_shot_weights as zero_shot_weights

_EXPORTS = {
    "Columns": ".scoring",
    "DEFAULT_PROTOCOLS": ".protocols",
    "Displacement": ".image_transforms",
    "EvaluationResult": ".results",
    "EvaluationSettings": ".scoring",
    "Features": ".features",
    "FewShotResult": ".few_shot",
    "MEASURES": ".measures",
    "METRICS": ".metrics",
    "Measure": ".measures",
    "PROTOCOLS": ".protocols",
    "ProbeResult": ".linear_probe",
    "RetrievalRecall": ".retrieval",
    "SGDProbeResult": ".sgd_probe",
    "SGDProbeSettings": ".sgd_probe",
    "SYNCLR_C_VALUES": ".linear_probe",
    "SiblingRetrieval": ".sibling_retrieval",
    "TextRetrievalRecall": ".text_retrieval",
    "VisionEncoder": ".encoder",
    "bootstrap_interval": ".intervals",
    "combine_seeds": ".results",
    "eleven_point_map": ".metrics",
    "evaluate_encoder": ".protocols",
    "evaluate_features": ".protocols",
    "extract_features": ".features",
    "few_shot_accuracy": ".few_shot",
    "image_grid": ".figures",
    "knn_accuracy": ".knn",
    "knn_predict": ".knn",
    "load_classifier": ".classifier",
    "load_encoder": ".encoder",
    "load_results": ".results",
    "logistic_regression_probe": ".linear_probe",
    "mean_per_class_accuracy": ".metrics",
    "nearest_neighbours": ".knn",
    "pixel_encoder": ".encoder",
    "results_table": ".tables",
    "retrieval_recall": ".retrieval",
    "save_results": ".results",
    "score_plot": ".figures",
    "seed_interval": ".intervals",
    "sgd_probe": ".sgd_probe",
    "sibling_retrieval": ".sibling_retrieval",
    "text_retrieval_recall": ".text_retrieval",
    "write_report": ".report",
    "zero_shot_scores": ".zero_shot",
    "zero_shot_weights": ".zero_shot",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
