"""The paper's claims in small: what is trained, how it is judged, and the report. It trains nothing itself."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cells import PRESETS as PRESETS
    from .cells import WITH_TEXT as WITH_TEXT
    from .cells import Cell as Cell
    from .cells import ImageSet as ImageSet
    from .cells import Setting as Setting
    from .claims import QUICK as QUICK
    from .claims import TAIL_CAPTIONS as TAIL_CAPTIONS
    from .claims import Claim as Claim
    from .claims import Scale as Scale
    from .claims import Statement as Statement
    from .claims import all_settings as all_settings
    from .claims import make_claims as make_claims
    from .records import Records as Records
    from .records import pack_results as pack_results
    from .records import unpack_results as unpack_results
    from .report import Study as Study
    from .report import verdicts_table as verdicts_table
    from .report import write_study as write_study
    from .verdicts import JudgedClaim as JudgedClaim
    from .verdicts import judge as judge

_EXPORTS = {
    "Cell": ".cells",
    "Claim": ".claims",
    "ImageSet": ".cells",
    "JudgedClaim": ".verdicts",
    "PRESETS": ".cells",
    "QUICK": ".claims",
    "Records": ".records",
    "Scale": ".claims",
    "Setting": ".cells",
    "Statement": ".claims",
    "Study": ".report",
    "TAIL_CAPTIONS": ".claims",
    "WITH_TEXT": ".cells",
    "all_settings": ".claims",
    "judge": ".verdicts",
    "make_claims": ".claims",
    "pack_results": ".records",
    "unpack_results": ".records",
    "verdicts_table": ".report",
    "write_study": ".report",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
