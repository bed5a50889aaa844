from .adapters import add_adapters as add_adapters, lora_config as lora_config, save_adapter as save_adapter
from .arguments import StableRepTrainingArguments as StableRepTrainingArguments
from .augmentation import AugmentationRecipe as AugmentationRecipe
from .color import ColorAugmentation as ColorAugmentation
from .fine_tuning import (
    ClassifierProbe as ClassifierProbe,
    FineTuningArguments as FineTuningArguments,
    FineTuningTrainer as FineTuningTrainer,
)
from .grouped_images import GroupedBatchSampler as GroupedBatchSampler, GroupedImages as GroupedImages
from .groups import GroupCollator as GroupCollator
from .model_settings import ModelSettings as ModelSettings, build_model as build_model, load_model as load_model
from .objectives import ObjectiveLoss as ObjectiveLoss
from .presets import presets as presets
from .probe import KnnProbe as KnnProbe, SiblingProbe as SiblingProbe
from .sources import load_caption_groups as load_caption_groups
from .streamed_images import StreamedBatchSampler as StreamedBatchSampler, StreamedImages as StreamedImages
from .teachers import Teacher as Teacher
from .trainer import StableRepTrainer as StableRepTrainer
