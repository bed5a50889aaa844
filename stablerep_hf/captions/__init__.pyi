from .audit import CaptionAudit as CaptionAudit, audit_captions as audit_captions
from .balancing import (
    allocate_images as allocate_images,
    balance_captions as balance_captions,
    caption_groups as caption_groups,
)
from .caption_set import CaptionSet as CaptionSet
from .cleaning import (
    CleaningRules as CleaningRules,
    clean_captions as clean_captions,
    text_classifier as text_classifier,
)
from .history import read_history as read_history
from .identity import caption_id as caption_id, normalize_caption as normalize_caption
from .language_model import CaptionWriter as CaptionWriter, Writing as Writing
from .near_duplicates import merge_near_duplicates as merge_near_duplicates
from .preparing import (
    PreparedCaptions as PreparedCaptions,
    prepare_captions as prepare_captions,
)
from .reading import read_captions as read_captions
from .settings import CaptionSettings as CaptionSettings, WritingSettings as WritingSettings
from .templates import fill_templates as fill_templates
from .terms import TermMatcher as TermMatcher, read_terms as read_terms
from .written import write_captions as write_captions
