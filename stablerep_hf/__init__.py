"""StableRep in the Hugging Face ecosystem: captions in, a visual encoder out.

Importing this package imports no torch: every public name is loaded from its room when it is first used.
"""

import os

import lazy_loader

# onnxruntime, which diffusers imports wherever it is installed, reports to its maker unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]
