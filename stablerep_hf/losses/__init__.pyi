from .distillation import (
    feature_distillation_loss as feature_distillation_loss,
    similarity_distillation_loss as similarity_distillation_loss,
)
from .image_text import ImageTextContrastiveLoss as ImageTextContrastiveLoss, image_text_loss as image_text_loss
from .multi_positive import (
    MultiPositiveContrastiveLoss as MultiPositiveContrastiveLoss,
    multi_positive_loss as multi_positive_loss,
    similarity_statistics as similarity_statistics,
)
