"""Pre-training: grouped batches, the recipe's augmentation, the objectives, and transformers' Trainer around them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
