"""StableRep in the Hugging Face ecosystem: captions in, a visual encoder out.

Importing this package imports no torch: every public name is loaded from its room when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]
