"""The paper's claims in small: what is trained, how it is judged, and the report. It trains nothing itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
