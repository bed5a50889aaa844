"""The search page: Gradio over `stablerep_hf.retrieval`; a Space in `spaces/retrieval`, here `stablerep demo-app`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
