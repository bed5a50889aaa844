from .baselines import untrained_encoder as untrained_encoder
from .catalogue import (
    MEASURES as MEASURES,
    PROTOCOLS as PROTOCOLS,
    Measure as Measure,
    default_protocols as default_protocols,
)
from .classifier import load_classifier as load_classifier
from .comparison import compare_encoders as compare_encoders
from .embedding import embed_images as embed_images
from .encoder import (
    VisionEncoder as VisionEncoder,
    load_encoder as load_encoder,
    move as move,
    pixel_encoder as pixel_encoder,
)
from .features import (
    ExtractionOptions as ExtractionOptions,
    Features as Features,
    extract_features as extract_features,
)
from .few_shot import FewShotResult as FewShotResult, few_shot_accuracy as few_shot_accuracy
from .figures import image_grid as image_grid, score_plot as score_plot
from .image_transforms import Placement as Placement
from .intervals import bootstrap_interval as bootstrap_interval, seed_interval as seed_interval
from .knn import knn_accuracy as knn_accuracy, knn_predict as knn_predict, nearest_neighbours as nearest_neighbours
from .label_free import (
    label_free_metrics as label_free_metrics,
    lidar as lidar,
    rankme as rankme,
    sibling_gap as sibling_gap,
)
from .linear_probe import (
    SYNCLR_C_VALUES as SYNCLR_C_VALUES,
    ProbeResult as ProbeResult,
    logistic_regression_probe as logistic_regression_probe,
)
from .metrics import (
    eleven_point_map as eleven_point_map,
    mean_per_class_accuracy as mean_per_class_accuracy,
)
from .protocols import evaluate_encoder as evaluate_encoder, evaluate_features as evaluate_features
from .report import write_report as write_report
from .results import (
    EvaluationResult as EvaluationResult,
    combine_seeds as combine_seeds,
    load_results as load_results,
    save_results as save_results,
)
from .retrieval import RetrievalRecall as RetrievalRecall, retrieval_recall as retrieval_recall
from .scoring import Scoring as Scoring
from .settings import (
    METRICS as METRICS,
    Columns as Columns,
    EvaluationSettings as EvaluationSettings,
    Subject as Subject,
)
from .sgd_probe import SGDProbeResult as SGDProbeResult, SGDProbeSettings as SGDProbeSettings, sgd_probe as sgd_probe
from .sibling_retrieval import SiblingRetrieval as SiblingRetrieval, sibling_retrieval as sibling_retrieval
from .tables import results_table as results_table
from .text_retrieval import TextRetrievalRecall as TextRetrievalRecall, text_retrieval_recall as text_retrieval_recall
from .zero_shot import zero_shot_scores as zero_shot_scores, zero_shot_weights as zero_shot_weights
