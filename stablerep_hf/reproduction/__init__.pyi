from .cells import PRESETS as PRESETS, WITH_TEXT as WITH_TEXT, Cell as Cell, ImageSet as ImageSet, Setting as Setting
from .claims import (
    QUICK as QUICK,
    TAIL_CAPTIONS as TAIL_CAPTIONS,
    Claim as Claim,
    Scale as Scale,
    Statement as Statement,
    all_settings as all_settings,
    make_claims as make_claims,
)
from .records import Records as Records, pack_results as pack_results, unpack_results as unpack_results
from .report import Study as Study, verdicts_table as verdicts_table, write_study as write_study
from .verdicts import JudgedClaim as JudgedClaim, judge as judge
