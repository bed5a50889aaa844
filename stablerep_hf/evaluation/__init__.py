"""Features in, numbers out: kNN, probes, few-shot, zero-shot, retrieval, their intervals, results and reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
