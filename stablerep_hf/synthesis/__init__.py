"""Captions to images on disk: plan, seeds, generators, the resumable shard store, the `datasets` builder over it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
