__version__: str
from .captions import CaptionSet as CaptionSet, caption_id as caption_id, read_captions as read_captions
from .errors import InputError as InputError
from .evaluation import (
    Columns as Columns,
    EvaluationResult as EvaluationResult,
    Subject as Subject,
    compare_encoders as compare_encoders,
    embed_images as embed_images,
    evaluate_encoder as evaluate_encoder,
)
from .losses import (
    ImageTextContrastiveLoss as ImageTextContrastiveLoss,
    MultiPositiveContrastiveLoss as MultiPositiveContrastiveLoss,
)
from .models import (
    StableRepConfig as StableRepConfig,
    StableRepModel as StableRepModel,
    export_encoder as export_encoder,
)
from .synthesis import (
    CaptionGroupedImages as CaptionGroupedImages,
    DiffusersGenerator as DiffusersGenerator,
    SynthesisPlan as SynthesisPlan,
    synthesize as synthesize,
)
from .training import (
    FineTuningArguments as FineTuningArguments,
    FineTuningTrainer as FineTuningTrainer,
    KnnProbe as KnnProbe,
    ModelSettings as ModelSettings,
    StableRepTrainer as StableRepTrainer,
    StableRepTrainingArguments as StableRepTrainingArguments,
    build_model as build_model,
    load_caption_groups as load_caption_groups,
    presets as presets,
)
