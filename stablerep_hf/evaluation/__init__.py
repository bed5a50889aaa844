"""Features in, numbers out: kNN, linear probe, retrieval, their intervals, results and reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encoder import VisionEncoder as VisionEncoder
    from .encoder import load_encoder as load_encoder
    from .encoder import pixel_encoder as pixel_encoder
    from .features import Features as Features
    from .features import extract_features as extract_features
    from .figures import image_grid as image_grid
    from .figures import score_plot as score_plot
    from .intervals import bootstrap_interval as bootstrap_interval
    from .intervals import seed_interval as seed_interval
    from .knn import knn_accuracy as knn_accuracy
    from .knn import knn_predict as knn_predict
    from .knn import nearest_neighbours as nearest_neighbours
    from .linear_probe import ProbeResult as ProbeResult
    from .linear_probe import logistic_regression_probe as logistic_regression_probe
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
    from .scoring import EvaluationSettings as EvaluationSettings
    from .tables import results_table as results_table

_EXPORTS = {
    "PROTOCOLS": ".protocols",
    "EvaluationResult": ".results",
    "EvaluationSettings": ".scoring",
    "Features": ".features",
    "ProbeResult": ".linear_probe",
    "RetrievalRecall": ".retrieval",
    "VisionEncoder": ".encoder",
    "bootstrap_interval": ".intervals",
    "combine_seeds": ".results",
    "evaluate_encoder": ".protocols",
    "evaluate_features": ".protocols",
    "extract_features": ".features",
    "image_grid": ".figures",
    "knn_accuracy": ".knn",
    "knn_predict": ".knn",
    "load_encoder": ".encoder",
    "load_results": ".results",
    "logistic_regression_probe": ".linear_probe",
    "nearest_neighbours": ".knn",
    "pixel_encoder": ".encoder",
    "results_table": ".tables",
    "retrieval_recall": ".retrieval",
    "save_results": ".results",
    "score_plot": ".figures",
    "seed_interval": ".intervals",
    "write_report": ".report",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
