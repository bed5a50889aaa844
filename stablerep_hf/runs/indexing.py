"""`stablerep index`: the images of any data set, findable by any encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..assets import EMBEDDED
from .evaluation import NO_CACHE

if TYPE_CHECKING:
    from ..retrieval import ImageIndex


@dataclass
class IndexCommand:
    """Flags of `stablerep index`, beside the data set and the encoder."""

    output: str = field(default="index", metadata={"help": "Folder of the index."})
    split: str = field(default="train", metadata={"help": "Split of the data set; several as a+b."})
    subset: str | None = field(default=None, metadata={"help": "Configuration of a data set that has several."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    exact_below: int = field(
        default=200_000, metadata={"help": "So many images and more get a graph (HNSW) instead of an exact scan."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of an encoder on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the encoder."})
    cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps features, so that a killed run goes on; a folder in HF_HOME if not given, "
            f"'{NO_CACHE}' for none."
        },
    )
    batch_size: int = field(default=128, metadata={"help": "Images in a forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    device: str | None = field(default=None, metadata={"help": "cuda, mps, cpu; the fastest there is if not given."})
    max_bad_images: int = field(default=0, metadata={"help": "Images that may fail to decode before the run stops."})


def run(data: str, encoder: str, command: IndexCommand) -> ImageIndex:
    """Build or open the index.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit, or the folder holds another index.
    """
    from .. import assets
    from ..evaluation import load_encoder
    from ..evaluation.feature_cache import default_cache_dir
    from ..evaluation.tables import public_name
    from ..files.places import check_place
    from ..models import StableRepModel  # noqa: F401  # importing it makes the pre-training model known to transformers
    from ..retrieval import index_images
    from .content import load_images

    cache = None if command.cache == NO_CACHE else command.cache or default_cache_dir()
    check_place("--output", command.output)
    if cache is not None:
        check_place("--cache", cache)
    dataset = load_images(assets.pictograms_path() if data == EMBEDDED else data, command.split, command.subset)
    vision = load_encoder(
        assets.find_encoder(encoder),
        revision=command.revision,
        trust_remote_code=command.trust_remote_code,
        device=command.device,
    )
    return index_images(
        vision,
        dataset,
        command.output,
        image_column=command.image_column,
        names={  # travels with the index, so no path of this machine
            "encoder": public_name(encoder),
            "dataset": public_name(data),
            "split": command.split,
            "subset": command.subset or "",
        },
        exact_below=command.exact_below,
        cache_dir=cache,
        batch_size=command.batch_size,
        num_workers=command.num_workers,
        device=command.device,
        max_bad_images=command.max_bad_images,
    )
