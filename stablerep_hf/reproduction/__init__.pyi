from .backbone import write_untrained as write_untrained
from .cells import WITH_TEXT as WITH_TEXT, Cell as Cell, ImageSet as ImageSet, Setting as Setting
from .claims import (
    Claim as Claim,
    Statement as Statement,
    all_settings as all_settings,
    make_claims as make_claims,
)
from .records import Records as Records, pack_results as pack_results, unpack_results as unpack_results
from .report import Study as Study, verdicts_table as verdicts_table, write_study as write_study
from .verdicts import JudgedClaim as JudgedClaim, judge as judge
from .world import Scale as Scale, World as World, read_world as read_world
from .world_checks import check_world as check_world
