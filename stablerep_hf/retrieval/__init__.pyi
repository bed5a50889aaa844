from .image_index import (
    ImageIndex as ImageIndex,
    embed_image as embed_image,
    index_images as index_images,
    open_image_index as open_image_index,
)
from .vector_index import (
    EXACT_BELOW as EXACT_BELOW,
    RECALL_AT as RECALL_AT,
    IndexFacts as IndexFacts,
    VectorIndex as VectorIndex,
    build_index as build_index,
    open_index as open_index,
    recall_of as recall_of,
)
