from .caption_grouped_images import (
    CaptionGroupedImages as CaptionGroupedImages,
    CaptionGroupedImagesConfig as CaptionGroupedImagesConfig,
)
from .comparison import write_comparison as write_comparison
from .diffusers_generator import DiffusersGenerator as DiffusersGenerator
from .estimate import SynthesisEstimate as SynthesisEstimate, estimate_synthesis as estimate_synthesis
from .export import export_parquet as export_parquet, export_webdataset as export_webdataset
from .filters import (
    FilterReport as FilterReport,
    filter_rows as filter_rows,
    filter_stream as filter_stream,
    parse_filter as parse_filter,
)
from .grouping import CaptionGroups as CaptionGroups, group_rows as group_rows
from .inspection import (
    describe_file as describe_file,
    describe_image as describe_image,
    find_caption as find_caption,
    list_captions as list_captions,
)
from .labelling import read_label as read_label
from .plan import SynthesisPlan as SynthesisPlan
from .planning import KnownWords as KnownWords, known_words as known_words, plan_generation as plan_generation
from .protocol import (
    ImageGenerator as ImageGenerator,
    KeepingGenerator as KeepingGenerator,
    TokenizingGenerator as TokenizingGenerator,
    describe_generator as describe_generator,
)
from .provenance import (
    Provenance as Provenance,
    read_provenance as read_provenance,
    sample_captions as sample_captions,
)
from .redrawing import (
    RedrawnImage as RedrawnImage,
    find_row as find_row,
    generator_of as generator_of,
    redraw_image as redraw_image,
)
from .run import SynthesisSummary as SynthesisSummary, check_parts as check_parts, synthesize as synthesize
from .schema import image_features as image_features
from .scorers import (
    AlignmentScorer as AlignmentScorer,
    DiversityScorer as DiversityScorer,
    Scorer as Scorer,
    UnsafeScorer as UnsafeScorer,
    load_scorers as load_scorers,
)
from .scoring import ScoringSummary as ScoringSummary, score_histograms as score_histograms, score_store as score_store
from .seeds import image_seed as image_seed
from .service_generator import ServiceGenerator as ServiceGenerator
from .settings import (
    GenerationSettings as GenerationSettings,
    GeneratorSettings as GeneratorSettings,
    ScoringSettings as ScoringSettings,
    ServiceSettings as ServiceSettings,
    SigningSettings as SigningSettings,
)
from .signing import ContentSigner as ContentSigner, make_signer as make_signer, read_signature as read_signature
from .verification import (
    VerificationReport as VerificationReport,
    open_store as open_store,
    remove_problems as remove_problems,
    verify_store as verify_store,
)
