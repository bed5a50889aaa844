"""Finding images: an index of their vectors, exact or a graph, built of any encoder and data set."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
